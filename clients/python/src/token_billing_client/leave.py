"""What the platform answers to a gateway that asks before the tokens are spent."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, Self, get_args

import httpx

from token_billing_client.errors import Refused
from token_billing_client.wire import asked_to_wait, object_in, refusal

Decision = Literal["allow", "degrade", "deny"]
# A 403 with such a cause speaks of the key, not of the subscriber.
_OF_THE_KEY = frozenset({"", "forbidden", "wrong_role", "unauthorized"})


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units held for one request until `expires_at`, or why none are.

    `said` is the whole answer: with `degrade` it names the cheaper model or rate.
    """

    id: str
    decision: Decision
    granted: Decimal
    available: Decimal | None
    expires_at: dt.datetime | None
    cause: str
    said: Mapping[str, Any]

    @property
    def allowed(self) -> bool:
        """Whether the request may go on, be it in the cheaper way."""
        return self.decision != "deny"

    @classmethod
    def read(cls, id: str, response: httpx.Response) -> Self:
        """Raises Refused where it is not the platform that answered."""
        try:
            said = response.json()
            if said["decision"] not in get_args(Decision):
                raise ValueError(said["decision"])
            available, expires_at = said.get("available"), said.get("expires_at")
            return cls(
                id=id,
                decision=said["decision"],
                granted=Decimal(said.get("granted") or 0),
                available=None if available is None else Decimal(available),
                expires_at=None if expires_at is None else dt.datetime.fromisoformat(expires_at),
                cause=said.get("cause") or "",
                said=said,
            )
        except (ValueError, KeyError, TypeError, AttributeError, InvalidOperation) as error:
            raise Refused(
                f"{response.url} does not answer like the platform: {response.text[:200]!r}",
                status=response.status_code,
            ) from error


@dataclass(frozen=True, slots=True)
class Leave:
    """Whether a subject may go on with a model, from `authorize`; nothing is held for it.

    `remaining` is what is left, where the platform tells. `retry_after`: seconds, when it is a rate
    limit that refused. `said` is the whole answer: with `degrade` it names the cheaper model or
    rate, with `deny` where to top up.
    """

    decision: Decision
    cause: str
    detail: str
    remaining: Decimal | None
    retry_after: float
    said: Mapping[str, Any]

    @property
    def allowed(self) -> bool:
        """Whether the request may go on, be it in the cheaper way."""
        return self.decision != "deny"

    @classmethod
    def read(cls, response: httpx.Response) -> Self:
        """Raises Refused where the key is, Unavailable where a proxy in between says 429."""
        said = object_in(response)
        cause = str(said.get("cause", ""))
        decision: Decision = "deny"
        if response.is_success:
            decision = "degrade" if said.get("decision") == "degrade" else "allow"
        elif cause in _OF_THE_KEY:
            raise refusal(response)
        return cls(
            decision=decision,
            cause=cause,
            detail=str(said.get("detail", "")),
            remaining=_number(response.headers.get("X-Tokens-Remaining")),
            retry_after=asked_to_wait(response),
            said=said,
        )


def _number(text: str | None) -> Decimal | None:
    try:
        return None if text is None else Decimal(text)
    except InvalidOperation:
        return None
