"""Re-ratings while usage, voids and corrections come in: what was shown is what is done, or not."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections import Counter
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from metering import rerating
from metering.adjusting import Why
from metering.models import Adjustment, Rerating, ReratingShare
from subscriptions.models import Operator
from tests.at_once import at_once
from tests.factories import (
    NOW,
    client_for,
    make_key,
    make_operator,
    make_plan,
    make_rate_card,
    make_subscriber,
    subscribe,
)
from tests.usage import DAY, HOUR, Gateway, T, assert_books_agree, get, post, record, records_of

FAIR = {"cheap": ("0.5", "0.1", "0", "2", "2"), "dear": ("5",) * 5}


def order(operator: Operator, *, since: dt.datetime = NOW - DAY) -> Rerating:
    return rerating.order(
        operator,
        rate_card="fair",
        replaces="",
        since=since,
        until=NOW + DAY,
        why=Why("the card was wrong", "staff"),
        at=NOW,
    )


def carrier(subscribers: int, **terms: Any) -> Operator:
    """An operator with another card, and subscribers with a small plan."""
    operator = make_operator()
    make_rate_card(operator, "fair", weights=FAIR)
    plan = make_plan(operator, **terms)
    for nr in range(subscribers):
        subscribe(make_subscriber(operator, f"s-{nr}"), plan, starts_at=NOW - DAY)
    return operator


@pytest.mark.django_db(transaction=True)
@pytest.mark.xdist_group("rerating_races")
class TestRaces:
    def test_two_workers_apply_each_share_once(self) -> None:
        operator = carrier(12, allowance=300 * T, on_exhaustion="meter", price_per_million="1.20")
        gateway = Gateway(operator)
        gateway.charge(
            *(record(f"r-{nr}", subject=f"user-s-{nr % 12}", model="dear") for nr in range(36))
        )
        run = order(operator)

        at_once(*[partial(rerating.work, run.pk, at=NOW)] * 3)
        assert rerating.work(run.pk, at=NOW).state == "previewed"
        rerating.begin(run)
        at_once(*[partial(rerating.work, run.pk, at=NOW)] * 3)

        assert rerating.work(run.pk, at=NOW).state == "applied"
        assert Adjustment.objects.count() == 12
        assert set(ReratingShare.objects.values_list("stale", flat=True)) == {False}
        assert_books_agree()

    def test_what_comes_between_preview_and_apply_is_seen_or_left_alone(self) -> None:
        """Each subscriber's share is either in force as it was shown, or not at all."""
        operator = carrier(6, allowance=300 * T, on_exhaustion="meter", price_per_million="1.20")
        gateway, api = Gateway(operator), client_for(make_key(operator))
        for nr in range(6):
            gateway.charge(*(record(f"{i}", subject=f"user-s-{nr}", model="dear") for i in "abc"))
        run = rerating.work(order(operator).pk, at=NOW)
        shown = {share.subscriber_id: share for share in rerating.shares_of(run)}

        def apply() -> None:
            with contextlib.suppress(rerating.SnapshotChanged):
                rerating.work(rerating.begin(run).pk, at=NOW)

        def disturb(how: str, nr: int) -> None:
            path = f"subscribers/s-{nr}/usage-records/b"
            if how == "use":
                gateway.charge(record("late", subject=f"user-s-{nr}", model="dear"))
            elif how == "void":
                post(api, f"{path}/void", {"reason": "x"})
            else:
                post(api, f"{path}/correct", {"reason": "x", "input_tokens": 7})

        disturbing = [("use", 5), ("void", 4), ("correct", 3)]
        at_once(apply, apply, *(partial(disturb, how, nr) for how, nr in disturbing))

        apply()
        done = Rerating.objects.get()
        assert done.state in ("applied", "refused")
        for share in rerating.shares_of(done):
            assert share.units_after == shown[share.subscriber_id].units_after
            made = Adjustment.objects.filter(
                subscriber_id=share.subscriber_id, kind=Adjustment.Kind.RERATING
            )
            moved = [(one.batch_id, one.records, one.units) for one in made]
            more = share.units_after - share.units_before
            assert moved == ([(share.batch_id, 3, more)] if share.batch_id else [])
            assert bool(share.batch_id) == (done.state == "applied" and not share.stale)
        assert_books_agree()


uses = st.lists(
    st.tuples(
        st.sampled_from(["cheap", "dear", "other"]),
        st.sampled_from(["", "upstream_error", "client_gone"]),
        st.integers(0, 30),  # hours ago
        st.integers(1, 400),
        st.integers(0, 400),
    ),
    min_size=1,
    max_size=8,
)


class PropertyTests(TestCase):
    @given(uses=uses, voided=st.sets(st.integers(0, 7)), twice=st.booleans())
    @settings(max_examples=25)
    def test_what_was_shown_is_what_each_record_costs_afterwards(
        self,
        uses: list[tuple[str, str, int, int, int]],
        voided: set[int],
        twice: bool,
    ) -> None:
        operator = carrier(1, allowance=500 * T, on_exhaustion="meter", price_per_million="1.20")
        gateway, api = Gateway(operator), client_for(make_key(operator))
        for nr, (model, outcome, hours, given_tokens, made_tokens) in enumerate(uses):
            said = record(
                f"r-{nr}",
                subject="user-s-0",
                model=model,
                outcome=outcome or None,
                occurred_at=NOW - hours * HOUR,
                input_tokens=given_tokens,
                output_tokens=made_tokens,
            )
            gateway.charge(said)
            if nr in voided:
                post(api, f"subscribers/s-0/usage-records/r-{nr}/void", {"reason": "x"})
        before = cost_of(api)

        run = rerating.work(order(operator).pk, at=NOW)
        assert cost_of(api) == before
        rerating.begin(run)
        for _ in range(1 + twice):
            rerating.work(run.pk, at=NOW)

        # By plain arithmetic, apart from the product's own.
        expected = dict(before)
        for nr, (model, outcome, hours, given_tokens, made_tokens) in enumerate(uses):
            free = outcome == "upstream_error" or nr in voided
            if model in FAIR and not free and hours <= 24:
                given_weight, made_weight = (
                    float(FAIR[model][0]),
                    float(FAIR[model][3]),
                )
                expected[f"r-{nr}"] = given_tokens * given_weight + made_tokens * made_weight
        assert cost_of(api) == expected
        sums = rerating.sums_of(run)
        assert (sums.units_after - sums.units_before) / T == sum(expected.values()) - sum(
            before.values()
        )
        drawn: Counter[str] = Counter()
        for item in records_of(api, external_id="s-0"):
            for bucket in item["receipt"]["buckets"]:
                drawn[bucket["kind"]] += float(bucket["units"])  # type: ignore[assignment]
        shown = {
            b["kind"]: float(b["used"])
            for b in get(api, "subscribers/s-0/balance")["buckets"]
            if float(b["used"])
        }
        assert dict(drawn) == shown
        assert_books_agree()


def cost_of(api: Any) -> dict[str, float]:
    return {item["id"]: float(item["units"]) for item in records_of(api, external_id="s-0")}
