"""Asks that are as most are, in one message: each of another subscriber, whose first bucket covers
what the request will take, and whose plan sets no other limit. asking.py does all the others.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import psycopg
from django.db import connection, transaction

from metering import context, rate_limits, terms
from metering.context import Caller, Context, Standing
from metering.parsing import Usage
from metering.records import FEW
from metering.terms import Terms
from metering.weighing import Weight
from subscriptions import buckets, reservations_few
from subscriptions.demands import Demand
from subscriptions.units import to_wire


class Wish(NamedTuple):
    """An ask as it was sent; `units_of` says what it takes by a weight, in thousandths, and
    `render(granted, at)` makes its answer but for what is `available`, the last member."""

    name: str
    subject: str
    model: str
    ttl: int
    fingerprint: str
    units_of: Callable[[Weight], int]
    render: Callable[[int, dt.datetime], dict[str, Any]]


class _Steady(NamedTuple):
    place: int
    usage: Usage
    standing: Standing
    units: int


def reserve(
    caller: Caller, wishes: Sequence[Wish], *, wall: dt.datetime
) -> dict[int, dict[str, Any]]:
    """Hold for these asks; answers by place. Those that are missing are left as they were.

    What is remembered of a subject, or read here without a lock, is put to the test by the
    generation of its bucket. Raises KeyRevoked.
    """
    going_by = terms.recall(caller)
    at = going_by.now(wall)
    usages = [
        # What is asked for will be usage of now.
        Usage(wish.name, wish.subject, wish.model, at, 0, 0)
        for wish in wishes
    ]
    known = Context(caller, usages, at=wall)
    steady = _steady(wishes, usages, known, going_by, at)[:FEW]
    if not steady:
        return {}
    demands = {one.place: _demand(one) for one in steady}
    found = [one for one in steady if demands[one.place].pick is None]
    try:
        covered = buckets.cover(list(demands.values()), at=at, grace=going_by.grace)
        if covered is None:
            # Somebody's first bucket does not cover it all: the others go without.
            steady = [one for one in steady if demands[one.place].pick is not None]
            if not steady:
                return {}
        if found and known.not_as_said(going_by.zone, at, {}):
            context.forget(caller.operator_id, {one.usage.subject for one in found})
            return {}
        heads = [wishes[one.place].render(one.units, at) for one in steady]
        asks = [
            _ask(wishes[one.place], demands[one.place], head)
            for one, head in zip(steady, heads, strict=True)
        ]
        # Alone it is a transaction by itself; inside another its failure must not end that one.
        inside = transaction.atomic() if connection.in_atomic_block else contextlib.nullcontext()
        with inside, buckets.failures():
            available = reservations_few.reserve(going_by.packed(caller, at), asks)
    except buckets.Raced:
        context.forget(caller.operator_id, {one.usage.subject for one in steady})
        return {}
    except psycopg.DatabaseError as error:
        if error.sqlstate == terms.STALE:
            terms.forget(caller)
        elif error.sqlstate != reservations_few.UNSTEADY:
            raise
        return {}
    for one in found:
        pick = demands[one.place].pick
        if pick is not None:
            standing = known.newest(one.usage.subject, one.standing)
            context.remember(caller.operator_id, one.usage.subject, standing, pick)
    return {
        one.place: head | {"available": to_wire(left)}
        for one, head, left in zip(steady, heads, available, strict=True)
    }


def _steady(
    wishes: Sequence[Wish],
    usages: Sequence[Usage],
    known: Context,
    going_by: Terms,
    at: dt.datetime,
) -> list[_Steady]:
    """The asks that may go this way, each of another name and subscriber."""
    found: list[_Steady] = []
    names = Counter(wish.name for wish in wishes)
    owners: set[int] = set()
    for place, (wish, usage) in enumerate(zip(wishes, usages, strict=True)):
        standing = known.standings[place] or known.resolve(usage, going_by.zone, at)
        if standing is None or standing.suspended or standing.behind or standing.guarded:
            continue
        policy = standing.period.policy
        # A standing is remembered of a period that was current: not so once the clock passed it.
        if policy is None or policy.windows or standing.period.ends_at <= at:
            continue
        if rate_limits.applies(policy) or names[wish.name] > 1:
            continue
        version = going_by.cards.version_at(policy.rate_card, at)
        weight = version.weight_of(wish.model) if version is not None else None
        units = wish.units_of(weight) if weight is not None else 0
        if units and standing.subscriber_id not in owners:
            owners.add(standing.subscriber_id)
            found.append(_Steady(place, usage, standing, units))
    return found


def _demand(one: _Steady) -> Demand:
    standing = one.standing
    use = (standing.subscriber_id, "", one.usage.id, one.usage.occurred_at, one.units)
    return Demand(standing.subscriber_id, standing.period, False, standing.pick, one.units, [use])


def _ask(wish: Wish, demand: Demand, head: dict[str, Any]) -> reservations_few.Ask:
    assert demand.pick is not None
    said = msgspec.json.encode(head)
    return reservations_few.Ask(
        demand.subscriber_id,
        demand.pick.bucket_id,
        demand.pick.generation,
        demand.units,
        wish.ttl,
        wish.name,
        bytes.fromhex(wish.fingerprint),
        said[:-1] + b',"available":"',
        b'"}',
    )
