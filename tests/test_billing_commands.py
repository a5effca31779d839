"""How a bill came about, what the accounts say, how far a close is: as operators ask it."""

from __future__ import annotations

import csv
import io

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction

from billing import closing
from subscriptions.models import Operator, SubscriptionPeriod
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
    yuan,
)
from tests.usage import DAY, Gateway, post, record

pytestmark = pytest.mark.django_db

NOON = local(2026, 6, 21, 12)


@pytest.fixture
def operator() -> Operator:
    """One who used beyond the allowance in the last ten days of June, billed by the day."""
    operator = make_operator("ct", at=NOON)
    plan = make_plan(
        operator,
        first_month="by_day",
        allowance=0,
        on_exhaustion="meter",
        price_per_million="1.20",
        cap=yuan("50"),
    )
    subscribe(make_subscriber(operator), plan)
    body = record("u", occurred_at=NOON, input_tokens=1_234_567, output_tokens=0)
    assert Gateway(operator).charge(body)["accepted"] == 1
    move(operator, local(2026, 7, 3))
    return operator


def move(operator: Operator, to: object) -> None:
    answer = post(client_for(make_key(operator)), "test-clock", {"now": str(to)})
    assert answer.status_code == 200, answer.content


def printed(*command: str) -> str:
    out = io.StringIO()
    call_command(*command, stdout=out, no_color=True)
    return out.getvalue()


def test_a_subscriber_can_follow_how_a_bill_came_about(operator: Operator) -> None:
    assert printed("explain", "CT-2026-00000001").splitlines() == [
        "CT-2026-00000001 (open, due 2026-07-18)",
        "for 2026-06-21T12:00:00+08:00 to 2026-07-01T00:00:00+08:00",
        "",
        "1. fee: Light",
        "   plan light version 1, 2026-06-21T12:00:00+08:00 to 2026-07-01T00:00:00+08:00",
        "   9.90 x 10 of 30 days",
        "   3.30 with tax: 3.30 / (1 + 6 %) = 3.11 net, 3.30 - 3.11 = 0.19 tax",
        "",
        "2. overage: Light",
        "   plan light version 1, 2026-06-21T12:00:00+08:00 to 2026-07-01T00:00:00+08:00",
        "   1234567.000 units beyond the allowance x 1.200000 per million = 1.4814804",
        "   never more than 50.00",
        "   1.48 with tax: 1.48 / (1 + 6 %) = 1.40 net, 1.48 - 1.40 = 0.08 tax",
        "",
        "Total, the sums of the lines: 4.51 net + 0.27 tax = 4.78 CNY",
    ]


def test_there_is_nothing_to_explain_of_a_number_that_is_not_there(operator: Operator) -> None:
    for number in ("CT-2026-00000002", "nonsense"):
        with pytest.raises(CommandError, match="no such invoice"):
            printed("explain", number)


def test_the_trial_balance_is_that_of_its_date_and_adds_up(operator: Operator) -> None:
    rows = list(csv.DictReader(io.StringIO(printed("trial_balance", "--csv"))))

    assert {row["account"]: row["balance"] for row in rows} == {
        "receivable": "4.78",
        "revenue:light:0.06": "-4.51",
        "vat:0.06": "-0.27",
    }
    assert "Sum: 0.00 CNY" in printed("trial_balance")
    early = printed("trial_balance", "--at", "2026-07-01T00:00:00+08:00")
    assert early == "Sum: nothing was posted\n"
    make_operator("other")
    with pytest.raises(CommandError, match="--operator"):
        printed("trial_balance")
    assert "Sum: nothing was posted\n" in printed("trial_balance", "--operator", "other")


def test_closes_are_shown_with_who_could_not_be_billed(operator: Operator) -> None:
    periods = SubscriptionPeriod.objects.filter(closed_at__isnull=True)
    with transaction.atomic():
        plans = dict(periods.values_list("starts_at", "plan_id"))
        periods.update(plan_id=10**12)
    try:
        assert closing.plan(operator, at=local(2026, 8, 3)) == 1
        assert closing.close_next(operator, at=local(2026, 8, 3))
    finally:
        for start, plan_id in plans.items():
            periods.filter(starts_at=start).update(plan_id=plan_id)

    shown = printed("closes")
    assert "ended by 2026-06-30T16:00:00+00:00: 1 invoices, 0 periods left, 0 failed" in shown
    assert "failed: s-1, tried 1 times: there is no plan version 1000000000000" in shown
    assert "1 to be tried again" in printed("closes", "--operator", "ct", "--retry")
    move(operator, local(2026, 7, 3) + 31 * DAY)
    assert "0 periods left, 0 failed" in printed("closes").splitlines()[1]
