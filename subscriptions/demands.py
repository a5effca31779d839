"""What usage demands of a subscriber's buckets, and which of them pay for it in which order: all of
it reckoned, nothing read or written."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from subscriptions.models import Bucket
from subscriptions.policies import PlanPolicy

Kind = Bucket.Kind


@dataclass(frozen=True, slots=True)
class Period:
    """Where usage belongs: `[starts_at, ends_at)` of a subscription, or of a month without one.

    `policy` is None without a subscription: then nothing but what the subscriber holds anyway
    pays, and the rest is uncovered. `upgraded_at`: from then on the policy is that of a dearer
    plan, and what overflows falls to buckets of its own, for it may cost another price.
    """

    starts_at: dt.datetime
    ends_at: dt.datetime
    subscription_id: int | None = None
    policy: PlanPolicy | None = None
    upgraded_at: dt.datetime | None = None

    @property
    def since(self) -> dt.datetime:
        """From when on the policy holds."""
        return self.starts_at if self.upgraded_at is None else self.upgraded_at

    @property
    def suspends(self) -> bool:
        """Whether its plan lets usage draw nothing of the subscriber's own."""
        return self.policy is not None and self.policy.suspends


class Pick(msgspec.Struct, frozen=True, gc=False):
    """One bucket that pays first for all usage in `[since, until)`, while `generation` stays."""

    bucket_id: int
    generation: int
    since: dt.datetime
    until: dt.datetime


# One record's part in a demand begins with (subscriber, source, id, occurred_at, units); what
# the caller has behind that is nobody's business here.
Use = tuple[Any, ...]


# (subscriber, bucket, units, generation): units that one bucket is known to pay, as long as its
# generation stays. A plain tuple: there are thousands a second.
Sure = tuple[int, int, int, int]


# (newest, generations, live): the newest of a subscriber's buckets that have not ended long ago,
# the sum of their generations, and how many they are. As long as it stays, so does all that is
# known of the subscriber: whoever changes that adds a bucket or raises a generation.
Mark = tuple[int | None, int | None, int]


class Demand(msgspec.Struct, gc=False):
    """Usage of one subscriber in one period; `units` is the sum of its `uses`.

    `pick` is the bucket to draw if one is known, `parts` are the draws where several are. Of these
    the buckets `emptied` have nothing left then. `behind`: a period has to be opened or turned
    before. `mark` is what `find` saw of the subscriber.
    """

    subscriber_id: int
    period: Period
    suspended: bool
    pick: Pick | None
    units: int
    uses: Sequence[Use]
    behind: bool = False
    parts: Sequence[Sure] = ()
    emptied: Sequence[int] = ()
    mark: Mark | None = None

    def span(self) -> tuple[dt.datetime, dt.datetime]:
        """The first and the last instant of the usage."""
        times = [use[3] for use in self.uses]
        return min(times), max(times)

    def in_order(self) -> list[tuple[dt.datetime, int]]:
        """(occurred_at, units) in the order in which usage consumes buckets."""
        ordered = sorted(self.uses, key=lambda use: (use[3], use[1], use[2]))
        return [(use[3], use[4]) for use in ordered]


def span_of(demands: Iterable[Demand]) -> tuple[dt.datetime, dt.datetime]:
    """The first and the last instant of all their usage."""
    spans = [demand.span() for demand in demands]
    return min(span[0] for span in spans), max(span[1] for span in spans)


def demand_order(demand: Demand) -> tuple[int, dt.datetime, int]:
    """The order of demands: that of their subscribers' locks, then of their periods."""
    return demand.subscriber_id, demand.period.since, demand.period.subscription_id or 0


# What `kinds_of` answers, as the look for a bucket takes it.
ALL, UNCOVERED, OTHERS = range(3)


def kinds_of(demand: Demand) -> int:
    """Which buckets may pay before another is looked for: all, only `uncovered`, or others."""
    if demand.suspended:
        return UNCOVERED
    policy = demand.period.policy
    return OTHERS if policy is not None and policy.on_exhaustion == "blocks" else ALL


@dataclass(frozen=True, slots=True)
class Source:
    """A bucket as the burn sees it: what it can still give (None: without end), and when."""

    id: int
    kind: str
    priority: int
    left: int | None
    valid_from: dt.datetime
    valid_until: dt.datetime
    grant_key: str = ""
    granted: int | None = None
    generation: int = 0

    def burn_order(self) -> tuple[int, dt.datetime, dt.datetime, int]:
        """Lowest priority number, soonest expiry, oldest."""
        return self.priority, self.valid_until, self.valid_from, self.id

    def less(self, units: int) -> Source:
        """The same with so much less to give; one without end stays so."""
        return self if self.left is None else dataclasses.replace(self, left=self.left - units)


def what_is_left_after(
    source: Source,
    drawn: Mapping[tuple[int, int], int],
    bought: Mapping[tuple[int, int], int],
    subscriber_id: int,
) -> Source:
    """A source after what this batch has drawn of it and bought for (or given back to) it."""
    key = (subscriber_id, source.id)
    if source.left is None or (key not in drawn and key not in bought):
        return source
    extra = bought.get(key, 0)
    return dataclasses.replace(
        source,
        left=source.left - drawn.get(key, 0) + extra,
        granted=(source.granted or 0) + extra,
    )


def may_pay(
    source: Source,
    occurred_at: dt.datetime,
    *,
    period: Period,
    suspended: bool,
    at: dt.datetime,
    grace: dt.timedelta,
) -> bool:
    """Whether a bucket may pay for usage of `occurred_at` that is charged at `at`.

    A bucket pays for what happened while it was valid, if charged before its end + `grace`.
    Usage that comes later than its own period's grace draws the allowance and rollover of the
    period of `at`; what those do not cover falls to its own period's overflow, which never closes.
    """
    within = source.valid_from <= occurred_at < source.valid_until
    if suspended:
        return within and source.kind == Kind.UNCOVERED
    if source.kind in (Kind.OVERAGE, Kind.UNCOVERED):
        return within
    if within and at < source.valid_until + grace:
        return True
    return (
        source.kind in (Kind.ALLOWANCE, Kind.ROLLOVER)
        and at >= period.ends_at + grace
        and source.valid_from <= at < source.valid_until
    )


def may_pay_for(
    demand: Demand, *, at: dt.datetime, grace: dt.timedelta
) -> Callable[[Source, dt.datetime], bool]:
    """`may_pay` for the usage of one demand: asked with a source and when usage occurred."""
    return functools.partial(
        may_pay, period=demand.period, suspended=demand.suspended, at=at, grace=grace
    )


def none_more(source: Source, short: int) -> int:
    """No source can be enlarged, see `allot`."""
    return 0


def allot(
    uses: Iterable[tuple[dt.datetime, int]],
    sources: Iterable[Source],
    payable: Callable[[Source, dt.datetime], bool],
    more: Callable[[Source, int], int] = none_more,
) -> Iterator[tuple[int, Source, int]]:
    """Let uses consume sources in burn order: yields (index of the use, source, units).

    `more(source, short)` may enlarge a source that is short (it answers by how much). With the
    sources' `left` set to what a batch drew of each, it gives the batch's split again: that is
    how a receipt is made. What nothing pays for is not yielded.
    """
    ordered = sorted(sources, key=Source.burn_order)
    left = {source.id: source.left for source in ordered}
    for index, (occurred_at, units) in enumerate(uses):
        due = units
        for source in ordered:
            if not due:
                break
            if not payable(source, occurred_at):
                continue
            have = left[source.id]
            if have is None:
                yield index, source, due
                due = 0
                break
            if have < due:
                have += more(source, due - have)
            take = min(have, due)
            left[source.id] = have - take
            if take:
                yield index, source, take
                due -= take


def overflow_key(name: str, period: Period) -> str:
    """The grant key of a period's overflow bucket: `overage`, `blocks` or `uncovered`.

    After an upgrade it names the plan whose price it costs, see `plan_of_overflow`.
    """
    start = period.since.astimezone(dt.UTC).isoformat()
    if period.upgraded_at is not None and period.policy is not None:
        name = f"{name}@{period.policy.plan_id}"
    return f"{name}:{period.subscription_id or 'month'}:{start}"


def plan_of_overflow(grant_key: str) -> int | None:
    """The plan version whose price an overflow bucket costs; None: that of its period's row."""
    _, _, plan_id = grant_key.split(":", 1)[0].partition("@")
    return int(plan_id) if plan_id else None


def block_buyer(demand: Demand, bought: dict[tuple[int, int], int]) -> Callable[[Source, int], int]:
    """Buys whole packs for the period's block bucket, as far as the plan's caps allow."""
    key = overflow_key("blocks", demand.period)
    policy = demand.period.policy
    packs = 0

    def more(source: Source, short: int) -> int:
        nonlocal packs
        if policy is None or source.grant_key != key or not policy.block_units:
            return 0
        wanted = -(-short // policy.block_units)
        if policy.max_blocks is not None:
            have = (source.granted or 0) // policy.block_units + packs
            wanted = min(wanted, max(0, policy.max_blocks - have))
        packs += wanted
        if wanted:
            bought[demand.subscriber_id, source.id] += wanted * policy.block_units
        return wanted * policy.block_units

    return more
