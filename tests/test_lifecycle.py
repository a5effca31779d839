"""Subscriptions from sale to end: which periods and buckets there are, and when."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import hypothesis.extra.django
import pytest
from django.db import connection
from django.db.models import F
from hypothesis import given, settings
from hypothesis import strategies as st

from subscriptions import balances, buckets, lifecycle
from subscriptions.errors import Invalid, NotFound
from subscriptions.models import (
    Bucket,
    BucketEntry,
    Operator,
    Subscriber,
    Subscription,
    SubscriptionPeriod,
    Suspension,
)
from tests.factories import (
    NOW,
    buckets_of,
    local,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import Gateway, record, used

pytestmark = pytest.mark.django_db

US = dt.timedelta(microseconds=1)
DAY = dt.timedelta(days=1)
MILLION = 1_000_000_000  # thousandths


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    return make_subscriber(operator)


def periods_of(subscription: Subscription) -> list[tuple[dt.datetime, dt.datetime]]:
    rows = SubscriptionPeriod.objects.filter(
        subscriber_id=subscription.subscriber_id, subscription_id=subscription.id
    ).order_by("starts_at")
    return [(row.starts_at, row.ends_at) for row in rows]


def reload(subscription: Subscription) -> Subscription:
    return Subscription.objects.select_related("plan", "next_plan").get(
        subscriber_id=subscription.subscriber_id, id=subscription.id
    )


def live(subscriber: Subscriber, at: dt.datetime, kind: str = "allowance") -> list[Bucket]:
    return [b for b in buckets_of(subscriber, kind) if b.valid_from <= at < b.valid_until]


def left(bucket: Bucket) -> int:
    remaining = balances.remaining(bucket)
    assert remaining is not None
    return remaining


def use(bucket: Bucket, units: int) -> None:
    """What a charge does to a bucket, without a record."""
    if not units:
        return
    Bucket.objects.filter(subscriber_id=bucket.subscriber_id, id=bucket.id).update(
        used=F("used") + units
    )
    BucketEntry.objects.create(
        subscriber_id=bucket.subscriber_id,
        batch_id=buckets.next_batch_id(),
        bucket_id=bucket.id,
        kind=BucketEntry.Kind.USAGE,
        units=units,
        charged_at=bucket.created_at,
    )


def run_due(operator: Operator, at: dt.datetime) -> None:
    """What beat or the test clock does when time has passed."""
    set_clock(operator, at)
    while lifecycle.open_due(operator.pk, at=at):
        pass


def assert_journal_agrees(subscriber: Subscriber) -> None:
    for bucket in buckets_of(subscriber):
        entries = BucketEntry.objects.filter(
            subscriber_id=subscriber.pk, bucket_id=bucket.id
        ).values_list("kind", "units")
        granted = -sum(units for kind, units in entries if kind == BucketEntry.Kind.GRANT)
        used = sum(units for kind, units in entries if kind != BucketEntry.Kind.GRANT)
        assert (granted, used) == (bucket.granted or 0, bucket.used)


# Selling -----------------------------------------------------------------------------------------


def test_the_first_period_begins_at_the_sale_and_ends_at_midnight(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscription = subscribe(subscriber, make_plan(operator))

    assert periods_of(subscription) == [(NOW, local(2026, 7, 1))]
    [bucket] = buckets_of(subscriber)
    assert (bucket.kind, bucket.granted) == ("allowance", 10_000 * MILLION // 1000)
    assert (bucket.valid_from, bucket.valid_until) == (NOW, local(2026, 7, 1))
    assert reload(subscription).opened_until == local(2026, 7, 1)


def test_a_second_base_plan_is_refused(operator: Operator, subscriber: Subscriber) -> None:
    plan = make_plan(operator)
    subscribe(subscriber, plan)

    for starts_at in (None, NOW - 20 * DAY, NOW + 20 * DAY):
        with pytest.raises(lifecycle.PlanHeld):
            subscribe(subscriber, plan, starts_at=starts_at)


def test_a_subscription_sold_into_the_past_opens_every_period_since(
    operator: Operator, subscriber: Subscriber
) -> None:
    start = local(2026, 3, 31, 10)

    subscription = subscribe(
        subscriber, make_plan(operator, cycle="subscription_day"), starts_at=start
    )

    assert periods_of(subscription) == [
        (start, local(2026, 4, 30)),
        (local(2026, 4, 30), local(2026, 5, 31)),
        (local(2026, 5, 31), local(2026, 6, 30)),
    ]
    assert len(buckets_of(subscriber, "allowance")) == 3


def test_a_subscription_sold_ahead_is_opened_when_its_time_comes(
    operator: Operator, subscriber: Subscriber
) -> None:
    start = NOW + 30 * DAY
    subscription = subscribe(subscriber, make_plan(operator), starts_at=start)
    assert buckets_of(subscriber) == []

    run_due(operator, start - lifecycle.LEAD)
    assert buckets_of(subscriber) == []

    run_due(operator, start - lifecycle.LEAD + US)
    assert periods_of(subscription) == [(start, local(2026, 8, 1))]


@pytest.mark.parametrize("away", [-401 * DAY, 401 * DAY])
def test_a_start_too_far_away_is_refused(
    operator: Operator, subscriber: Subscriber, away: dt.timedelta
) -> None:
    with pytest.raises(Invalid):
        subscribe(subscriber, make_plan(operator), starts_at=NOW + away)


def test_a_first_month_by_day_brings_its_share_of_the_allowance(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscribe(subscriber, make_plan(operator, first_month="by_day"))
    run_due(operator, local(2026, 7, 1))

    # 10 to 30 June are 21 of 30 days.
    assert [b.granted for b in buckets_of(subscriber)] == [7 * MILLION, 10 * MILLION]


def test_a_plan_for_the_next_month_gives_nothing_before(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscription = subscribe(subscriber, make_plan(operator, first_month="next"))

    assert subscription.starts_at == local(2026, 7, 1)
    assert buckets_of(subscriber) == []


def test_a_metered_plan_opens_an_overage_bucket_as_large_as_its_cap(
    operator: Operator, subscriber: Subscriber
) -> None:
    plan = make_plan(operator, on_exhaustion="meter", price_per_million="1.20", cap=yuan("6.00"))
    subscribe(subscriber, plan)

    [bucket] = buckets_of(subscriber, "overage")
    # 6.005 yuan would round up to 6.01: just below it still costs 6.00.
    assert bucket.granted == 5_004_166_666
    assert (bucket.valid_from, bucket.valid_until) == (NOW, local(2026, 7, 1))


# Opening -----------------------------------------------------------------------------------------


def test_a_new_periods_bucket_is_there_before_its_first_second(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscribe(subscriber, make_plan(operator))

    run_due(operator, local(2026, 7, 1) - US)

    [bucket] = live(subscriber, local(2026, 7, 1))
    assert bucket.valid_from == local(2026, 7, 1)


def test_missed_periods_are_opened_one_after_the_other(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscription = subscribe(subscriber, make_plan(operator))

    run_due(operator, local(2026, 12, 15))

    edges = [NOW, *(local(2026, month, 1) for month in range(7, 13)), local(2027, 1, 1)]
    assert periods_of(subscription) == list(pairwise(edges))


def test_opening_again_opens_nothing(operator: Operator, subscriber: Subscriber) -> None:
    subscribe(subscriber, make_plan(operator))
    run_due(operator, local(2026, 7, 2))
    before = len(buckets_of(subscriber))

    run_due(operator, local(2026, 7, 2))
    lifecycle.ensure_open([subscriber.pk], at=local(2026, 7, 2), until=local(2026, 7, 2))

    assert len(buckets_of(subscriber)) == before == 2


def test_who_cannot_wait_opens_only_what_is_due(operator: Operator, subscriber: Subscriber) -> None:
    other = make_subscriber(operator, "s-2")
    plan = make_plan(operator)
    mine, others = subscribe(subscriber, plan), subscribe(other, plan)

    lifecycle.ensure_open([subscriber.pk], at=local(2026, 7, 1), until=local(2026, 7, 1))

    assert len(periods_of(mine)) == 2
    assert len(periods_of(others)) == 1


def test_without_an_operator_only_those_on_the_walls_time_are_opened(
    operator: Operator, subscriber: Subscriber
) -> None:
    real = make_operator("real", at=None)
    theirs = make_subscriber(real)
    ours = subscribe(subscriber, make_plan(operator))
    sold = subscribe(theirs, make_plan(real))
    later = sold.created_at + 32 * DAY

    while lifecycle.open_due(None, at=later):
        pass

    assert len(periods_of(sold)) >= 2
    assert len(periods_of(ours)) == 1


def test_a_chunk_is_a_handful_of_statements(
    operator: Operator, django_assert_max_num_queries: Callable[[int], object]
) -> None:
    plan = make_plan(operator, rollover="one_cycle")
    for number in range(20):
        subscribe(make_subscriber(operator, f"many-{number}"), plan)
    at = local(2026, 7, 1)

    with django_assert_max_num_queries(45):  # type: ignore[attr-defined]
        assert lifecycle.open_due(operator.pk, at=at) == 20

    assert lifecycle.open_due(operator.pk, at=at) == 0
    assert Bucket.objects.filter(kind="rollover").count() == 20


# Rolling over ------------------------------------------------------------------------------------


def test_what_is_left_rolls_over_at_the_first_second(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscribe(subscriber, make_plan(operator, rollover="one_cycle"))
    use(buckets_of(subscriber)[0], 4 * MILLION)

    run_due(operator, local(2026, 7, 1) - US)
    assert buckets_of(subscriber, "rollover") == []

    run_due(operator, local(2026, 7, 1))
    [rolled] = buckets_of(subscriber, "rollover")
    assert rolled.granted == 6 * MILLION
    # From the old period's start: late usage of it draws this first.
    assert (rolled.valid_from, rolled.valid_until) == (NOW, local(2026, 8, 1))
    assert_journal_agrees(subscriber)


def test_what_rolled_over_does_not_roll_over_again(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscribe(subscriber, make_plan(operator, rollover="one_cycle"))

    run_due(operator, local(2026, 8, 1))

    assert [b.granted for b in buckets_of(subscriber, "rollover")] == [10 * MILLION] * 2
    assert [left(b) for b in live(subscriber, local(2026, 8, 1), "rollover")] == [10 * MILLION]
    assert_journal_agrees(subscriber)


def test_another_plan_forfeits_what_is_left(operator: Operator, subscriber: Subscriber) -> None:
    subscription = subscribe(subscriber, make_plan(operator, rollover="one_cycle"))
    make_plan(operator, "big", rollover="one_cycle")

    lifecycle.change(subscriber.pk, subscription.id, plan_code="big", at=NOW)
    run_due(operator, local(2026, 7, 1))

    assert buckets_of(subscriber, "rollover") == []


def test_a_newer_version_of_the_same_plan_keeps_what_is_left(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscription = subscribe(subscriber, make_plan(operator, rollover="one_cycle"))
    make_plan(operator, rollover="one_cycle", price=yuan("8.80"))

    lifecycle.change(subscriber.pk, subscription.id, plan_code="light", at=NOW)
    run_due(operator, local(2026, 7, 1))

    assert len(buckets_of(subscriber, "rollover")) == 1
    assert reload(subscription).plan.version == 2


# Changing and ending -----------------------------------------------------------------------------


def test_a_changed_plan_takes_over_at_the_next_period(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscription = subscribe(subscriber, make_plan(operator))
    big = make_plan(operator, "big", allowance=40 * MILLION)

    changed = lifecycle.change(subscriber.pk, subscription.id, plan_code="big", at=NOW)
    assert (changed.plan.code, changed.next_plan) == ("light", big)

    run_due(operator, local(2026, 7, 1) - US)
    assert reload(subscription).plan.code == "light"
    run_due(operator, local(2026, 7, 1))
    after = reload(subscription)
    assert (after.plan.code, after.next_plan) == ("big", None)
    assert [b.granted for b in buckets_of(subscriber)] == [10 * MILLION, 40 * MILLION]


def test_a_change_hits_the_period_that_was_opened_ahead(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscription = subscribe(subscriber, make_plan(operator, on_exhaustion="stop"))
    make_plan(operator, "big", allowance=40 * MILLION, on_exhaustion="meter", price_per_million="1")
    eve, start = local(2026, 6, 30, 20), local(2026, 7, 1)
    run_due(operator, eve)

    lifecycle.change(subscriber.pk, subscription.id, plan_code="big", at=eve)
    assert sorted(left(b) for b in live(subscriber, start)) == [0, 40 * MILLION]
    assert len(live(subscriber, start, "overage")) == 1

    lifecycle.change(subscriber.pk, subscription.id, plan_code="light", at=eve)
    assert sorted(left(b) for b in live(subscriber, start)) == [0, 0, 10 * MILLION]
    # The withdrawn overage bucket has no room left either: `stop` means stop.
    assert [left(b) for b in live(subscriber, start, "overage")] == [0]
    assert len(periods_of(subscription)) == 2
    assert_journal_agrees(subscriber)


def test_a_cancelled_subscription_ends_with_its_period(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscription = subscribe(subscriber, make_plan(operator))
    eve = local(2026, 6, 30, 20)
    run_due(operator, eve)

    ended = lifecycle.change(subscriber.pk, subscription.id, cancel_at_period_end=True, at=eve)
    assert ended.ends_at == local(2026, 7, 1)
    run_due(operator, local(2026, 9, 1))

    assert periods_of(subscription) == [(NOW, local(2026, 7, 1))]
    assert sum(left(b) for b in live(subscriber, local(2026, 7, 1))) == 0
    with pytest.raises(lifecycle.SubscriptionEnded):
        lifecycle.change(
            subscriber.pk, subscription.id, cancel_at_period_end=False, at=local(2026, 9, 1)
        )


def test_a_cancellation_can_be_taken_back(operator: Operator, subscriber: Subscriber) -> None:
    subscription = subscribe(subscriber, make_plan(operator))
    eve, start = local(2026, 6, 30, 20), local(2026, 7, 1)
    run_due(operator, eve)

    for cancel in (True, False, True, False):
        lifecycle.change(subscriber.pk, subscription.id, cancel_at_period_end=cancel, at=eve)

    assert reload(subscription).ends_at is None
    assert sum(left(b) for b in live(subscriber, start)) == 10 * MILLION
    assert_journal_agrees(subscriber)


def test_a_cancellation_cannot_be_taken_back_once_another_plan_follows(
    operator: Operator, subscriber: Subscriber
) -> None:
    plan = make_plan(operator)
    subscription = subscribe(subscriber, plan)
    lifecycle.change(subscriber.pk, subscription.id, cancel_at_period_end=True, at=NOW)
    subscribe(subscriber, plan, starts_at=local(2026, 7, 1))

    with pytest.raises(lifecycle.PlanHeld):
        lifecycle.change(subscriber.pk, subscription.id, cancel_at_period_end=False, at=NOW)


def test_a_subscription_cancelled_before_it_begins_never_does(
    operator: Operator, subscriber: Subscriber
) -> None:
    plan = make_plan(operator)
    pending = subscribe(subscriber, plan, starts_at=NOW + 20 * DAY)

    ended = lifecycle.change(subscriber.pk, pending.id, cancel_at_period_end=True, at=NOW)
    assert ended.ends_at == ended.starts_at

    subscribe(subscriber, plan)  # nothing is in the way
    run_due(operator, NOW + 40 * DAY)
    assert periods_of(pending) == []


def test_a_plan_changed_before_it_begins_is_changed_at_once(
    operator: Operator, subscriber: Subscriber
) -> None:
    pending = subscribe(subscriber, make_plan(operator), starts_at=NOW + dt.timedelta(hours=1))
    make_plan(operator, "big", allowance=40 * MILLION)

    changed = lifecycle.change(subscriber.pk, pending.id, plan_code="big", at=NOW)

    assert changed.plan.code == "big"
    assert [left(b) for b in buckets_of(subscriber)] == [0, 40 * MILLION]


def test_a_plan_with_another_cycle_counts_from_where_it_takes_over(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscription = subscribe(subscriber, make_plan(operator))
    make_plan(operator, "cloud", cycle="subscription_day")

    lifecycle.change(subscriber.pk, subscription.id, plan_code="cloud", at=NOW)
    run_due(operator, local(2026, 8, 15))

    assert periods_of(subscription)[1:] == [
        (local(2026, 7, 1), local(2026, 8, 1)),
        (local(2026, 8, 1), local(2026, 9, 1)),
    ]


def test_another_subscriber_cannot_change_a_subscription(
    operator: Operator, subscriber: Subscriber
) -> None:
    subscription = subscribe(subscriber, make_plan(operator))
    other = make_subscriber(operator, "s-2")

    with pytest.raises(NotFound):
        lifecycle.change(other.pk, subscription.id, cancel_at_period_end=True, at=NOW)


def test_a_suspension_begins_and_ends_once(subscriber: Subscriber) -> None:
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=NOW)
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=NOW + DAY)
    lifecycle.restore(subscriber.pk, at=NOW + 2 * DAY)
    lifecycle.restore(subscriber.pk, at=NOW + 3 * DAY)
    lifecycle.suspend(subscriber.pk, reason="fraud", at=NOW + 4 * DAY)
    lifecycle.restore(subscriber.pk, at=NOW + 4 * DAY)
    lifecycle.suspend(subscriber.pk, reason="fraud", at=NOW + 4 * DAY)

    rows = Suspension.objects.filter(subscriber_id=subscriber.pk).order_by("starts_at")
    assert [(row.starts_at, row.ends_at) for row in rows] == [
        (NOW, NOW + 2 * DAY),
        (NOW + 4 * DAY, None),
    ]


def test_an_opened_queue_uses_its_index(operator: Operator) -> None:
    with connection.cursor() as cursor:
        # The table is nearly empty here: whatever its statistics say, only what can be is asked.
        for way in ("seqscan", "bitmapscan", "sort"):
            cursor.execute(f"SET LOCAL enable_{way} = off")
        cursor.execute(
            "EXPLAIN SELECT subscriber_id, id FROM subscriptions_subscription"
            " WHERE operator_id = 1 AND (ends_at IS NULL OR ends_at > opened_until)"
            " AND opened_until < now() ORDER BY opened_until LIMIT 10"
        )
        plan = "\n".join(row[0] for row in cursor.fetchall())

    assert "subscription_opening_queue" in plan
    assert "Sort" not in plan


# Under load, and in any order --------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_jobs_at_once_open_each_period_once() -> None:
    operator = make_operator()
    plan = make_plan(operator, rollover="one_cycle", on_exhaustion="meter", price_per_million="1")
    subscribers = [make_subscriber(operator, f"s-{n}") for n in range(40)]
    for subscriber in subscribers:
        subscribe(subscriber, plan)
    at = local(2026, 9, 2)
    barrier = threading.Barrier(6)

    def job(number: int) -> None:
        barrier.wait()
        if number % 2:
            while lifecycle.open_due(operator.pk, at=at, limit=7):
                pass
        else:
            ids = [s.pk for s in (subscribers if number else subscribers[::-1])]
            lifecycle.ensure_open(ids, at=at, until=at)
        connection.close()

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(job, number) for number in range(6)]:
            done.result()

    assert SubscriptionPeriod.objects.count() == 40 * 4
    kinds = Counter(Bucket.objects.values_list("kind", flat=True))
    assert kinds == {"allowance": 160, "overage": 160, "rollover": 120}
    assert_journal_agrees(subscribers[0])


def test_a_job_that_breaks_off_is_done_again_whole(
    operator: Operator, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = subscribe(subscriber, make_plan(operator, rollover="one_cycle"))
    at = local(2026, 7, 1)

    def crash(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(buckets, "roll_over", crash)
        with pytest.raises(KeyboardInterrupt):
            lifecycle.open_due(operator.pk, at=at)
    assert len(periods_of(subscription)) == 1

    run_due(operator, at)
    assert len(periods_of(subscription)) == 2
    assert [b.kind for b in live(subscriber, at, "rollover")] == ["rollover"]
    assert_journal_agrees(subscriber)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 40 * 24)),
        st.tuples(st.just("eve"), st.integers(0, 13)),
        st.tuples(st.just("plan"), st.sampled_from(["month", "day", "rolling"])),
        st.tuples(st.just("cancel"), st.booleans()),
        st.tuples(st.just("use"), st.integers(1, MILLION)),
    ),
    max_size=12,
)


class LifeTests(hypothesis.extra.django.TestCase):
    """Whatever is done to a subscription and whenever, its periods and buckets fit together."""

    @settings(max_examples=60, deadline=None)
    @given(
        start=st.integers(0, 60 * 24).map(lambda hours: NOW + dt.timedelta(hours=hours)),
        steps=STEPS,
    )
    def test_periods_have_no_gap_and_one_allowance_each(
        self, start: dt.datetime, steps: list[tuple[str, Any]]
    ) -> None:
        operator = make_operator()
        subscriber = make_subscriber(operator)
        plans = [
            make_plan(operator, "month", allowance=2 * MILLION),
            make_plan(operator, "day", allowance=3 * MILLION, cycle="subscription_day"),
            make_plan(operator, "rolling", allowance=5 * MILLION, rollover="one_cycle"),
        ]
        subscription = subscribe(subscriber, plans[2], starts_at=start)
        at = NOW
        for what, value in steps:
            if what == "wait":
                at += dt.timedelta(hours=value)
                run_due(operator, at)
            elif what == "eve":  # some hours before a period that is not opened yet
                at = max(at, reload(subscription).opened_until - dt.timedelta(hours=value))
                run_due(operator, at)
            elif what == "use":
                for bucket in live(subscriber, at, "allowance")[-1:]:
                    use(bucket, min(value, left(bucket)))
            else:
                named = {"plan_code": value} if what == "plan" else {"cancel_at_period_end": value}
                with contextlib.suppress(lifecycle.SubscriptionEnded):
                    lifecycle.change(subscriber.pk, subscription.id, at=at, **named)

        held = reload(subscription)
        periods = SubscriptionPeriod.objects.filter(subscription_id=held.id).order_by("starts_at")
        edges = [held.starts_at, *(p.ends_at for p in periods)]
        assert [p.starts_at for p in periods] == edges[:-1]
        assert held.opened_until == edges[-1]
        if held.ends_at is None:
            assert held.opened_until >= min(at + lifecycle.LEAD, start)
        else:
            assert held.ends_at >= held.opened_until or not periods
        for period in periods:
            allowances = live(subscriber, period.starts_at)
            whole = [b for b in allowances if not withdrawn(b)]
            assert [b.granted for b in whole] == [period.plan.allowance]
            assert (whole[0].valid_from, whole[0].valid_until) == (period.starts_at, period.ends_at)
            assert (period.turned_at is not None) or period.starts_at > at
        assert_journal_agrees(subscriber)


def withdrawn(bucket: Bucket) -> bool:
    return BucketEntry.objects.filter(
        subscriber_id=bucket.subscriber_id,
        bucket_id=bucket.id,
        kind=BucketEntry.Kind.WITHDRAWAL,
    ).exists()


def test_usage_ahead_of_a_cancelled_end_does_not_outlive_the_cancellation(
    operator: Operator, subscriber: Subscriber, gateway: Gateway
) -> None:
    """What was remembered while nothing came after the end is forgotten with it."""
    subscription = subscribe(subscriber, make_plan(operator))
    eve, ahead = local(2026, 6, 30, 23, 58), local(2026, 7, 1, 0, 1)
    set_clock(operator, eve)
    run_due(operator, eve)
    key = (subscriber.pk, subscription.id)
    lifecycle.change(*key, cancel_at_period_end=True, at=eve)
    for nr in range(2):
        gateway.charge(record(f"r-{nr}", occurred_at=ahead, input_tokens=100, output_tokens=0))

    lifecycle.change(*key, cancel_at_period_end=False, at=eve)
    gateway.charge(record("r-2", occurred_at=ahead, input_tokens=50, output_tokens=0))

    assert used(subscriber) == {"uncovered": 200.0, "allowance": 50.0}
    assert_journal_agrees(subscriber)
