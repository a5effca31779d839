"""What stands in the way of an ask besides its subscriber's plan: what the key it comes by may do,
a night without answers, a minor's day.

Looked up only of those whose account says that there is something (subscriptions/guards.py).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

from metering.weighing import matches
from subscriptions import periods
from subscriptions.accounts import Account, Guarded, Terms
from subscriptions.models import SubscriberKey
from subscriptions.reservations import Cap, Room

KEY_CAPPED = "key_capped"
DAY_CAPPED = "minor_capped"
NIGHT = "night_lock"


class Limits(NamedTuple):
    """Why an ask is refused (by the `limit` that is reached, where it is one), or what it has to
    keep within."""

    refused: str = ""
    limit: Room | None = None
    caps: tuple[Cap, ...] = ()


FREE = Limits()


class Wish(NamedTuple):
    """Who asks to use which model; without one ("") any will do."""

    subject: str
    model: str
    account: Account | None


def limits_of(terms: Terms, wishes: Sequence[Wish]) -> list[Limits]:
    """The limits of these, in their order; no query where nobody is guarded."""
    guarded = [w for w in wishes if w.account is not None and w.account.guard is not None]
    if not guarded:
        return [FREE] * len(wishes)
    asked = [w for w in guarded if w.account and w.account.guard and w.account.guard.keys]
    keys: dict[str, SubscriberKey] = {}
    if asked:
        rows = SubscriberKey.objects.filter(
            subscriber_id__in={w.account.subscriber_id for w in asked if w.account},
            subject__in={w.subject for w in asked},
        )
        keys = {key.subject: key for key in rows}
    return [
        FREE
        if wish.account is None or wish.account.guard is None
        else _limits(terms, wish, wish.account.guard, keys.get(wish.subject))
        for wish in wishes
    ]


def _limits(terms: Terms, wish: Wish, guard: Guarded, key: SubscriberKey | None) -> Limits:
    if key is not None and key.revoked_at is not None:
        return Limits("key_revoked")
    if guard.night is not None:
        back = periods.out_of(*guard.night, terms.at, terms.zone)
        if back is not None:
            return Limits(NIGHT, Room(0, "day", "lock", back))
    if key is not None and wish.model and not allows(key, wish.model):
        return Limits("model_not_allowed")
    caps = []
    if guard.day_units is not None:
        since, until = _span("day", terms.at, terms.zone)
        caps.append(Cap(DAY_CAPPED, guard.day_units, "day", since, until))
    cap = cap_of(key, at=terms.at, zone=terms.zone) if key is not None else None
    return Limits(caps=(*caps, cap) if cap is not None else tuple(caps))


def allows(key: SubscriberKey, model: str) -> bool:
    """Whether a key may use a model."""
    patterns = key.allowed_models
    return not patterns or any(matches(pattern, model) for pattern in patterns)


def cap_of(key: SubscriberKey, *, at: dt.datetime, zone: ZoneInfo) -> Cap | None:
    """What a key may use in the day or month of the zone that `at` lies in."""
    if key.cap is None:
        return None
    since, until = _span(key.cap_per, at, zone)
    return Cap(KEY_CAPPED, key.cap, key.cap_per, since, until, key.subject, key.binding_id)


def _span(per: str, at: dt.datetime, zone: ZoneInfo) -> tuple[dt.datetime, dt.datetime]:
    since, until = periods.window(per, at, zone, sliding=False, anchor=at)
    assert until is not None
    return since, until
