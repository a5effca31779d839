"""What a way to pay has to be able to do, and what it answers.

An attempt is written down and committed before its provider is called, and what the provider
answers is written down in another transaction: no call is made inside one. `key` is the attempt's
own, so a call that is made twice, after a crash, is one at the provider too. A provider that is
`local` calls nobody: it is asked in the transaction that grants, and whatever it moves is moved
with that. Others are reached through an account that the operator has at a company: its `Partner`,
which also reads what the company tells by itself.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from billing.ledger import Side
from subscriptions.errors import DomainError


class Fate(StrEnum):
    """What became of an attempt, or of a refund."""

    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a provider is asked for."""

    operator_id: int
    subscriber_id: int
    key: str
    order: str  # its number, for people
    amount: Decimal
    currency: str
    at: dt.datetime
    reference: str = ""  # the provider's own name for it, once there is one
    begun_at: dt.datetime | None = None  # when it was written down
    expires_at: dt.datetime | None = None  # by the operator's clock; nobody may pay after it
    method: str = ""  # the provider's name of a saved method: charged without the payer
    return_url: str = ""  # where the payer is sent back to; nothing is granted there


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider says. `action` is what the payer is to do, as JSON can hold it; `amount` is
    what was paid in fact, where the provider tells."""

    fate: Fate
    reference: str = ""
    action: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    amount: Decimal | None = None
    currency: str = ""


class About(StrEnum):
    """What a notice tells of."""

    PAYMENT = "payment"
    REFUND = "refund"
    DISPUTE = "dispute"
    METHOD = "method"
    NOTHING = "nothing"  # that concerns us: kept, and done with


@dataclass(frozen=True, slots=True)
class Event:
    """A verified notice: `id` is unique at its provider, `key` names the attempt or the refund that
    it is about (our own key, as the provider was told it), `reference` the provider's object."""

    id: str
    about: About
    key: str
    reference: str
    answer: Answer
    occurred_at: dt.datetime
    # Of a dispute: its reason, its due day. Of a method: `happened` (saved, changed, removed) and
    # its `card`, where that is told.
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Saving:
    """A method that a subscriber is about to save; `customer` is the provider's name of the
    subscriber, once there is one."""

    subscriber_id: int
    key: str
    customer: str
    return_url: str
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class Card:
    """What people know a saved card by."""

    brand: str
    last4: str
    exp_year: int | None = None
    exp_month: int | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """A verified notice before anybody has read what it tells."""

    id: str
    kind: str  # in the provider's words


class Unavailable(DomainError):
    """The provider did not answer: nobody knows what became of the call, so it is asked again."""

    status = 503
    cause = "provider_unavailable"

    def __init__(self, detail: str = "the provider did not answer") -> None:
        super().__init__(f"{detail}; nothing is lost, try again in a minute")


class Unverified(Exception):
    """A notice that is not the provider's, is too old, or is not for this account."""


class Unreadable(Exception):
    """A notice that is the provider's and no notice."""


class Provider(Protocol):
    """A way to pay. All but `source` may raise Unavailable."""

    way: str
    local: bool

    def source(self, attempt: Attempt) -> Side:
        """The entry of the money that has come by it."""

    def create(self, attempt: Attempt) -> Answer:
        """Begin an attempt; with a key that it knows, what became of that one."""

    def get(self, attempt: Attempt) -> Answer:
        """What became of an attempt."""

    def cancel(self, attempt: Attempt) -> Answer:
        """Let an attempt not be paid any more; FAILED then, or SUCCEEDED where it was too late."""

    def refund(self, attempt: Attempt, amount: Decimal, *, key: str) -> Answer:
        """Give back a part or all of an attempt that succeeded; again with the key: once."""


class Partner(Protocol):
    """An account at a company that takes payments: the ways it offers, and its notices."""

    ways: tuple[str, ...]

    def provider(self, way: str) -> Provider:
        """One of its ways."""

    def verify(self, headers: Mapping[str, str], body: bytes, *, wall: dt.datetime) -> Notice:
        """Whose notice these bytes are; `wall` is the machine's time. Calls nobody. Raises
        Unverified where they are not the company's, Unreadable where they say nothing."""

    def read(self, body: bytes) -> Event:
        """What verified bytes tell, long after. Calls nobody."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a company says an account's balance moved by: `gross` before `fee`, > 0 came in. `kind`
    is payment, refund, fee, payout, dispute or other; `key` is our own name of it."""

    id: str
    at: dt.datetime
    kind: str
    gross: Decimal
    fee: Decimal
    currency: str
    key: str
    reference: str
    payout: str = ""


@runtime_checkable
class TellsBalance(Protocol):
    """A partner that also tells what moved, as others do in a file."""

    def moved(self, since: dt.datetime, until: dt.datetime) -> Iterator[Moved]:
        """What moved in [since, until), in order. Raises Unavailable."""


@runtime_checkable
class Saves(Protocol):
    """A partner that also keeps methods which are charged later without their owner."""

    def begin_saving(self, saving: Saving) -> Answer:
        """Where the subscriber saves one; `reference` is the customer's. Raises Unavailable."""

    def describe(self, reference: str) -> Card:
        """What people know a saved method by. Raises Unavailable."""

    def forget(self, reference: str) -> None:
        """Let a saved method be charged no more. Raises Unavailable."""
