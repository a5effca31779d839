"""Members of a family draw their own units first, then the main line's, as far as they may."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from billing.handovers import keeping as handovers
from subscriptions import lifecycle, pools
from subscriptions.families import keeping
from subscriptions.families.keeping import Terms
from subscriptions.models import Bucket, BucketEntry, Operator, OutboxEvent, Subscriber
from tests.asking import commit, release, reserve
from tests.factories import (
    NOW,
    buckets_of,
    local,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.families import join, make_family, pool_used
from tests.usage import DAY, MINUTE, Gateway, T, assert_books_agree, balance, get, post, record

pytestmark = pytest.mark.django_db


@pytest.fixture
def main(operator: Operator) -> Subscriber:
    """The main line: 1,000 units a month."""
    plan = make_plan(operator, "big", allowance=1000 * T, rollover="one_cycle")
    found = make_subscriber(operator, "main")
    subscribe(found, plan)
    return found


@pytest.fixture
def child(operator: Operator) -> Subscriber:
    """A line with 100 units a month of its own, which stops there."""
    found = make_subscriber(operator, "child")
    subscribe(found, make_plan(operator, "small", allowance=100 * T))
    return found


def use(gateway: Gateway, subscriber: Subscriber, tokens: int, name: str, **said: Any) -> Any:
    said = {"subject": f"user-{subscriber.external_id}", "output_tokens": 0, **said}
    return gateway.charge(record(name, input_tokens=tokens, **said))


def drawn(subscriber: Subscriber) -> dict[str, int]:
    """Units by kind of bucket that usage drew, and that were lent."""
    found: dict[str, int] = {}
    for bucket in buckets_of(subscriber):
        if bucket.used:
            found[bucket.kind] = found.get(bucket.kind, 0) + bucket.used // T
    return found


def test_own_units_first_then_the_pool_then_what_the_own_plan_says(
    gateway: Gateway, main: Subscriber, child: Subscriber
) -> None:
    join(make_family(main), child)

    use(gateway, child, 60, "r-1")
    assert (drawn(child), drawn(main)) == ({"allowance": 60}, {})
    use(gateway, child, 60, "r-2")
    assert (drawn(child), drawn(main)) == ({"allowance": 100, "pool": 20}, {"allowance": 20})
    use(gateway, child, 2000, "r-3")

    assert drawn(child) == {"allowance": 100, "pool": 1000, "uncovered": 1020}
    assert drawn(main) == {"allowance": 1000}
    assert_books_agree()


def test_the_journal_says_whose_units_and_for_whom(
    gateway: Gateway, main: Subscriber, child: Subscriber
) -> None:
    join(make_family(main), child)

    batch = int(use(gateway, child, 130, "r-1")["batch"])

    [lender] = buckets_of(main)
    rows = BucketEntry.objects.filter(batch_id=batch).order_by("subscriber_id", "kind", "units")
    kinds = BucketEntry.Kind
    pool = Bucket.objects.get(subscriber_id=child.pk, kind="pool", used__gt=0)
    own = Bucket.objects.get(subscriber_id=child.pk, kind="allowance")
    assert {(row.subscriber_id, row.bucket_id, row.kind, row.units) for row in rows} == {
        (main.pk, lender.id, kinds.SHARED, 30 * T),
        (child.pk, pool.id, kinds.GRANT, -30 * T),
        (child.pk, pool.id, kinds.USAGE, 30 * T),
        (child.pk, own.id, kinds.USAGE, 100 * T),
    }
    assert pool.grant_key.startswith(f"pool:{main.pk}:{lender.id}:2026-06:")


def test_a_cap_holds_for_a_calendar_month(
    operator: Operator, gateway: Gateway, main: Subscriber, child: Subscriber
) -> None:
    join(make_family(main), child, cap=50 * T)

    for nr in range(3):
        use(gateway, child, 60, f"r-{nr}")
    assert drawn(child) == {"allowance": 100, "pool": 50, "uncovered": 30}

    set_clock(operator, local(2026, 7, 2))
    use(gateway, child, 170, "r-july", occurred_at=local(2026, 7, 2))
    # Late, within the grace: it is June's, whose cap is reached.
    use(gateway, child, 5, "r-late", occurred_at=local(2026, 6, 30, 23))

    assert pool_used(child) == 100 * T
    assert drawn(child)["uncovered"] == 30 + 20 + 5
    assert_books_agree()


def test_what_is_kept_is_for_who_comes_first(
    gateway: Gateway, operator: Operator, main: Subscriber, child: Subscriber
) -> None:
    other = make_subscriber(operator, "other")
    family = make_family(main, kept=900 * T)
    join(family, child)
    join(family, other, priority=1)

    use(gateway, child, 300, "r-1")
    use(gateway, other, 300, "r-2")

    assert drawn(child) == {"allowance": 100, "pool": 100, "uncovered": 100}
    assert drawn(other) == {"pool": 300}
    assert_books_agree()


def test_in_one_batch_main_lines_come_first_and_then_members_by_priority(
    gateway: Gateway, operator: Operator, main: Subscriber
) -> None:
    second, first = make_subscriber(operator, "second"), make_subscriber(operator, "first")
    family = make_family(main)
    join(family, second)
    join(family, first, priority=1)

    gateway.charge(
        record("r-1", subject="user-second", input_tokens=900, output_tokens=0),
        record("r-2", subject="user-first", input_tokens=500, output_tokens=0),
        record("r-3", subject="user-main", input_tokens=400, output_tokens=0),
    )

    assert drawn(main) == {"allowance": 1000}
    assert drawn(first) == {"pool": 500}
    assert drawn(second) == {"pool": 100, "uncovered": 800}
    assert_books_agree()


def test_only_kinds_that_the_family_shares_are_drawn(
    gateway: Gateway, operator: Operator, main: Subscriber, child: Subscriber
) -> None:
    join(make_family(main, shared=("booster",)), child)

    use(gateway, child, 150, "r-1")

    assert drawn(child) == {"allowance": 100, "uncovered": 50}
    assert drawn(main) == {}


@pytest.mark.parametrize("on_exhaustion", ["meter", "blocks"])
def test_overage_is_the_members_own(
    gateway: Gateway, operator: Operator, main: Subscriber, on_exhaustion: str
) -> None:
    terms: dict[str, Any] = {"price_per_million": yuan("1").amount}
    if on_exhaustion == "blocks":
        terms = {"block_units": 400 * T, "block_price": yuan("1")}
    plan = make_plan(operator, "more", allowance=100 * T, on_exhaustion=on_exhaustion, **terms)
    child = make_subscriber(operator, "child")
    subscribe(child, plan)
    join(make_family(main), child, cap=30 * T)

    use(gateway, child, 150, "r-1")
    use(gateway, child, 10, "r-2")

    assert drawn(child) == {"allowance": 100, "pool": 30, "overage": 30}
    assert drawn(main) == {"allowance": 30}
    assert_books_agree()


def test_a_suspended_main_line_shares_nothing(
    gateway: Gateway, operator: Operator, main: Subscriber, child: Subscriber
) -> None:
    join(make_family(main), child)
    use(gateway, child, 110, "r-1")

    lifecycle.suspend(main.pk, reason="unpaid", at=NOW)
    use(gateway, child, 10, "r-2")
    set_clock(operator, NOW + DAY)
    lifecycle.restore(main.pk, at=NOW + DAY)
    use(gateway, child, 10, "r-3", occurred_at=NOW + DAY)
    use(gateway, child, 10, "r-late", occurred_at=NOW + MINUTE)

    assert drawn(child) == {"allowance": 100, "pool": 20, "uncovered": 20}
    assert_books_agree()


def test_a_removal_counts_at_once_and_an_own_plan_goes_on(
    gateway: Gateway, operator: Operator, main: Subscriber, child: Subscriber
) -> None:
    member = join(make_family(main), child)
    use(gateway, child, 110, "r-1")

    set_clock(operator, NOW + DAY)
    keeping.remove(member, at=NOW + DAY)
    use(gateway, child, 10, "r-2", occurred_at=NOW + DAY)
    use(gateway, child, 10, "r-3", occurred_at=NOW + DAY + MINUTE)
    # What happened while it was a member was a member's.
    use(gateway, child, 10, "r-late", occurred_at=NOW + MINUTE)

    assert drawn(child) == {"allowance": 100, "pool": 20, "uncovered": 20}
    assert_books_agree()


def test_the_balance_of_a_member_holds_what_it_may_draw(
    api: APIClient, gateway: Gateway, main: Subscriber, child: Subscriber
) -> None:
    join(make_family(main), child, cap=300 * T)
    use(gateway, child, 120, "r-1")

    said = balance(api, "child")

    [pool] = [bucket for bucket in said["buckets"] if bucket["kind"] == "pool"]
    assert said["available"] == "280.000"
    assert (pool["used"], pool["remaining"]) == ("20.000", "280.000")
    assert balance(api, "main")["available"] == "980.000"


def test_a_members_balance_opens_the_main_lines_month_too(
    api: APIClient, gateway: Gateway, operator: Operator, main: Subscriber, child: Subscriber
) -> None:
    """Nobody has rung since the month began, and neither line was used."""
    join(make_family(main), child)
    use(gateway, main, 900, "r-1")
    lifecycle.ensure_open([child.pk], at=NOW, until=local(2026, 7, 1))
    set_clock(operator, local(2026, 7, 1))

    said = balance(api, "child")

    # 100 of its own, and of the main line's the new month's and what the old one left.
    assert said["available"] == "1200.000"


def test_a_member_reserves_of_the_pool_and_the_hold_is_the_main_lines(
    api: APIClient, gateway: Gateway, main: Subscriber, child: Subscriber
) -> None:
    join(make_family(main), child, cap=300 * T)

    said = reserve(gateway, "h-1", subject="user-child", units="250")

    assert (said["decision"], said["granted"], said["available"]) == ("allow", "250.000", "150.000")
    [lender] = buckets_of(main)
    assert lender.reserved == 150 * T
    denied = reserve(gateway, "h-2", subject="user-child", units="151")
    assert (denied["decision"], denied["cause"]) == ("deny", "exhausted")
    assert_books_agree()

    done = commit(gateway, "h-1", subject="user-child", input_tokens=180, output_tokens=0)
    assert done["released"] == "70.000"
    assert drawn(child) == {"allowance": 100, "pool": 80}
    assert (buckets_of(main)[0].reserved, drawn(main)) == (0, {"allowance": 80})

    reserve(gateway, "h-3", subject="user-child", units="100")
    assert buckets_of(main)[0].reserved == 100 * T
    release(gateway, "h-3")
    assert buckets_of(main)[0].reserved == 0
    assert_books_agree()


# Who is in none --------------------------------------------------------------------------------


def test_who_is_in_no_family_is_not_asked_for_one(
    api: APIClient,
    gateway: Gateway,
    main: Subscriber,
    child: Subscriber,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that a charge or an ask reads of families is read there."""

    def read(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(pools, "read", read)
    use(gateway, child, 60, "r-1")
    use(gateway, child, 60, "r-2")  # the window way
    use(gateway, child, 60, "r-3", subject="user-main")
    reserve(gateway, "h-1", subject="user-main", units="5")
    commit(gateway, "h-1", subject="user-main", input_tokens=5, output_tokens=0)
    reserve(gateway, "h-2", subject="user-child", units="5")
    voided = post(api, "subscribers/child/usage-records/r-2/void", {"reason": "x"})

    assert voided.status_code == 200
    assert balance(api, "child")["available"] == "40.000"


# What comes back ---------------------------------------------------------------------------------


def test_void_usage_goes_back_to_who_lent_it_also_after_a_removal(
    api: APIClient, operator: Operator, gateway: Gateway, main: Subscriber, child: Subscriber
) -> None:
    member = join(make_family(main), child, cap=100 * T)
    use(gateway, child, 180, "r-1")
    use(gateway, child, 20, "r-2")
    assert drawn(main) == {"allowance": 100}

    path = "subscribers/child/usage-records"
    assert post(api, f"{path}/r-1/void", {"reason": "x"}).status_code == 200
    assert (drawn(child), drawn(main)) == ({"pool": 20}, {"allowance": 20})
    use(gateway, child, 170, "r-3")  # the cap has room again
    assert drawn(child) == {"allowance": 100, "pool": 90}
    correction = {"reason": "x", "input_tokens": 150}
    assert post(api, f"{path}/r-3/correct", correction).status_code == 200
    assert drawn(main) == {"allowance": 70}
    set_clock(operator, NOW + DAY)
    keeping.remove(member, at=NOW + DAY)
    assert post(api, f"{path}/r-2/void", {"reason": "x"}).status_code == 200

    assert drawn(main) == {"allowance": 50}
    assert_books_agree()


def test_void_usage_of_a_bucket_that_has_ended_lapses(
    api: APIClient, operator: Operator, gateway: Gateway, child: Subscriber
) -> None:
    main = make_subscriber(operator, "head")
    lifecycle.give(main.pk, units=50 * T, valid_until=NOW + DAY, reason="x", at=NOW)
    join(make_family(main, shared=("gift",)), child)
    use(gateway, child, 130, "r-1")

    set_clock(operator, NOW + 2 * DAY)
    path = "subscribers/child/usage-records/r-1/void"
    assert post(api, path, {"reason": "x"}).status_code == 200

    assert drawn(main) == {"gift": 30}
    assert drawn(child) == {"pool": 30}
    assert_books_agree()


# The carrier's doors -----------------------------------------------------------------------------


def test_all_of_a_family_is_done_by_its_doors(
    api: APIClient, gateway: Gateway, main: Subscriber, child: Subscriber
) -> None:
    made = post(api, "families", {"owner": "main", "name": "Home", "kept": "10"})
    assert made.status_code == 201, made.content
    path = f"families/{made.json()['id']}"
    twice = post(api, "families", {"owner": "main", "name": "Other"})
    assert (twice.status_code, twice.json()["cause"]) == (409, "in_a_family")

    invited = post(api, f"{path}/invites", {"label": "Kid", "cap": "200"}).json()
    wrong = post(api, "families/accept", {"subscriber": "child", "code": "AAAA-BBBB-CCCC"})
    assert wrong.status_code == 404
    answer = {"subscriber": "child", "code": invited["code"]}
    joined = post(api, "families/accept", answer)
    assert joined.status_code == 200, joined.content
    assert post(api, "families/accept", answer).json() == joined.json()
    use(gateway, child, 150, "r-1")
    shown = get(api, path)
    assert [(one["label"], one["used"]) for one in shown["members"]] == [
        ("main", "0.000"),
        ("Kid", "50.000"),
    ]
    assert shown["invites"] == []

    member = f"{path}/members/{joined.json()['id']}"
    changed = api.patch(f"/api/v1/{member}", {"cap": "60"}, format="json").json()
    assert (changed["cap"], changed["label"]) == ("60.000", "Kid")
    use(gateway, child, 20, "r-2")
    assert pool_used(child) == 60 * T
    gift = {"giver": "main", "receiver": "child", "units": "5", "key": "g-1"}
    for _ in range(2):
        assert post(api, f"{path}/gifts", gift).status_code == 201
    other = post(api, f"{path}/gifts", {**gift, "units": "6"})
    assert (other.status_code, other.json()["cause"]) == (409, "conflict")
    back = post(api, f"{path}/gifts", {**gift, "giver": "child", "receiver": "main"})
    assert back.json()["cause"] == "not_enough"  # a gift is not given on

    assert api.delete(f"/api/v1/{member}").status_code == 204
    assert api.delete(f"/api/v1/{path}").status_code == 204
    assert get(api, path)["members"] == []
    late = post(api, f"{path}/invites", {"label": "Kid"})
    assert late.status_code == 404
    told = OutboxEvent.objects.filter(kind__startswith="family.").order_by("occurred_at", "kind")
    assert sorted(told.values_list("kind", flat=True)) == [
        "family.gift",
        "family.joined",
        "family.removed",
    ]
    assert_books_agree()


def test_an_invite_ends_and_a_family_is_one_at_a_time(
    operator: Operator, main: Subscriber, child: Subscriber
) -> None:
    family = make_family(main)
    offer, _ = keeping.invite(family, Terms("Kid"), at=NOW)
    with pytest.raises(keeping.InviteOver):
        keeping.accept(offer, child, at=NOW + keeping.VALID_FOR)
    join(make_family(make_subscriber(operator, "other")), child)
    with pytest.raises(keeping.InFamily):
        keeping.accept(offer, child, at=NOW)
    with pytest.raises(keeping.InFamily):
        keeping.found(operator, child, "family", keeping.Rules("Mine"), at=NOW)
    keeping.decline(offer, at=NOW)
    with pytest.raises(keeping.InviteOver):
        keeping.withdraw(offer, at=NOW)


def test_an_organisation_has_as_many_departments_as_it_has(
    operator: Operator, gateway: Gateway, main: Subscriber
) -> None:
    company = make_family(main, kind="organisation")
    teams = [make_subscriber(operator, f"team-{nr}") for nr in range(12)]
    for team in teams:
        join(company, team, cap=10 * T)

    sent = [
        record(f"r-{nr}", subject=f"user-team-{nr}", input_tokens=15, output_tokens=0)
        for nr in range(12)
    ]
    gateway.charge(*sent)

    assert drawn(main) == {"allowance": 120}
    assert all(drawn(team) == {"pool": 10, "uncovered": 5} for team in teams)
    assert_books_agree()


def test_who_becomes_another_is_in_no_family_any_more(
    operator: Operator, main: Subscriber, child: Subscriber
) -> None:
    family = make_family(main)
    join(family, child)
    other = make_subscriber(operator, "other")
    drafted = handovers.draft(operator, "merge", child, other, reason="x", by="x", at=NOW)

    handovers.ask(drafted, at=NOW)

    assert [row.subscriber_id for row in keeping.members(family)] == [main.pk]
    assert_books_agree()
