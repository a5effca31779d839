"""The addresses of pay pages: signed, so that nobody guesses one.

A pay page is of one attempt, or, as attempt 0, of an order for which a way is still to be chosen.
What providers send payers back to is of the order alone: it is in their books and logs, and shows
nothing but whether it is paid.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.urls import reverse

from billing.models import Order, PaymentIntent

_ATTEMPT = Signer(salt="billing.checkout.attempt", sep=".")
_ORDER = Signer(salt="billing.checkout.order", sep=".")
_LONGEST = 200


def token_of(intent: PaymentIntent) -> str:
    return _ATTEMPT.sign_object([intent.subscriber_id, intent.order_id, intent.nr])


def token_of_order(order: Order) -> str:
    return _ATTEMPT.sign_object([order.subscriber_id, order.id, 0])


def pay_page(intent: PaymentIntent) -> str:
    """The address of the page on which an attempt is paid."""
    return _ours("pay", token_of(intent))


def pay_path(intent: PaymentIntent) -> str:
    """The same for whoever is here already."""
    return reverse("pay", args=[token_of(intent)])


def path_to_pay(order: Order) -> str:
    """Where whoever is signed in here goes on to choose how an order is paid."""
    return reverse("pay", args=[token_of_order(order)])


def return_url(order: Order) -> str:
    """Where a provider sends the payer of an order back to."""
    return _ours("pay-return", _ORDER.sign_object([order.subscriber_id, order.id]))


def _ours(name: str, token: str) -> str:
    return f"{settings.PUBLIC_URL}{reverse(name, args=[token])}"


def attempt_of(token: str) -> tuple[PaymentIntent | None, Order] | None:
    """The attempt whose page this is the token of; none, where a way is still to be chosen."""
    keys = _opened(_ATTEMPT, token)
    if keys is None:
        return None
    subscriber_id, order_id, nr = keys
    order = _order(subscriber_id, order_id)
    if nr == 0:
        return None, order
    intent = PaymentIntent.objects.select_related("operator", "account").get(
        subscriber_id=subscriber_id, order_id=order_id, nr=nr
    )
    return intent, order


def order_of(token: str) -> Order | None:
    """The order that a payer comes back from paying."""
    keys = _opened(_ORDER, token)
    return None if keys is None else _order(*keys)


def _order(subscriber_id: int, order_id: int) -> Order:
    rows = Order.objects.select_related("operator", "plan", "booster")
    return rows.get(subscriber_id=subscriber_id, id=order_id)


# Where pages of providers are, besides our own for the sandbox's.
_HOSTS = ("stripe.com",)


def may_lead_to(url: str) -> bool:
    """Whether an address that a provider gave is one of its own pages."""
    if url.startswith(f"{settings.PUBLIC_URL}/sandbox/"):
        return True
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme == "https" and any(
        host == own or host.endswith(f".{own}") for own in _HOSTS
    )


def _opened(signer: Signer, token: str) -> list[Any] | None:
    if len(token) > _LONGEST:
        return None
    try:
        keys: list[Any] = signer.unsign_object(token)
    except (BadSignature, ValueError):
        return None
    return keys
