"""A subscriber to look at once the demo is over: two months of a life, and a password to sign in.

Sold, used, ordered and paid through the HTTP API, as all of the demo is; only the user is made
here, as no form is filled in. Each run makes another.
"""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from allauth.account.models import EmailAddress
from django.db import transaction

from billing import closing
from config.demo_stages import Api, DemoError
from metering import rollups
from subscriptions import clock, periods
from subscriptions.models import Operator, User
from subscriptions.users import access
from token_billing_client import Batch, Poster

PLAN = "light"
BOOSTER = "booster-4m"
# What a token of these models counts is close to one unit, or to less.
_MODELS = ("deepseek/deepseek-chat", "dashscope/qwen-plus", "zai/glm-4.6", "minimax/MiniMax-M2.5")
_HOURS = (8, 9, 10, 12, 15, 17, 20, 22)
# Usage may be told so far back.
_BACK = dt.timedelta(days=34)
_MILLION = 1_000_000
# A day's use before this month, and all of this month's; of the plan's allowance so much is left.
_A_DAY = 300_000
_LEFT = 1_500_000


@dataclass(frozen=True, slots=True)
class Login:
    email: str
    password: str
    external_id: str


def make(operator: Operator, api: Api, poster: Poster) -> Login:
    """A subscriber with usage by hour and model, buckets of several kinds, a paid invoice and one
    to be paid, orders, alerts; and their login."""
    run = secrets.token_hex(3)
    name = f"visitor-{run}"
    login = Login(f"{name}@example.com", f"demo-{secrets.token_hex(4)}", name)
    now, zone = clock.now(operator), ZoneInfo(operator.time_zone)
    here = f"subscribers/{name}"
    phone = f"+86139{secrets.randbelow(10**8):08}"
    person = {"name": "体验用户", "kind": "person", "subjects": [name, f"{name}-phone"]}
    api.call("PUT", here, person | {"msisdn": phone, "email": login.email})
    # Of two months the bills are there, also where the last one's waits for late usage.
    begins = periods.month_start(now - operator.late_grace, zone)
    for _ in range(2):
        begins = periods.month_start(begins - dt.timedelta(days=1), zone)
    api.call("POST", f"{here}/subscriptions", {"plan": PLAN, "starts_at": begins.isoformat()})
    gift = {"units": "800000", "valid_until": (now + dt.timedelta(days=40)).isoformat()}
    api.call("POST", f"{here}/grants", gift | {"reason": "新用户礼包"})

    records = list(_usage(name, run, periods.month_start(now, zone), now, zone))
    poster.post(_batch(records[at : at + 1000]) for at in range(0, len(records), 1000))
    # What is still above what should be left goes in one long conversation.
    spare = int(Decimal(api.call("GET", f"{here}/balance")["available"])) - _LEFT
    if spare > 0:
        poster.post([_batch([_record(f"{run}-last", name, _MODELS[0], now, spare, 0)])])

    # Months are billed when their usage is in the totals.
    rollups.fold_all(at=now)
    closing.close_due(operator, at=now)
    _pay(api, here)
    with transaction.atomic():
        user = User.objects.create_user(
            email=login.email,
            password=login.password,
            phone=phone,
            phone_verified=True,
            created_at=now,
        )
        EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    access.begin(user, operator, at=now)
    return login


def _usage(
    name: str, run: str, month: dt.datetime, now: dt.datetime, zone: ZoneInfo
) -> Iterator[dict[str, Any]]:
    """Some hours of each day that can still be told of; this month's days share what it used."""
    first = periods.day_start(now - _BACK, zone) + dt.timedelta(days=1)
    days = [first + dt.timedelta(days=n) for n in range((now - first).days + 1)]
    of_month = sum(day >= month for day in days) or 1
    for day in days:
        total = 15 * _MILLION // of_month if day >= month else _A_DAY
        for nr, hour in enumerate(_HOURS):
            at = day + dt.timedelta(hours=hour, minutes=7 * nr)
            if at > now:
                continue
            tokens = total * (nr % 4 + 1) // 20
            model = _MODELS[(nr + day.day) % len(_MODELS)]
            subject = name if nr % 3 else f"{name}-phone"
            yield _record(f"{run}-{day:%m%d}-{nr}", subject, model, at, tokens, tokens // 20)


def _batch(records: list[dict[str, Any]]) -> Batch:
    return Batch(json.dumps(records).encode(), len(records))


def _record(
    id: str, subject: str, model: str, at: dt.datetime, tokens: int, output: int
) -> dict[str, Any]:
    return {
        "id": f"visit-{id}",
        "subject": subject,
        "model": model,
        "occurred_at": at.isoformat(),
        "input_tokens": tokens,
        "cached_input_tokens": tokens // 3 if output else 0,
        "output_tokens": output,
    }


def _pay(api: Api, here: str) -> None:
    """A wallet filled by the bank pays a booster and the first invoice; one order is left open."""
    name = here.partition("/")[2]
    money = {"reference": f"bank-{name}", "amount": "50.00", "payer": "体验用户"}
    api.call("POST", "transfers", money | {"pays": {"wallet": name}})
    booster = {"kind": "booster", "booster": BOOSTER}
    invoices = api.call("GET", f"{here}/invoices")["items"]
    due = [one["number"] for one in invoices if one["state"] == "open"]
    if len(due) < 2:
        raise DemoError(f"{name} has {len(due)} open invoices instead of two")
    for what in (booster, {"kind": "invoice", "invoice": min(due)}):
        number = api.call("POST", f"{here}/orders", what)["number"]
        api.call("POST", f"orders/{number}/pay", {"way": "wallet"})
    api.call("POST", f"{here}/orders", booster)
