"""A carrier at work: a summer of it, with something on every page of its console."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from django.db import transaction
from rest_framework.test import APIClient

from billing import complaints, corrections, dunning, figures, giving, payments, transfers
from billing.anomalies import cases
from billing.anomalies.finding import Finding
from billing.interchange import exports, imports
from billing.models import AnomalyCase, Approval, CloseChunk, Handover, Invoice, PriceDraft
from billing.prices import drafting
from billing.prices.terms import CardTerms
from billing.vouchers import keeping as vouchers
from metering import usage_windows
from subscriptions import catalog, clock, dispatching, jobs, lifecycle
from subscriptions.console.jobs import schedule
from subscriptions.models import (
    ApiKey,
    Notice,
    Operator,
    Plan,
    Subscriber,
    WebhookDelivery,
)
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_rate_card,
    yuan,
)
from tests.lively import taken
from tests.payer import Browser, deliver
from tests.usage import DAY, HOUR, Gateway, record

BEGINS = local(2026, 5, 4)
NOW = local(2026, 7, 4, 9, 30)
CUSTOMERS = 360
PLANS = (
    ("light", "轻享版", "9.90", 10),
    ("standard", "标准版", "29.90", 40),
    ("premium", "尊享版", "49.90", 80),
    ("basic", "开发者基础版", "39.90", 15),
    ("pro", "开发者专业版", "159.90", 70),
    ("flagship", "旗舰版", "299.90", 150),
)
MODELS = ("deepseek/deepseek-chat", "dashscope/qwen-plus", "zai/glm-4.6", "moonshot/kimi-k2")


@dataclass(frozen=True, slots=True)
class Carrier:
    """`of` names what pages are about, by the parameter of their address."""

    operator: Operator
    of: dict[str, Any]


def carrier() -> Carrier:
    operator = make_operator("sh", at=BEGINS)
    Operator.objects.filter(pk=operator.pk).update(name="中国电信上海公司")
    operator.refresh_from_db()
    _sells(operator)
    api = client_for(make_key(operator))
    senders = [Gateway(operator, name=name) for name in ("edge-pudong", "edge-minhang")]
    hear: dict[str, Any] = {"url": "https://crm.example.com/hooks/tokens", "kinds": []}
    taken(api, "webhook-endpoints", hear)
    _buys(api)
    for month, days in ((5, range(5, 30, 4)), (6, range(6, 30, 4))):
        for day in days:
            _move(operator, api, local(2026, month, day, 20))
            _use(operator, senders, day)
        _move(operator, api, local(2026, month + 1, 4, 3))
        _pay(operator, 11 if month == 5 else 3)
    _move(operator, api, NOW)
    _use(operator, senders, 4)
    of = _today(operator, api, senders)
    for task in schedule():
        jobs.ended(task, at=clock.wall(), seconds=0.4, error=None)
    figures.measure(operator, at=NOW)
    return Carrier(operator, of)


def _move(operator: Operator, api: APIClient, to: dt.datetime) -> None:
    taken(api, "test-clock", {"now": to.isoformat()})
    operator.refresh_from_db()


def _sells(operator: Operator) -> None:
    weights = {
        "deepseek/*": ("1", "0.1", "1", "4", "4"),
        "dashscope/qwen-*": ("1.2", "0.12", "1.2", "5", "5"),
        "*": ("2", "0.2", "2", "8", "8"),
    }
    make_rate_card(operator, weights=weights)
    dunning.set_policy(operator, at=BEGINS)
    for code, name, price, millions in PLANS:
        make_plan(
            operator,
            code,
            name=name,
            price=yuan(price),
            allowance=millions * 10**9,
            rollover=Plan.Rollover.ONE_CYCLE,
            on_exhaustion="meter",
            price_per_million=Decimal("1.20"),
            cap=yuan("200.00"),
        )
    catalog.publish_booster(
        operator,
        "b5",
        name="400 万加油包",
        price=yuan("5.00"),
        units=4_000_000_000,
        valid_days=90,
        at=BEGINS,
    )


def _buys(api: APIClient) -> None:
    batch: Any = [
        {
            "external_id": f"c-{100_000 + nr}",
            "name": f"客户{nr}",
            "msisdn": f"139{18_000_000 + nr * 7919:08}",
            "email": f"c{nr}@example.com",
            "subjects": [f"139{18_000_000 + nr * 7919:08}"],
            # Most buy the small ones.
            "plan": PLANS[(0, 0, 0, 1, 1, 2, 3, 3, 4, 5)[nr % 10]][0],
        }
        for nr in range(CUSTOMERS)
    ]
    said = taken(api, "subscribers/batch", batch)
    assert {one["status"] for one in said["items"]} == {"created"}


def _use(operator: Operator, senders: list[Gateway], day: int) -> None:
    """An evening: each customer asks a model or two, some much more than others."""
    at = clock.now(operator)
    for nr, sender in enumerate(senders):
        sender.charge(
            *(
                record(
                    f"{at:%m%d}-{who:04}-{nr}",
                    subject=f"139{18_000_000 + who * 7919:08}",
                    model=MODELS[(who + day + nr) % len(MODELS)],
                    occurred_at=at - dt.timedelta(seconds=13 * who + 60),
                    input_tokens=90_000 + 37_000 * ((who * day) % 11) + 900_000 * (who % 29 == 0),
                    cached_input_tokens=40_000,
                    output_tokens=21_000 + 9_000 * ((who + day) % 7),
                )
                for who in range(nr, CUSTOMERS, 2)
            )
        )


def _pay(operator: Operator, of_each: int) -> None:
    """All but one of so many pay the bill of the month."""
    for nr, invoice in enumerate(Invoice.objects.filter(operator=operator, state="open")):
        if nr % of_each:
            due = invoice.gross - invoice.paid
            payments.record(
                operator,
                invoice.number or "",
                amount=due,
                key=f"bank-{invoice.pk}",
                way=("wechat_pay", "alipay", "bank")[nr % 3],
                at=clock.now(operator),
            )


# The day itself -----------------------------------------------------------------------------------


def _today(operator: Operator, api: APIClient, senders: list[Gateway]) -> dict[str, Any]:
    whose = {one.external_id: one for one in Subscriber.objects.filter(operator=operator)}
    her = whose["c-100029"]
    lifecycle.suspend(her.pk, reason="挂失", at=NOW - 2 * HOUR, frozen=True)
    lifecycle.restore(her.pk, at=NOW - HOUR)
    while dispatching.dispatch(at=NOW):
        pass
    for nr in (29, 31, 33, 37, 41):
        _orders(operator, api, f"c-{100_000 + nr}", nr)
    corrections.set_rules(
        operator,
        corrections.Rules(Decimal("50.00"), units_limit=10**10, prices_by_two=True),
        by="platform@example.com",
        at=NOW,
    )
    window = _counted(operator, senders[0])
    for nr in range(9):
        senders[nr % 2].send(_lost(nr))
    asked: dict[str, Any] = {"by": "agent@example.com", "at": NOW}
    for units, reason in ((20, "故障补偿"), (50, "投诉补偿")):
        giving.give(
            operator,
            her.pk,
            units=units * 10**9,
            valid_until=NOW + 30 * DAY,
            reason=reason,
            once=reason,
            **asked,
        )
    giving.credit(operator, her.pk, Decimal("88.00"), reason="网络中断", once="w", **asked)
    plan, card = _drafts(operator)
    evidence = {"hour": NOW.isoformat(), "units": "18200000.000", "usual": "310000.000"}
    found = [
        Finding(whose[f"c-{100_000 + nr}"].pk, kind, f"k{nr}", evidence | {"requests": 912})
        for nr, kind in ((58, "velocity"), (87, "networks"), (116, "end_users"))
    ]
    with transaction.atomic():
        cases.keep(operator, found, at=NOW)
    complaint = _complains(operator, her, whose["c-100044"])
    for nr, amount in enumerate(("29.90", "159.90", "42.00")):
        told = transfers.Told(f"20260704{nr:04}", Decimal(amount), "CNY", NOW, "某公司", "7 月")
        transfers.tell(operator, told, at=NOW)
    _order_vouchers(operator)
    job = _moves_files(operator)
    taken(api, "handovers", _HANDS_OVER)
    CloseChunk.objects.create(
        operator=operator,
        ended_by=NOW - 2 * DAY,
        first_subscriber=whose["c-100002"].pk,
        last_subscriber=whose["c-100002"].pk,
        periods=1,
        state="failed",
        reason="rate card standard has no version at the begin of the period",
        attempts=3,
        planned_at=NOW,
    )
    key = ApiKey.objects.filter(gateway_id=window.gateway_id).latest("pk")
    return {
        "subscriber_id": her.pk,
        "notice_id": Notice.objects.filter(subscriber=her).latest("pk").pk,
        "delivery_id": WebhookDelivery.objects.filter(subscriber_id=her.pk).latest("pk").pk,
        "case_id": AnomalyCase.objects.earliest("pk").pk,
        "gateway_id": window.gateway_id,
        "key_id": key.pk,
        "window_id": window.pk,
        "job_id": job,
        "code": "SUMMER",
        "number": complaint,
        "approval_id": Approval.objects.filter(about_id=plan.pk, kind="price").get().pk,
        "draft_id": plan.pk,
        "card_id": card.pk,
        "handover_id": Handover.objects.get().pk,
    }


_HANDS_OVER: dict[str, Any] = {
    "kind": "transfer",
    "subscriber": "c-100051",
    "receiver": "c-100052",
    "subjects": [f"139{18_000_000 + 51 * 7919:08}"],
    "balance": "keep",
    "reason": "过户",
}


def _orders(operator: Operator, api: APIClient, who: str, nr: int) -> None:
    """A booster that is paid in an app; the last one is not."""
    made = taken(api, f"subscribers/{who}/orders", {"kind": "booster", "booster": "b5"})
    way = ("alipay", "wechat_pay")[nr % 4 // 2]
    [*_, attempt] = taken(api, f"orders/{made['number']}/pay", {"way": way})["attempts"]
    if nr < 41:
        Browser().open(attempt["action"]["url"]).press("do", "pay")
        deliver(operator)


def _lost(nr: int) -> dict[str, Any]:
    """What cannot be charged: of nobody, or of a time long gone."""
    wrong: dict[str, Any] = {"subject": f"1381234{nr:04}"}
    if nr % 3 == 2:
        wrong = {"subject": "13918000000", "occurred_at": NOW - 60 * DAY}
    return record(f"lost-{nr}", **{"occurred_at": NOW - dt.timedelta(minutes=5), **wrong})


def _counted(operator: Operator, sender: Gateway) -> Any:
    """A window of which the gateway counted more than came."""
    key = ApiKey.objects.filter(gateway__operator=operator).earliest("pk")
    assert key.gateway is not None
    said = {
        "window_start": (NOW - 2 * HOUR).isoformat(),
        "window_end": NOW.isoformat(),
        "requests": 184,
        "input_tokens": 61_204_000,
        "output_tokens": 8_190_400,
        "sequences": [{"first": 1, "last": 4}],
    }
    told = usage_windows.post(
        key.gateway, key.pk, usage_windows.parse(json.dumps(said).encode()), at=NOW
    )
    usage_windows.compare(told, at=NOW)
    return usage_windows.find(operator.pk, told)


def _drafts(operator: Operator) -> tuple[PriceDraft, PriceDraft]:
    """A plan that waits for approval, and a rate card that is being made."""
    sold = drafting.sold(operator, "plan", "light")
    assert isinstance(sold, catalog.PlanTerms)
    made: dict[str, Any] = {"by": "product@example.com", "at": NOW}
    summer = replace(sold, price=yuan("8.80"), allowance=12 * 10**9)
    plan = drafting.draft(operator, "light", summer, note="暑期优惠", **made)
    drafting.ask(operator, plan.pk, reason="暑期优惠", **made)
    old = drafting.sold(operator, "rate_card", "standard")
    assert isinstance(old, CardTerms)
    new = (catalog.Weight("moonshot/*", *map(Decimal, ("1.5", "0.15", "1.5", "6", "6"))),)
    card = drafting.draft(operator, "standard", CardTerms(weights=old.weights + new), **made)
    return plan, card


def _complains(operator: Operator, *whose: Subscriber) -> str:
    """Three of them, one overdue; the number of the first."""
    numbers = [
        complaints.lodge(
            operator,
            one.pk,
            kind=kind,
            text=text,
            key=kind,
            channel="hotline",
            at=NOW - days * DAY,
        ).number
        for one, kind, text, days in (
            (whose[0], "service", "昨晚一直连不上,客服电话也打不通。", 17),
            (whose[1], "usage", "我没有用这么多词元,请核对 7 月 2 日的记录。", 3),
            (whose[1], "privacy", "请告诉我你们保存了我的哪些信息。", 1),
        )
    ]
    return numbers[0]


def _order_vouchers(operator: Operator) -> None:
    terms = vouchers.Terms(
        name="暑期充值卡 50 元",
        count=200,
        valid_from=NOW,
        valid_until=NOW + 180 * DAY,
        amount=Decimal(50),
        currency="CNY",
    )
    vouchers.order(operator, "SUMMER", terms, by="finance@example.com", at=NOW)
    for batch in vouchers.making(operator.pk):
        while vouchers.make_next(batch, at=NOW):
            pass


def _moves_files(operator: Operator) -> int:
    rows = b"external_id,name\nf-1,\xe5\xae\xa2\xe6\x88\xb7\n,\xe5\xae\xa2\xe6\x88\xb7\n"
    by = "operations@example.com"
    job = imports.receive(operator, "subscribers", [rows], name="crm-0704.csv", by=by, at=NOW)
    imports.work(job.pk, instant=lambda: NOW, more=lambda: True)
    out = exports.order(operator, "subscribers", language="zh", by=by, at=NOW)
    exports.work(out.pk, instant=lambda: NOW, more=lambda: True)
    return int(job.pk)
