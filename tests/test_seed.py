"""What the platform sells out of the box."""

from __future__ import annotations

import io
import json
from decimal import Decimal

import pytest
from django.core.management import call_command

from subscriptions import catalog, reference_card, seeding
from subscriptions.models import Booster, Operator, Plan, RateCard
from tests.factories import (
    NOW,
    buckets_of,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
    yuan,
)

MODELS = json.loads(reference_card.PRICES.read_text(encoding="utf-8"))["models"]
WEIGHTS = {weight.model: weight for weight in reference_card.weights()}


@pytest.mark.django_db
def test_seeding_again_changes_nothing() -> None:
    for _ in range(2):
        call_command("seed", stdout=io.StringIO())

    assert sorted(Operator.objects.values_list("code", flat=True)) == ["cmcc-gd", "ctcc-sh"]
    assert RateCard.objects.count() == 2
    assert Booster.objects.count() == 6
    assert sorted(Plan.objects.values_list("code", "price", "allowance", "version")) == [
        ("developer-basic", Decimal("39.90"), 15_000_000_000, 1),
        ("developer-flagship", Decimal("299.90"), 150_000_000_000, 1),
        ("developer-pro", Decimal("159.90"), 70_000_000_000, 1),
        ("light", Decimal("9.90"), 10_000_000_000, 1),
        ("premium", Decimal("49.90"), 80_000_000_000, 1),
        ("standard", Decimal("29.90"), 40_000_000_000, 1),
    ]


@pytest.mark.django_db
def test_what_an_operator_has_published_since_stays() -> None:
    seeding.seed(at=NOW)
    operator = Operator.objects.get(code="ctcc-sh")
    make_plan(operator, "light", price=yuan("8.80"))

    seeding.seed(at=NOW)

    assert catalog.newest_plan(operator.pk, "light").price == yuan("8.80")


@pytest.mark.django_db
def test_every_seeded_plan_can_be_sold() -> None:
    operator = make_operator()
    seeding.seed_offerings(operator, at=NOW)

    for code in seeding.PLANS:
        subscriber = make_subscriber(operator, code)
        subscribe(subscriber, catalog.newest_plan(operator.pk, code))
        assert buckets_of(subscriber, "allowance")


def test_every_model_is_weighed_under_both_its_names() -> None:
    assert len(MODELS) == 74
    for model in MODELS:
        assert model in WEIGHTS
        assert model.partition("/")[2] in WEIGHTS
    assert len(WEIGHTS) == 2 * 74 + 1


def test_a_unit_is_an_input_token_of_the_reference_model() -> None:
    assert WEIGHTS[reference_card.REFERENCE].input == 1
    assert WEIGHTS["*"] == catalog.Weight(
        "*",
        *(Decimal(weight) for weight in ("1.000", "0.100", "1.250", "1.429", "1.429")),
    )


def test_cached_input_is_cheaper_and_output_dearer_than_input() -> None:
    for weight in WEIGHTS.values():
        assert Decimal("0.001") <= weight.cached_input <= weight.input <= weight.cache_write
        assert weight.input <= weight.output == weight.reasoning <= 100
        if weight.input > Decimal("0.001"):  # not free
            assert weight.cached_input < weight.input < weight.cache_write


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        ("dashscope/qwen-max", "5.714 0.571 7.143 22.857 22.857"),  # no cached price
        ("moonshot/kimi-k2.6", "3.393 0.571 4.241 14.286 14.286"),
        ("dashscope/qwen3-coder-plus", "3.571 0.357 4.464 17.857 17.857"),  # the first tier
        ("zai/glm-4.7-flash", "0.001 0.001 0.001 0.001 0.001"),  # free
        ("dashscope/qwen3-30b-a3b", "1.000 0.100 1.250 1.429 1.429"),  # no price at all
    ],
)
def test_weights_follow_the_published_prices(model: str, weights: str) -> None:
    weight = WEIGHTS[model]

    assert (
        f"{weight.input} {weight.cached_input} {weight.cache_write} {weight.output}"
        f" {weight.reasoning}"
    ) == weights
