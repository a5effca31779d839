"""How Stripe is called: one pinned version, one time-out, and what its errors mean to us."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import stripe
from django.conf import settings

from billing.ways.provider import Unavailable

log = logging.getLogger(__name__)

# What the code was written against, and what the account's webhook is to be set to.
API_VERSION = "2026-10-28.endive"
# To connect, and for each read: somebody waits before a page, or a worker for whom others wait.
TIMEOUT_SECONDS = (3, 8)
# None by the library: an attempt is asked again with its own key, by whoever clicks again or by the
# sweep, so that a Stripe that hangs holds nobody up for longer than one time-out.
RETRIES = 0


@functools.lru_cache(maxsize=1)
def _http() -> stripe.RequestsClient:
    """Keeps its connections, one a thread."""
    return stripe.RequestsClient(timeout=TIMEOUT_SECONDS)


def forget_connections() -> None:
    """Close them; the next call opens another."""
    _http().close()  # type: ignore[no-untyped-call]
    _http.cache_clear()


def client(secret: str) -> stripe.StripeClient:
    """Stripe as an account's API secret opens it."""
    return stripe.StripeClient(
        secret,
        stripe_version=API_VERSION,
        max_network_retries=RETRIES,
        http_client=_http(),
        base_addresses={"api": settings.STRIPE_API} if settings.STRIPE_API else None,
    )


class Refused(Exception):
    """Stripe has answered, and does not do it; `code` is its word for why."""

    def __init__(self, code: str, error: stripe.StripeError) -> None:
        super().__init__(code)
        self.code, self.error = code, error


class KeyUsed(Exception):
    """Stripe knows the key, of a request that said something else."""


@contextmanager
def asking() -> Iterator[None]:
    """A call of the library. Raises Unavailable where nobody knows what became of it, Refused,
    KeyUsed."""
    try:
        yield
    except stripe.IdempotencyError as error:
        # 409: a request with the same key is under way at this moment.
        if error.http_status == 409:
            raise Unavailable("the same is being asked") from error
        raise KeyUsed from error
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        log.error("Stripe does not take the API secret: %s", type(error).__name__)
        raise Unavailable("the account's secret is refused") from error
    except (stripe.CardError, stripe.InvalidRequestError) as error:
        if error.http_status in (409, 429):
            raise Unavailable("busy") from error
        raise Refused(_code(error), error) from error
    except stripe.StripeError as error:
        log.warning("Stripe: %s, %s", type(error).__name__, error.http_status)
        raise Unavailable(type(error).__name__) from error


def _code(error: stripe.StripeError) -> str:
    said = error.json_body.get("error", {}) if isinstance(error.json_body, dict) else {}
    words = (said.get("code"), said.get("decline_code"), said.get("param"))
    return ": ".join(str(word) for word in words if word) or "refused"
