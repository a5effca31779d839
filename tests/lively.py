"""A subscriber's account with some of everything, for tests of all pages at once."""

from __future__ import annotations

import datetime as dt
import html
import re
from dataclasses import dataclass
from typing import Any

from allauth.account.models import EmailAddress
from django.test import Client
from rest_framework.test import APIClient

from billing.models import Invoice
from billing.personal_data import keeping
from billing.ways.sandbox import company
from subscriptions import catalog, clock, registry
from subscriptions.models import Access, Operator, Plan, Subscriber, User
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    yuan,
)
from tests.payer import Browser, deliver
from tests.usage import Gateway, post, record

BEGINS = local(2026, 5, 4)
NOW = local(2026, 7, 4, 9, 30)
PASSWORD = "correct-horse-battery"
MODELS = ("deepseek/deepseek-chat", "dashscope/qwen-plus", "zai/glm-4.6")


@dataclass(frozen=True, slots=True)
class Account:
    """`subscriber`'s, seen by `user` at `operator`, whose clock stands at NOW."""

    operator: Operator
    subscriber: Subscriber
    user: User
    orders: tuple[str, ...]
    # A line that the subscriber has invited, and one that is a member.
    others: tuple[User, ...]

    def __deepcopy__(self, memo: Any) -> Account:
        return self  # a TestCase would copy it for each test, and it is only read


def sees(subscriber: Subscriber) -> User:
    """A user who signs in by PASSWORD and sees this subscriber's account."""
    email = f"{subscriber.external_id}@example.com"
    user = User.objects.create_user(email=email, password=PASSWORD, created_at=BEGINS)
    EmailAddress.objects.create(user=user, email=email, verified=True, primary=True)
    Access.objects.create(
        user=user, operator=subscriber.operator, subscriber=subscriber, created_at=BEGINS
    )
    return user


def signed_in(user: User, language: str = "en", **more: Any) -> Client:
    """One who has just given the password, and so is not asked for it again."""
    client = Client(headers={"accept-language": language}, **more)
    client.force_login(user)
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    return client


def lively(named: str = "", models: tuple[str, ...] = MODELS) -> Account:
    """Two months of a line: usage of several models, buckets of most kinds, alerts, an invoice
    that is paid and one that is not, orders paid, open and failed.

    All that anybody may name is called `named`, where that is given.
    """
    operator = make_operator(at=BEGINS)
    Operator.objects.filter(pk=operator.pk).update(name=named or "中国电信上海公司")
    operator.refresh_from_db()
    for code, price, millions in (("light", "9.90", 10), ("plus", "29.90", 40)):
        make_plan(
            operator,
            code,
            name=named or code.title(),
            price=yuan(price),
            allowance=millions * 10**9,
            rollover=Plan.Rollover.ONE_CYCLE,
        )
    catalog.publish_booster(
        operator,
        "b5",
        name=named or "400 万",
        price=yuan("5.00"),
        units=4_000_000_000,
        valid_days=90,
        at=BEGINS,
    )
    subscriber = make_subscriber(operator)
    user = sees(subscriber)
    draft = registry.Draft(
        external_id="s-1", name=named or "王小明", subjects=("user-s-1",), email="s-1@example.com"
    )
    registry.upsert(operator, [draft], at=BEGINS)
    api, gateway = client_for(make_key(operator)), Gateway(operator)
    taken(api, "subscribers/s-1/subscriptions", {"plan": "light"})
    orders: list[str] = []
    for month, tokens in ((5, 150_000), (6, 560_000)):
        for day in range(5, 21, 3):
            _move(operator, api, local(2026, month, day, 20))
            _use(
                operator, gateway, models, tokens=tokens, attributes={named: named} if named else {}
            )
        _move(operator, api, local(2026, month + 1, 4, 3))
        if month == 5:
            _pay_invoice(operator, api)
            orders.append(paid(operator, api, kind="booster", booster="b5"))
            paid(operator, api, kind="top_up", amount="30.00")
            gift = {"units": "500000", "valid_until": "2026-08-01T00:00:00+08:00"}
            taken(api, "subscribers/s-1/grants", gift | {"reason": named or "感谢"})
    _move(operator, api, NOW)
    _use(operator, gateway, models, tokens=4_000_000)
    orders += [ordered(api, kind="booster", booster="b5") for _ in range(2)]
    taken(api, f"orders/{orders[-1]}/pay", {"way": "alipay"})
    invited, member = (sees(make_subscriber(operator, name)) for name in ("s-3", "s-4"))
    known = [
        registry.Draft(external_id=name, email=f"{name}@example.com") for name in ("s-3", "s-4")
    ]
    registry.upsert(operator, known, at=NOW)
    _in_the_portal(operator, signed_in(user, "zh-hans"), named)
    _join(signed_in(member, "zh-hans"))
    gateway.charge(
        record("m-1", subject="user-s-4", occurred_at=NOW, input_tokens=620_000, output_tokens=0)
    )
    return Account(operator, subscriber, user, tuple(orders), (invited, member))


def _in_the_portal(operator: Operator, client: Client, named: str) -> None:
    """What a subscriber does there: a family, a complaint, a title for an e-fapiao, a saved card,
    a consent, a cancellation taken back, a file of one's data."""
    name = named or "王小明"
    _send(client, "/family/found/", name=named or "王家")
    for contact, label in (("s-3@example.com", "奶奶"), ("s-4@example.com", "小王")):
        _send(client, "/family/invite/", label=named or label, contact=contact)
    _send(
        client, "/help/complaints/", kind="usage", text=named or "昨天的用量比往常多一倍，请核对。"
    )
    for number in Invoice.objects.values_list("number", flat=True)[:1]:
        _send(client, f"/invoices/{number}/fapiao/", title="person", name=name)
    begun = _send(client, "/wallet/cards/add/", agree="yes").content.decode()
    there = re.search(r'href="([^"]*/sandbox/[^"]*)"', begun)
    assert there is not None
    Browser().open(html.unescape(there[1])).press("do", "save", card=next(iter(company.CARDS)))
    deliver(operator)
    models = named.split()[0] if named else "deepseek/*"
    _send(client, "/keys/", name=named or "笔记本电脑", cap="1M", cap_per="month", models=models)
    _send(client, "/safety/night/", begins="23:00", ends="06:00")
    _send(client, "/safety/alerts/", percents="30 90", left="500k")
    _send(client, "/renewal/", kind="auto_renew", agree="on")
    _send(client, "/plans/cancel/")
    _send(client, "/plans/cancel/", cancel="0")
    _send(client, "/accounts/data/")
    for export_id, _ in keeping.waiting():
        keeping.make(export_id, at=clock.now(operator))


def _join(client: Client) -> None:
    page = client.get("/family/").content.decode()
    invite = re.search(r'name="invite" value="(\d+)"', page)
    assert invite is not None
    _send(client, "/family/accept/", invite=invite[1])


def _send(client: Client, path: str, **fields: str) -> Any:
    answer = client.post(path, fields)
    assert answer.status_code in (200, 302), (path, answer.status_code)
    return answer


def _move(operator: Operator, api: APIClient, to: dt.datetime) -> None:
    taken(api, "test-clock", {"now": to.isoformat()})
    operator.refresh_from_db()


def _use(
    operator: Operator,
    gateway: Gateway,
    models: tuple[str, ...],
    *,
    tokens: int,
    attributes: dict[str, str] | None = None,
) -> None:
    """Requests of the last hours, of each model so many tokens."""
    at = clock.now(operator)
    gateway.charge(
        *(
            record(
                f"{at:%m%d}-{nr}",
                subject="user-s-1",
                model=model,
                occurred_at=at - dt.timedelta(hours=2 * nr),
                input_tokens=tokens,
                cached_input_tokens=tokens // 2,
                output_tokens=tokens // 10,
                attributes=attributes,
            )
            for nr, model in enumerate(models)
        )
    )


def _pay_invoice(operator: Operator, api: APIClient) -> None:
    answer = api.get("/api/v1/subscribers/s-1/invoices")
    [invoice] = [one for one in answer.json()["items"] if one["state"] == "open"]
    paid(operator, api, kind="invoice", invoice=invoice["number"])


def ordered(api: APIClient, **what: str) -> str:
    return str(taken(api, "subscribers/s-1/orders", what)["number"])


def paid(operator: Operator, api: APIClient, **what: str) -> str:
    """An order that its payer has paid in an app."""
    number = ordered(api, **what)
    [*_, attempt] = taken(api, f"orders/{number}/pay", {"way": "wechat_pay"})["attempts"]
    Browser().open(attempt["action"]["url"]).press("do", "pay")
    deliver(operator)
    return number


def taken(api: APIClient, path: str, body: dict[str, str]) -> Any:
    answer = post(api, path, body)
    assert answer.status_code in (200, 201), answer.content
    return answer.json()
