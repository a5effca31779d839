"""A family against the same rules, written down a second time in the plainest Python: own units
first, then the pool up to the cap, then nobody's. Whatever is used, given, capped, removed, invited
again and made void, in any order, no unit is lost and none is used twice.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.reconciliation import check_all
from subscriptions import clock
from subscriptions.families import giving, keeping
from subscriptions.families.keeping import Terms
from subscriptions.models import Bucket, FamilyMember, Subscriber
from tests.factories import (
    NOW,
    client_for,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.families import join, make_family
from tests.usage import Gateway, T, post, record

pytestmark = pytest.mark.django_db

ids = itertools.count()
POOL, OWN = 200, 50


@dataclass
class Line:
    """A member's books, in whole units."""

    subscriber: Subscriber
    row: FamilyMember | None = None
    own: int = OWN
    gifts: int = 0
    cap: int | None = None
    pooled: int = 0  # of this membership
    used: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("own", "pool", "none"), 0))

    def use(self, units: int, pool: int) -> dict[str, int]:
        """What of it falls where; the pool has `pool` left."""
        gifts = min(units, self.gifts)
        own = min(units - gifts, self.own)
        room = 0 if self.row is None else pool
        if self.cap is not None:
            room = min(room, max(0, self.cap - self.pooled))
        lent = min(units - gifts - own, room)
        self.gifts -= gifts
        self.own -= own
        self.pooled += lent
        parts = {"own": gifts + own, "pool": lent, "none": units - gifts - own - lent}
        for kind, some in parts.items():
            self.used[kind] += some
        return parts


step = st.one_of(
    st.tuples(st.just("use"), st.integers(0, 2), st.integers(1, 90)),
    st.tuples(st.just("use"), st.integers(0, 2), st.integers(1, 90)),
    st.tuples(st.just("main"), st.just(0), st.integers(1, 60)),
    st.tuples(st.just("cap"), st.integers(0, 2), st.sampled_from([None, 0, 20, 70])),
    st.tuples(st.just("gift"), st.integers(0, 2), st.integers(1, 60)),
    st.tuples(st.just("remove"), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("join"), st.integers(0, 2), st.sampled_from([None, 30])),
    st.tuples(st.just("void"), st.integers(0, 20), st.just(0)),
)


@given(steps=st.lists(step, min_size=3, max_size=14))
@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_no_unit_is_lost_or_used_twice(steps: list[tuple[str, int, Any]]) -> None:
    operator = make_operator(f"op-{next(ids)}")
    gateway, api = Gateway(operator), client_for(make_key(operator))
    make_plan(operator, "big", allowance=POOL * T)
    small = make_plan(operator, "small", allowance=OWN * T)
    main = make_subscriber(operator, "main")
    subscribe(main, make_plan(operator, "big", allowance=POOL * T))
    family = make_family(main)
    lines = [Line(make_subscriber(operator, f"m-{nr}")) for nr in range(3)]
    for line in lines:
        subscribe(line.subscriber, small)
        line.row = join(family, line.subscriber)
    pool = POOL
    mains = main_none = 0
    sent: list[tuple[Line, str, dict[str, int], FamilyMember | None]] = []

    def send(subscriber: Subscriber, units: int) -> str:
        name = f"r-{next(ids)}"
        subject = f"user-{subscriber.external_id}"
        gateway.charge(record(name, subject=subject, input_tokens=units, output_tokens=0))
        return name

    for what, which, how in steps:
        if what == "main":
            send(main, how)
            mains += min(how, pool)
            main_none += how - min(how, pool)
            pool -= min(how, pool)
            continue
        if what == "void":
            if sent:
                line, name, parts, row = sent.pop(which % len(sent))
                path = f"subscribers/{line.subscriber.external_id}/usage-records/{name}/void"
                assert post(api, path, {"reason": "x"}).status_code == 200
                for kind, some in parts.items():
                    line.used[kind] -= some
                pool += parts["pool"]
                if row is not None and row is line.row:
                    line.pooled -= parts["pool"]
                # What own buckets get back is theirs again, whichever of them it was.
                back = {b.kind: (b.granted or 0) - b.used for b in own_buckets(line.subscriber)}
                assert line.own + line.gifts + parts["own"] == sum(back.values()) // T
                line.own, line.gifts = back.get("allowance", 0) // T, 0
                line.gifts = sum(back.values()) // T - line.own
            continue
        line = lines[which]
        if what == "use":
            parts = line.use(how, pool)
            sent.append((line, send(line.subscriber, how), parts, line.row))
            pool -= parts["pool"]
        elif what == "cap" and line.row is not None:
            cap = None if how is None else how * T
            keeping.change_terms(line.row, Terms("x", cap), at=NOW)
            line.cap = how
        elif what == "gift" and line.row is not None:
            [own] = [row for row in keeping.members(family) if row.is_owner]
            key = f"g-{next(ids)}"
            if how > pool:
                with pytest.raises(giving.NotEnoughToGive):
                    giving.give(family, own, line.row, how * T, key=key, at=NOW)
                continue
            for _ in range(2):  # once, however often
                giving.give(family, own, line.row, how * T, key=key, at=NOW)
            pool -= how
            mains += how
            line.gifts += how
        elif what == "remove" and line.row is not None:
            keeping.remove(line.row, at=NOW)
            line.row, line.cap, line.pooled = None, None, 0
        elif what == "join" and line.row is None:
            line.row = join(family, line.subscriber, cap=None if how is None else how * T)
            line.cap, line.pooled = how, 0

        [lender] = Bucket.objects.filter(subscriber_id=main.pk, kind="allowance")
        assert (lender.granted or 0) - lender.used == pool * T
        for each in lines:
            assert drawn(each.subscriber) == {k: v * T for k, v in each.used.items()}

    lent = sum(line.used["pool"] for line in lines)
    assert pool + mains + lent == POOL
    [report] = check_all(at=clock.wall(), operator_code=operator.code).operators
    assert [check for check in report.checks if check.differences] == []


def own_buckets(subscriber: Subscriber) -> list[Bucket]:
    rows = Bucket.objects.filter(subscriber_id=subscriber.pk, kind__in=["allowance", "gift"])
    return list(rows)


def drawn(subscriber: Subscriber) -> dict[str, int]:
    """Units that usage drew: of its own, of the pool, of nobody."""
    found = dict.fromkeys(("own", "pool", "none"), 0)
    names = {"allowance": "own", "gift": "own", "pool": "pool", "uncovered": "none"}
    for kind, used in Bucket.objects.filter(subscriber_id=subscriber.pk).values_list(
        "kind", "used"
    ):
        found[names[kind]] += used
    return found
