"""Many members at once on one pool: exact, never below nothing, and nobody waits for good."""

from __future__ import annotations

from functools import partial

import pytest

from subscriptions.errors import DomainError
from subscriptions.families import giving, keeping
from subscriptions.families.keeping import Terms
from subscriptions.models import Bucket, FamilyMember, Operator
from tests.asking import commit, reserve
from tests.at_once import at_once
from tests.factories import NOW, buckets_of, make_operator, make_plan, make_subscriber, subscribe
from tests.families import join, make_family, pool_used
from tests.usage import Gateway, T, assert_books_agree, record

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("races")]


def uncovered_of(operator: Operator) -> int:
    rows = Bucket.objects.filter(subscriber__operator=operator, kind="uncovered")
    return sum(rows.values_list("used", flat=True))


def test_members_main_lines_holds_gifts_and_a_removal_at_once() -> None:
    operator = make_operator()
    gateway = Gateway(operator)
    plan = make_plan(operator, allowance=300 * T)
    # Members on both sides of their main line, by the order in which rows are locked.
    low, main, *others = [make_subscriber(operator, f"s-{nr}") for nr in range(6)]
    subscribe(main, plan)
    family = make_family(main)
    members = [join(family, low, cap=40 * T), *(join(family, one) for one in others)]

    def use(name: str, order: list[int]) -> int:
        sent = [
            record(f"{name}-{nr}", subject=f"user-s-{nr}", input_tokens=7, output_tokens=0)
            for nr in order
        ]
        return sum(gateway.charge(*sent[at : at + 3])["accepted"] for at in (0, 3))

    def hold(nr: int) -> int:
        name = f"h-{nr}"
        said = reserve(gateway, name, subject=f"user-s-{nr}", units="20")
        if said["decision"] == "allow":
            commit(gateway, name, subject=f"user-s-{nr}", input_tokens=11, output_tokens=0)
            return 11
        return 0

    def give() -> int:
        [own] = FamilyMember.objects.filter(family=family, is_owner=True)
        giving.give(family, own, members[1], 30 * T, key="g-1", at=NOW)
        return 0

    def change() -> int:
        keeping.change_terms(members[2], Terms("other", 14 * T), at=NOW)
        keeping.remove(members[3], at=NOW)
        return 0

    said = at_once(
        *(partial(use, f"u-{nr}", [*range(6)][:: 1 if nr % 2 else -1]) for nr in range(6)),
        *(partial(hold, nr) for nr in (0, 2, 4)),
        give,
        change,
    )

    accepted, held = sum(said[:6]), sum(said[6:9])
    assert accepted == 36
    used = (accepted * 7 + held) * T
    [lender] = buckets_of(main, "allowance")
    gift = sum(b.used for one in others for b in buckets_of(one, "gift"))
    assert lender.used <= 300 * T
    assert lender.reserved == 0
    # All that was used was drawn of the main line, of its gift, or of nobody.
    assert lender.used - 30 * T + gift + uncovered_of(operator) == used
    assert pool_used(low) <= 40 * T
    assert_books_agree()
    # What is left is there to be drawn, to the last unit.
    left = (lender.granted or 0) - lender.used
    gateway.charge(
        record("last", subject="user-s-2", input_tokens=1000, output_tokens=0),
    )
    [lender] = buckets_of(main, "allowance")
    assert lender.used == (lender.granted or 0)
    assert left >= 0
    assert_books_agree()


def test_the_last_seat_is_one_subscribers() -> None:
    operator = make_operator()
    main, *people = [make_subscriber(operator, f"s-{nr}") for nr in range(11)]
    family = make_family(main)
    for one in people[:7]:
        join(family, one)
    # Two invites are the last that may be made; a third is made once those are answered.
    offers = [keeping.invite(family, Terms("x"), at=NOW) for _ in range(2)]

    def answer(nr: int) -> str:
        try:
            offer = keeping.by_code(operator.pk, offers[nr % 2][1])
            keeping.accept(offer, people[7 + nr], at=NOW)
        except DomainError as refused:  # whose it became, another does not learn
            return refused.cause
        return "joined"

    said = at_once(*(partial(answer, nr) for nr in (0, 1, 2)))

    assert sorted(said) == ["joined", "joined", "not_found"]
    assert FamilyMember.objects.filter(is_owner=False, until__isnull=True).count() == 9
    with pytest.raises(keeping.FamilyFull):
        keeping.invite(family, Terms("x"), at=NOW)
