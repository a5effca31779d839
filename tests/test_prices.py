"""Versions of plans and rate cards: a draft, asked for, approved, scheduled, on sale, retired."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import translation
from djmoney.money import Money
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import approving, corrections, rehearsing
from billing.models import Approval, PriceDraft
from billing.prices import comparing, drafting
from billing.prices.terms import CardTerms, card_terms, plan_terms, to_json
from subscriptions import catalog, lifecycle
from subscriptions.catalog import Component, PlanTerms, Weight
from subscriptions.models import Operator, Plan, PlanRetirement, RateCard, Subscription
from subscriptions.policies import Tier, Window
from tests.factories import (
    NOW,
    client_for,
    make_key,
    make_plan,
    make_rate_card,
    make_subscriber,
    subscribe,
    yuan,
)
from tests.test_closing import move
from tests.usage import DAY, Gateway, assert_books_agree, assert_problem, get, post, put, record

pytestmark = pytest.mark.django_db
PLAN = {"name": "Light", "price": "9.90", "allowance": "1000", "rate_card": "standard"}


@pytest.fixture
def boss(operator: Operator) -> APIClient:
    return client_for(make_key(operator, name="boss"))


@pytest.fixture
def by_two(operator: Operator) -> None:
    rules = corrections.Rules(prices_by_two=True)
    corrections.set_rules(operator, rules, by="boss", at=NOW - DAY)


def terms(**said: Any) -> PlanTerms:
    light: dict[str, Any] = {"name": "Light", "price": yuan("9.90"), "allowance": 1_000_000}
    return PlanTerms(**{**light, "rate_card": "standard", **said})


def drafted(operator: Operator, **said: Any) -> PriceDraft:
    make_rate_card(operator)
    return drafting.draft(operator, "light", terms(**said), by="pm", at=NOW)


def asked(operator: Operator, draft: PriceDraft) -> Approval:
    drafting.ask(operator, draft.pk, reason="cheaper", by="pm", at=NOW)
    return Approval.objects.get(about_id=draft.pk, state="pending")


def approve(operator: Operator, approval: Approval) -> None:
    approving.approve(operator, approval.pk, by="boss", reason="fine", at=NOW)


# From a draft to the last day ---------------------------------------------------------------------


@pytest.mark.usefixtures("by_two")
def test_a_plan_is_drafted_approved_by_another_scheduled_sold_and_retired(
    operator: Operator, api: APIClient
) -> None:
    draft = drafted(operator)
    assert not Plan.objects.exists()
    waits = asked(operator, draft)
    assert ["price", "", "9.90 CNY"] in waits.effect["differences"]
    with pytest.raises(drafting.NotThere):
        drafting.change(operator, draft.pk, terms(allowance=5), at=NOW)
    with pytest.raises(Exception, match="another person"):
        approving.approve(operator, waits.pk, by="pm", reason="mine", at=NOW)

    approve(operator, waits)
    drafting.schedule(operator, draft.pk, NOW + DAY, at=NOW)

    assert get(api, "plans")["items"] == []
    move(api, NOW + DAY)
    [sold] = get(api, "plans")["items"]
    assert (sold["code"], sold["version"], sold["price"]["amount"]) == ("light", 1, "9.90")
    draft.refresh_from_db()
    assert (draft.state, draft.plan_id) == ("on_sale", Plan.objects.get().pk)

    make_subscriber(operator)
    order = {"plan": "light"}
    assert post(api, "subscribers/s-1/subscriptions", order).status_code == 201
    drafting.retire(operator, "light", by="pm", reason="old", at=NOW + DAY)
    drafting.retire(operator, "light", by="pm", reason="again", at=NOW + 2 * DAY)

    assert get(api, "plans")["items"] == []
    make_subscriber(operator, "s-2")
    refused = post(api, "subscribers/s-2/subscriptions", order)
    assert_problem(refused, 409, "plan_retired")
    assert PriceDraft.objects.get().state == "retired"
    move(api, NOW + 40 * DAY)
    assert Subscription.objects.get().ends_at is None
    assert put(api, "plans/light", PLAN).status_code == 202
    assert_books_agree()


@pytest.mark.usefixtures("by_two")
def test_what_is_rejected_is_a_draft_again_and_is_asked_for_anew(operator: Operator) -> None:
    draft = drafted(operator)
    first = asked(operator, draft)
    approving.reject(operator, first.pk, by="boss", reason="too cheap", at=NOW)

    drafting.change(operator, draft.pk, terms(price=yuan("12.00")), at=NOW)
    second = asked(operator, draft)

    assert second.pk != first.pk
    approve(operator, second)
    drafting.schedule(operator, draft.pk, NOW, at=NOW)
    assert catalog.plan_on_sale(operator.pk, "light").price == yuan("12.00")


def test_without_the_policy_nobody_else_is_asked(operator: Operator) -> None:
    draft = drafted(operator)
    assert drafting.ask(operator, draft.pk, reason="x", by="pm", at=NOW).state == "approved"
    assert drafting.ask(operator, draft.pk, reason="x", by="pm", at=NOW).state == "approved"
    assert drafting.schedule(operator, draft.pk, NOW, at=NOW).state == "on_sale"
    again = drafting.draft(operator, "light", terms(name="New"), by="pm", at=NOW)
    drafting.ask(operator, again.pk, reason="x", by="pm", at=NOW)
    drafting.schedule(operator, again.pk, NOW, at=NOW)

    states = list(PriceDraft.objects.order_by("pk").values_list("state", flat=True))
    assert states == ["retired", "on_sale"]
    assert not PlanRetirement.objects.exists()
    assert drafting.drop(operator, drafted_again(operator).pk, at=NOW).state == "dropped"


def drafted_again(operator: Operator) -> PriceDraft:
    return drafting.draft(operator, "light", terms(name="Never"), by="pm", at=NOW)


def test_one_that_cannot_be_published_says_why_and_holds_up_no_other(operator: Operator) -> None:
    make_rate_card(operator)
    rest = terms(name="Rest", price=yuan("0"), allowance=0, suspends=True)
    catalog.publish_plan(operator, "rest", rest, at=NOW)
    bad = drafting.draft(operator, "bad", terms(pause_plan="rest"), by="pm", at=NOW)
    good = drafting.draft(operator, "good", terms(), by="pm", at=NOW)
    for draft in (bad, good):
        drafting.ask(operator, draft.pk, reason="x", by="pm", at=NOW)
        drafting.schedule(operator, draft.pk, NOW + DAY, at=NOW)
    catalog.publish_plan(operator, "rest", replace(rest, suspends=False), at=NOW)

    assert drafting.sell_due(operator, at=NOW + DAY) == 1
    assert drafting.sell_due(operator, at=NOW + DAY) == 0

    bad.refresh_from_db()
    assert (bad.state, "pause_plan suspends" in bad.problem) == ("scheduled", True)


@pytest.mark.parametrize("two", [True, False])
def test_a_plan_whose_rate_card_is_missing_is_refused_when_it_is_asked_for(
    operator: Operator, api: APIClient, two: bool
) -> None:
    corrections.set_rules(operator, corrections.Rules(prices_by_two=two), by="boss", at=NOW - DAY)
    draft = drafting.draft(operator, "light", terms(), by="pm", at=NOW)

    assert_problem(put(api, "plans/light", PLAN), 422, "unknown_rate_card")
    with pytest.raises(catalog.UnknownRateCard):
        drafting.ask(operator, draft.pk, reason="x", by="pm", at=NOW)

    assert not Approval.objects.exists()
    make_rate_card(operator)
    assert drafting.ask(operator, draft.pk, reason="x", by="pm", at=NOW).state != "draft"


def test_a_rate_card_is_published_before_its_first_second(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    make_rate_card(operator)
    subscribe(make_subscriber(operator), make_plan(operator))
    double = CardTerms(weights=(Weight("*", *(Decimal(2),) * 5),))
    draft = drafting.draft(operator, "standard", double, by="pm", at=NOW)
    drafting.ask(operator, draft.pk, reason="x", by="pm", at=NOW)
    gateway.charge(record("a", occurred_at=NOW, input_tokens=10))

    with pytest.raises(catalog.UsageAlreadyCharged):
        drafting.schedule(operator, draft.pk, NOW - DAY, at=NOW)
    scheduled = drafting.schedule(operator, draft.pk, NOW + DAY, at=NOW)

    assert (scheduled.state, RateCard.objects.count()) == ("scheduled", 2)
    move(api, NOW + DAY)
    draft.refresh_from_db()
    assert draft.state == "on_sale"
    assert_books_agree()


@pytest.mark.usefixtures("by_two")
def test_doors_ask_where_two_persons_decide_on_prices(
    operator: Operator, api: APIClient, boss: APIClient
) -> None:
    weights = [
        {
            "model": "*",
            **dict.fromkeys(("input", "cached_input", "cache_write", "output", "reasoning"), "1"),
        }
    ]
    card = {"effective_from": (NOW + DAY).isoformat(), "weights": weights}
    answers = [put(api, "rate-cards/standard", card) for _ in range(2)]
    assert [one.status_code for one in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert post(boss, f"approvals/{answers[0].json()['id']}/approve", {"reason": "x"}).json()
    assert put(api, "rate-cards/standard", card).status_code == 200
    plan = put(api, "plans/light", PLAN)
    assert (plan.status_code, plan.json()["kind"]) == (202, "price")

    approved = post(boss, f"approvals/{plan.json()['id']}/approve", {"reason": "x"})

    assert approved.json()["state"] == "approved"
    assert put(api, "plans/light", PLAN).status_code == 200
    assert get(api, "plans")["items"][0]["version"] == 1
    assert_problem(put(api, "plans/light", PLAN | {"on_exhaustion": "meter"}), 422, "invalid")


# The rules of the table ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "terms = '{}'",
        "code = 'other'",
        "state = 'on_sale'",
        "state = 'scheduled', on_sale_at = NULL",
        "state = 'dropped'",
    ],
)
def test_the_database_keeps_what_was_asked_for(operator: Operator, change: str) -> None:
    draft = drafted(operator)
    drafting.ask(operator, draft.pk, reason="x", by="pm", at=NOW)

    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE billing_pricedraft SET {change}")


def test_a_retirement_is_never_changed(operator: Operator) -> None:
    make_plan(operator)
    catalog.retire_plan(operator, "light", by="pm", reason="old", at=NOW)
    with pytest.raises(DatabaseError), transaction.atomic():
        PlanRetirement.objects.update(reason="other")
    with pytest.raises(DatabaseError), transaction.atomic():
        PlanRetirement.objects.all().delete()
    again = make_plan(operator)
    assert (again.version, catalog.is_retired(again)) == (2, False)


def test_who_is_on_trial_goes_on_as_a_plan_that_is_retired(
    operator: Operator, api: APIClient
) -> None:
    make_plan(operator)
    trial = make_plan(operator, "try", price=yuan("0"), trial_days=3, converts_to="light")
    subscriber = make_subscriber(operator)
    subscription = subscribe(subscriber, trial)
    catalog.retire_plan(operator, "light", by="pm", reason="old", at=NOW)
    while lifecycle.open_due(operator.pk, at=NOW + 5 * DAY):
        pass
    subscription.refresh_from_db()
    assert subscription.plan.code == "light"


# What it says, and in what it differs -------------------------------------------------------------

RICH = terms(
    on_exhaustion="meter",
    tier_mode="graduated",
    tiers=(Tier(5_000, Decimal("1.5")), Tier(None, Decimal("1.25"))),
    windows=(Window("5h", 10_000, True), Window("day", 50_000)),
    components=(Component(name="data", price=yuan("9.90"), tax_rate=Decimal("0.09")),),
    cap=yuan("100.00"),
    requests_per_minute=60,
)
MONEY = st.integers(0, 10**9).map(lambda fen: Money(Decimal(fen) / 100, "CNY"))


def test_all_terms_read_back_as_they_were_kept() -> None:
    assert plan_terms(to_json(RICH)) == RICH
    card = CardTerms(weights=(Weight("gpt*", *map(Decimal, ("1", "0.1", "1.25", "4", "4"))),))
    assert card_terms(to_json(card)) == card


def test_a_version_that_is_only_looked_at_is_in_no_table(operator: Operator) -> None:
    looked_at = catalog.drafted(operator, "light", RICH, at=NOW)

    assert catalog.terms_of(looked_at) == RICH
    assert not Plan.objects.filter(operator=operator).exists()
    make_rate_card(operator)
    published, _ = catalog.publish_plan(operator, "light", RICH, at=NOW)
    sold = catalog.newest_plan(operator.pk, published.code)
    tariff = rehearsing.offer_of(sold).tariff
    assert replace(rehearsing.offer_of(looked_at).tariff, plan_id=sold.pk, version=1) == tariff


@given(
    MONEY, st.integers(0, 10**15), st.none() | st.decimals(0, 999, places=6), st.text(max_size=9)
)
def test_two_versions_differ_in_just_what_was_changed(
    price: Money, allowance: int, per_million: Decimal | None, name: str
) -> None:
    new = terms(name=name, price=price, allowance=allowance, price_per_million=per_million)
    assert plan_terms(to_json(new)) == new
    old = terms()
    changed = {
        field
        for field in ("name", "price", "allowance", "price_per_million")
        if getattr(old, field) != getattr(new, field)
    }
    assert {one.name for one in comparing.differences(old, new)} == changed
    back = [(one.name, one.after, one.before) for one in comparing.differences(new, old)]
    assert back == [tuple(one) for one in comparing.differences(old, new)]


def test_differences_are_sentences_in_the_readers_language() -> None:
    found = comparing.differences(terms(), terms(price=yuan("12.00"), allowance=2_000_500))
    with translation.override("en"):
        assert [comparing.in_words(one) for one in found] == [
            "Price: 9.90 CNY → 12.00 CNY",
            "Units included: 1,000 → 2,000.5",
        ]
    card = CardTerms(weights=(Weight("a*", *(Decimal(1),) * 5),))
    other = CardTerms(weights=(Weight("b*", *(Decimal("0.5"),) * 5),))
    with translation.override("en"):
        assert [comparing.in_words(one) for one in comparing.differences(card, other)] == [
            "a*: no longer 1 / 1 / 1 / 1 / 1",
            "b*: now 0.5 / 0.5 / 0.5 / 0.5 / 0.5",
        ]
    assert comparing.differences(RICH, RICH) == []
