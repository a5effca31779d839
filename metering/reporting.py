"""Quota slices: one reservation that is drawn down by many reports, and renewed when it runs low.

As in 3GPP TS 32.290: what is granted takes the place of what was left, it is valid for a time, and
the last of it is called final. A report is charged like any usage, each record once; right before
the draw its units leave the slice. The renewal is a transaction of its own: a gateway that gets no
answer reports again, which charges nothing twice and renews what still runs low.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

import psycopg

from metering import asking, guarding
from metering.context import Caller
from metering.ingest import Ingested, Weighed, ingest
from metering.parsing import Parsed
from subscriptions import buckets, reservations
from subscriptions.demands import Period
from subscriptions.errors import Conflict, NotFound
from subscriptions.models import Reservation
from subscriptions.reservations import Held, Moved, Verdict
from subscriptions.units import to_wire

State = Reservation.State
_ATTEMPTS = 20


class NoSlice(Conflict):
    cause = "no_slice"


class Reported(NamedTuple):
    """What was charged, and what the slice is now; `verdict` where it was to be renewed."""

    ingested: Ingested
    slice: Held
    late: bool
    verdict: Verdict | None
    period: Period


def report(caller: Caller, name: str, parsed: Parsed, *, wall: dt.datetime) -> Reported:
    """Charge what was used of a slice, and renew it where it runs low.

    Usage of an ended slice is charged too, and late. Raises NotFound, NoSlice, KeyRevoked.
    """
    found = reservations.find(caller.gateway_id, [name]).get(name)
    if found is None:
        raise NotFound("this gateway has no such reservation; send the records as usage")
    if found.subscriber_id is None or not found.is_slice:
        raise NoSlice("this reservation is no slice; commit it")
    key = (found.subscriber_id, caller.gateway_id, name)
    drawing = _Drawing(key)
    ingested = ingest(
        caller,
        parsed.usages,
        parsed.rejected,
        at=wall,
        indexes=parsed.indexes,
        before_draw=drawing.draw_down,
    )
    for _ in range(_ATTEMPTS):
        try:
            held, verdict, period = _renew(caller, key, found.subject, wall)
        except (Moved, buckets.Raced):
            continue
        return Reported(ingested, held, drawing.late, verdict, period)
    raise psycopg.OperationalError("the renewal was overtaken too often; report again")


def _renew(
    caller: Caller, key: reservations.Key, subject: str, wall: dt.datetime
) -> tuple[Held, Verdict | None, Period]:
    """What the slice is now, and for which period. Raises Moved, Raced, KeyRevoked."""
    terms, found = asking.present(caller, [subject], wall=wall)
    [account] = found
    refused, period, generations = "unknown_subject", asking.no_period(terms), 0
    limits, pooled = guarding.FREE, False
    if account is not None and account.subscriber_id == key[0]:
        # The model was looked at when the slice was asked for.
        [limits] = guarding.limits_of(terms, [guarding.Wish(subject, "", account)])
        refused, period = account.blocked or limits.refused, account.period
        generations, pooled = account.generations, account.pooled
    held, verdict = reservations.renew(
        key,
        period=period,
        at=terms.at,
        rooms=asking.rooms_of(caller, terms),
        refused=refused,
        limit=limits.limit,
        caps=limits.caps,
        generations=generations,
        pooled=pooled,
        still_holds=asking.still_holds(caller, [subject], found, wall=wall),
    )
    return held, verdict, period


def answer(name: str, reported: Reported, charged: dict[str, Any]) -> dict[str, Any]:
    """The body of the 200: that of the usage `charged`, and the slice."""
    held, verdict = reported.slice, reported.verdict
    allowed = verdict is not None and verdict.decision == reservations.ALLOW
    said = {
        **charged,
        "id": name,
        "state": State(held.state).name.lower(),
        "late": reported.late,
        "granted": to_wire(held.granted),
        "expires_at": asking.wire_time(held.expires_at) if held.state == State.OPEN else None,
        "threshold": asking.wire_threshold(held.slice_units or 0, final=held.final),
        "renewed": allowed,
        "final": held.final,
    }
    if verdict is not None and not allowed:
        said["cause"] = verdict.cause
        if verdict.limit is not None:
            said["limit"] = asking.wire_limit(verdict.limit)
        if verdict.decision == reservations.DEGRADE:
            said["degrade_to"] = asking.degrade_to(reported.period)
    return said


class _Drawing:
    """The hook of a report's charge; called again where it is attempted again."""

    def __init__(self, key: reservations.Key) -> None:
        self._key = key
        self._look_first = False
        self.late = False

    def draw_down(self, weighed: Weighed) -> None:
        """Let the units go that are about to be drawn. Raises Raced."""
        used = sum(d.units for d in weighed.demands if d.subscriber_id == self._key[0])
        [held] = reservations.lock(weighed.cursor, [self._key])
        self.late = held.is_late(weighed.at)
        if not used or held.state != State.OPEN:
            return
        try:
            reservations.draw_down(
                weighed.cursor,
                held,
                used,
                weighed.demands,
                at=weighed.at,
                grace=weighed.grace,
                look_first=self._look_first,
            )
        except buckets.Raced:
            self._look_first = True
            raise
