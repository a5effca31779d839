"""Who a batch's subjects are and what they hold: remembered, or read in one query."""

from __future__ import annotations

import datetime as dt
import functools
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from psycopg.types.numeric import Int8

from metering.parsing import EARLIEST, LATEST, Usage
from subscriptions import ceilings, periods, pgarrays
from subscriptions.ceilings import Said
from subscriptions.demands import Mark, Period, Pick
from subscriptions.pgarrays import Texts

# A resend with another time counts as the same record up to so many UTC days away.
NEIGHBOUR_DAYS = 3
# How long before a batch's first usage its subjects' affairs are read too: as far as a resend may
# have occurred. And senders are not in step: what comes next may have happened a little earlier.
HINDSIGHT = dt.timedelta(days=NEIGHBOUR_DAYS + 1, hours=1)
# Subjects that a process remembers, per operator: about 60 MB when full.
REMEMBERED = 200_000


class Caller(NamedTuple):
    """The gateway that sent something, and the subject its key may be bound to."""

    operator_id: int
    gateway_id: int
    key_id: int
    subject: str = ""


class Binding(NamedTuple):
    """What a subject stands for, and for how long."""

    id: int
    subscriber_id: int
    valid_from: dt.datetime | None
    valid_until: dt.datetime | None


@dataclass(slots=True)
class Holding:
    """A subscriber's periods with their plans, suspensions, and what is not opened or turned."""

    periods: list[Period] = field(default_factory=list)
    suspensions: list[tuple[dt.datetime, dt.datetime | None]] = field(default_factory=list)
    guarded: bool = False
    unopened_from: dt.datetime | None = None
    unturned_from: dt.datetime | None = None

    def period_at(self, occurred_at: dt.datetime, zone: ZoneInfo) -> Period:
        """The period usage belongs to: a subscription's, or the zone's calendar month."""
        found: Period | None = None
        for period in self.periods:  # of an upgraded one, the part that began last
            if period.since <= occurred_at < period.ends_at and (
                found is None
                or (period.since, period.upgraded_at is not None)
                >= (found.since, found.upgraded_at is not None)
            ):
                found = period
        if found is not None:
            return found
        starts_at = periods.month_start(occurred_at, zone)
        return Period(starts_at, periods.end_of("calendar_month", starts_at, 1, zone))

    def suspended_at(self, occurred_at: dt.datetime) -> bool:
        return any(
            start <= occurred_at and (end is None or occurred_at < end)
            for start, end in self.suspensions
        )

    def is_behind(self, at: dt.datetime, until: dt.datetime) -> bool:
        """Whether a period up to `until` is not opened, or one begun by `at` not turned."""
        return (self.unopened_from is not None and self.unopened_from <= until) or (
            self.unturned_from is not None and self.unturned_from <= at
        )


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What usage of one subject in `[since, until)` means: whose it is, and under which terms.

    `card` is None without a plan: the operator's default card weighs it. `pick` is the bucket that
    pays, where it is known; `behind` says that a period has to be opened or turned before;
    `guarded` that whoever asks has more to look at (subscriptions/guards.py). When the operator's
    clock has passed `looked_until`, what `behind` says has to be looked up again. `mark` is the
    subscriber's as all of this was known to hold; of one without a pick it tells whether it does.
    """

    binding_id: int
    subscriber_id: int
    since: dt.datetime
    until: dt.datetime
    period: Period
    card: str | None
    suspended: bool
    pick: Pick | None = None
    behind: bool = False
    guarded: bool = False
    looked_until: dt.datetime = LATEST
    mark: Mark | None = None

    def holds_in(self, since: dt.datetime, until: dt.datetime) -> bool:
        """Whether it says the same of all usage in `[since, until)`."""
        return self.since <= since and until <= self.until


# By operator and subject. Trusted only as far as the pick's generation, which the draw checks; one
# without a pick as far as its mark is the same as its bucket is looked for, or all is read the same
# after that.
_remembered: dict[int, dict[str, Standing]] = {}
_guard = threading.Lock()


def remember(
    operator_id: int,
    subject: str,
    standing: Standing,
    pick: Pick | None,
    mark: Mark | None = None,
) -> None:
    """Keep what a charge found out about a subject whose demand one bucket covered: with the
    `pick`, or without one that may not cover the next, and with the `mark` that it was found by."""
    since, until = standing.since, standing.until
    if pick is not None:
        since, until = max(since, pick.since), min(until, pick.until)
        pick = Pick(pick.bucket_id, pick.generation, _shared(pick.since), _shared(pick.until))
    known = msgspec.structs.replace(
        standing,
        since=_shared(since),
        until=_shared(until),
        pick=pick,
        looked_until=_shared(standing.looked_until),
        mark=mark,
    )
    with _guard:
        subjects = _remembered.setdefault(operator_id, {})
        subjects.pop(subject, None)
        subjects[subject] = known
        if len(subjects) > REMEMBERED:
            del subjects[next(iter(subjects))]


@functools.lru_cache(maxsize=16_384)
def _shared(instant: dt.datetime) -> dt.datetime:
    """One object for an instant, whoever is remembered with it: what many have is at hand."""
    return instant


def forget(operator_id: int, subjects: Iterable[str]) -> None:
    """Look these subjects up again."""
    with _guard:
        remembered = _remembered.get(operator_id, {})
        for subject in subjects:
            remembered.pop(subject, None)


def forget_all() -> None:
    """Look everything up again (another database, in tests)."""
    with _guard:
        _remembered.clear()


class Context:
    """The standings of a request's usage: remembered, or read in one query where not.

    `standings` goes along with the usage, None where `resolve` has to be asked.
    """

    def __init__(
        self, caller: Caller, usages: Sequence[Usage], *, at: dt.datetime, fresh: bool = False
    ) -> None:
        """Read what is not remembered, or everything where it is to be `fresh`.

        `at` is the wall's time; a test operator has its own.
        """
        self._caller = caller
        self._usages = usages
        self._at = at
        self._bindings: dict[str, list[Binding]] = {}
        self._holdings: dict[int, Holding] = {}
        self._found: dict[str, Standing] = {}
        self._newest: dict[str, Standing] = {}
        remembered = {} if fresh else _remembered.get(caller.operator_id, {})
        recall = remembered.get
        self.standings: list[Standing | None] = [recall(usage.subject) for usage in usages]
        unknown: list[Usage] = []
        # What no draw of a known bucket will put to the test.
        self._unproven: list[tuple[Usage, Standing | None]] = []
        for nr, (usage, standing) in enumerate(zip(usages, self.standings, strict=True)):
            if standing is None or not standing.since <= usage.occurred_at < standing.until:
                self.standings[nr] = None
                unknown.append(usage)
                self._unproven.append((usage, None))
            elif standing.pick is None:
                self._unproven.append((usage, standing))
        self.is_remembered = not unknown
        if unknown:
            self._read(unknown, at)

    def subscriber_of(self, nr: int, usage: Usage) -> int | None:
        """A subscriber that the subject names at some time, for grouping by shard."""
        standing = self.standings[nr]
        if standing is not None:
            return standing.subscriber_id
        bindings = self._bindings.get(usage.subject)
        return bindings[0].subscriber_id if bindings else None

    def subjects_of(self, subscriber_ids: Collection[int]) -> set[str]:
        """The subjects of these subscribers of which something was remembered."""
        return {
            usage.subject
            for usage, standing in zip(self._usages, self.standings, strict=True)
            if standing is not None and standing.subscriber_id in subscriber_ids
        }

    def resolve(self, usage: Usage, zone: ZoneInfo, at: dt.datetime) -> Standing | None:
        """What usage means that is not remembered; None where nobody was called that then."""
        occurred_at = usage.occurred_at
        standing = self._found.get(usage.subject)
        if standing is not None and standing.since <= occurred_at < standing.until:
            return standing
        standing = self._resolve(usage.subject, occurred_at, zone, at)
        if standing is not None:
            self._found[usage.subject] = standing
        return standing

    def _resolve(
        self, subject: str, occurred_at: dt.datetime, zone: ZoneInfo, at: dt.datetime
    ) -> Standing | None:
        for binding in self._bindings.get(subject, ()):
            since, until = binding.valid_from or EARLIEST, binding.valid_until or LATEST
            if since <= occurred_at < until:
                break
        else:
            return None
        holding = self._holdings[binding.subscriber_id]
        period = holding.period_at(occurred_at, zone)
        since = max(since, period.since, self._read_since)
        until = min(until, period.ends_at)
        for other in holding.periods:  # a month without a plan reaches only as far as there is none
            if other.ends_at <= occurred_at:
                since = max(since, other.ends_at)
            elif other.since > occurred_at:
                until = min(until, other.since)
        suspended = period.suspends
        for starts_at, ends_at in holding.suspensions:
            if starts_at <= occurred_at < (ends_at or LATEST):
                suspended = True
                since, until = max(since, starts_at), min(until, ends_at or LATEST)
            elif occurred_at < starts_at:
                until = min(until, starts_at)
            else:
                since = max(since, ends_at or LATEST)
        return Standing(
            binding.id,
            binding.subscriber_id,
            since,
            until,
            period,
            period.policy.rate_card if period.policy else None,
            suspended,
            behind=holding.is_behind(at, max(at, occurred_at)),
            guarded=holding.guarded,
            looked_until=period.ends_at if at < period.ends_at else LATEST,
        )

    def _read(self, usages: Sequence[Usage], at: dt.datetime) -> None:
        """Without a lock: what is bought while a charge is under way is bought after it."""
        first = min(usage.occurred_at for usage in usages) - HINDSIGHT
        self._read_since = first
        last = max(usage.occurred_at for usage in usages)
        subjects = Texts(sorted({usage.subject for usage in usages}))
        asked = [subjects, first, last, at, first, Int8(self._caller.operator_id)]
        cursor = pgarrays.cursor()
        cursor.execute(_CONTEXT_SQL, asked, binary=True, prepare=True)
        for row in cursor.fetchall():
            subject, binding_id, subscriber_id, valid_from, valid_until = row[:5]
            binding = Binding(binding_id, subscriber_id, valid_from, valid_until)
            bindings = self._bindings.setdefault(subject, [])
            if binding not in bindings:
                bindings.append(binding)
            holding = self._holdings.get(subscriber_id)
            if holding is None:
                holding = self._holdings[subscriber_id] = Holding()
            _add(holding, *row[5:])

    def doubt(self, subscriber_ids: Collection[int]) -> None:
        """What is remembered of these subscribers is no more than if it had been read."""
        self._unproven += [
            (usage, standing)
            for usage, standing in zip(self._usages, self.standings, strict=True)
            if standing is not None and standing.subscriber_id in subscriber_ids
        ]

    def not_as_said(self, zone: ZoneInfo, at: dt.datetime, marks: Mapping[int, Mark]) -> set[int]:
        """The subscribers of whom something was read, or remembered without a pick, that would be
        read otherwise now. Of whom the mark is as it was, nothing has to be read.

        To be asked behind the look for their buckets, or with these locked. Whoever makes it untrue
        later raises their generation, which the draw puts to the test; whoever did so between
        the reading and the look has raised it already: unasked, old facts would be remembered
        under the new generation.
        """
        unproven = [
            (usage, standing)
            for usage, standing in self._unproven
            if standing is None
            or standing.mark is None
            or standing.mark != marks.get(standing.subscriber_id)
        ]
        if not unproven:
            return set()
        now = Context(self._caller, [usage for usage, _ in unproven], at=self._at, fresh=True)
        changed: set[int] = set()
        for usage, standing in unproven:
            said = standing or self.resolve(usage, zone, at)
            holds = now.resolve(usage, zone, at)
            if _facts(said) != _facts(holds):
                changed |= {one.subscriber_id for one in (said, holds) if one is not None}
            elif holds is not None:
                self._newest[usage.subject] = holds
        return changed

    def newest(self, subject: str, standing: Standing) -> Standing:
        """What to remember of a subject: `standing`, or what was read behind it."""
        return self._newest.get(subject, standing)


def _facts(standing: Standing | None) -> tuple[Any, ...] | None:
    """What a standing says, but for how long and who pays."""
    if standing is None:
        return None
    return (
        *(standing.binding_id, standing.subscriber_id, standing.period, standing.card),
        *(standing.suspended, standing.behind, standing.guarded),
    )


# The subscription is only looked at where no period reaches far enough (OFFSET 0 keeps the
# planner from turning that condition into a filter behind the look).
_CONTEXT_SQL = """
SELECT s.subject, s.id, s.subscriber_id, s.valid_from, s.valid_until,
       p.subscription_id, p.starts_at, p.ends_at, p.plan_id, p.turned_at IS NULL,
       u.opened_until, x.starts_at, x.ends_at, g.nr, g.at, g.new_plan_id,
       coalesce(d.keys OR d.night_from IS NOT NULL OR d.day_units IS NOT NULL, false),
       d.overage, d.overage_ceiling, d.spent, d.spent_in, d.spent_before_id,
       o.overage_by_consent_since
FROM subscriptions_operator o
CROSS JOIN unnest(%b::text[]) AS q (subject)
JOIN subscriptions_subject s ON s.operator_id = o.id AND s.subject = q.subject
LEFT JOIN subscriptions_subscriptionperiod p
       ON p.subscriber_id = s.subscriber_id AND p.ends_at > %b
LEFT JOIN LATERAL (
    SELECT u.opened_until FROM subscriptions_subscription u
    WHERE (p.ends_at IS NULL OR p.ends_at <= greatest(%b, coalesce(o.clock_at, %b)))
      AND u.subscriber_id = s.subscriber_id
      AND (u.ends_at IS NULL OR u.ends_at > u.opened_until)
    OFFSET 0
) u ON true
LEFT JOIN subscriptions_suspension x
       ON x.subscriber_id = s.subscriber_id AND (x.ends_at IS NULL OR x.ends_at > %b)
LEFT JOIN subscriptions_upgrade g
       ON g.subscriber_id = p.subscriber_id AND g.subscription_id = p.subscription_id
      AND g.period_start = p.starts_at
LEFT JOIN subscriptions_guard d ON d.subscriber_id = s.subscriber_id
WHERE o.id = %b
ORDER BY g.nr
"""


def _add(
    holding: Holding,
    subscription_id: int | None,
    starts_at: dt.datetime,
    ends_at: dt.datetime,
    plan_id: int,
    unturned: bool,
    unopened_from: dt.datetime | None,
    suspended_from: dt.datetime | None,
    suspended_until: dt.datetime | None,
    upgrade: int | None,
    upgraded_at: dt.datetime | None,
    upgraded_to: int | None,
    guarded: bool,
    *said: Any,
) -> None:
    """One row of the join; rows repeat where a subscriber has several of anything."""
    holding.guarded = guarded
    if subscription_id is not None:
        policy = ceilings.policy_of(plan_id, Said(*said), starts_at)
        period = Period(starts_at, ends_at, subscription_id, policy)
        if period not in holding.periods:
            holding.periods.append(period)
        if upgraded_at is not None and upgraded_to is not None:
            policy = ceilings.policy_of(upgraded_to, Said(*said), starts_at)
            after = Period(starts_at, ends_at, subscription_id, policy, upgraded_at)
            if after not in holding.periods:
                holding.periods.append(after)
        if unturned and (holding.unturned_from is None or starts_at < holding.unturned_from):
            holding.unturned_from = starts_at
    if unopened_from is not None:
        holding.unopened_from = unopened_from
    if suspended_from is not None:
        suspension = (suspended_from, suspended_until)
        if suspension not in holding.suspensions:
            holding.suspensions.append(suspension)
