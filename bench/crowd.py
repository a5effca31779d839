"""A carrier's million: a few lived through the domain's functions, and their rows copied.

Those few are sold plans, use them, are billed and pay; each of their rows, in every table that is
a subscriber's, is then there many times under other numbers, without the triggers of foreign keys.
Among them one heavy subscriber, who used ten models in every hour of two years, with an invoice
for each month: the last days are told of by a gateway, all before is put into the totals.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

from allauth.account.models import EmailAddress
from django.db import connection
from rest_framework.test import APIClient

from billing import closing, due
from metering import rollups
from subscriptions import clock, keys, lifecycle, periods, registry, seeding
from subscriptions.models import Access, ApiKey, Operator, Role, Subscriber, User
from subscriptions.registry import Draft
from subscriptions.subscriber_keys import keeping
from subscriptions.subscriber_keys.keeping import Terms
from subscriptions.users import staff

CODE = "crowd"
SIZE = 1_000_000
SEEDS = 40
HEAVY = "heavy"
PASSWORD = "correct-horse-battery"
DAY = dt.timedelta(days=1)
YEARS = 730 * DAY
SUBJECTS = 8
MODELS = (
    *(f"vendor-{nr}/model-{nr}" for nr in range(8)),
    "deepseek/deepseek-chat",
    "dashscope/qwen-plus",
)
# What a gateway tells of the heavy one: of these days so many requests each.
_TOLD_DAYS = 20
_A_DAY = 2_000
# How long before the others bought: a month of theirs is over.
_BOUGHT_BEFORE = 40 * DAY

# Tables of the operator's whose rows come with its subscribers'.
_BESIDES = ("billing_posting", "billing_entry")
# What names a row of one of these tables without a foreign key.
_NAMES = {
    "subscription_id": "subscriptions_subscription",
    "bucket_id": "subscriptions_bucket",
    "subject_id": "subscriptions_subject",
    "invoice_id": "billing_invoice",
    "order_id": "billing_order",
    "posting_id": "billing_posting",
}
_TABLES_SQL = """
SELECT c.relname, a.attname, a.atttypid::regtype::text, a.attgenerated <> ''
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY c.relname, a.attnum
"""
_FOREIGN_SQL = """
SELECT c.conrelid::regclass::text, a.attname, c.confrelid::regclass::text
FROM pg_constraint c
CROSS JOIN LATERAL unnest(c.conkey, c.confkey) AS k (here, there)
JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.here
JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = k.there AND b.attname = 'id'
WHERE c.contype = 'f'
"""
_UNIQUE_SQL = """
SELECT i.indrelid::regclass::text, array_agg(a.attname ORDER BY k.nr)
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (col, nr)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.col
WHERE i.indisunique AND i.indrelid::regclass::text = ANY(%s)
GROUP BY i.indexrelid, i.indrelid
"""
# Totals from before what was told, as the fold would have left them.
_HOURS_SQL = """
INSERT INTO {table}
    (subscriber_id, hour, {key}, requests, uncached_input_tokens, cached_input_tokens,
     cache_write_tokens, output_tokens, reasoning_tokens, units)
SELECT %(subscriber)s, hour, k, 40, 70000, 10000, 0, 20000, 0, 90000000
FROM generate_series(%(since)s::timestamptz, %(until)s::timestamptz - interval '1 hour', '1 hour')
     AS h (hour)
CROSS JOIN unnest(%(parts)s::{type}[]) AS s (k)
"""
_DAYS_SQL = """
INSERT INTO {days}
SELECT subscriber_id, (hour AT TIME ZONE %(zone)s)::date, {key}, sum(requests),
       sum(uncached_input_tokens), sum(cached_input_tokens), sum(cache_write_tokens),
       sum(output_tokens), sum(reasoning_tokens), sum(units)
FROM {table} WHERE subscriber_id = %(subscriber)s AND hour < %(until)s
GROUP BY 1, 2, 3
"""


def build(size: int, advance: Callable[[int], None]) -> None:
    """Fill the database of Django's connection; `advance` is told how many more are done."""
    now = clock.wall()
    operator = Operator.objects.create(code=CODE, name="Crowd", created_at=now - YEARS)
    seeding.seed_offerings(operator, at=now - YEARS)
    due.make_partitions(at=now)
    gateway, crm = _clients(now)
    numbers = range(min(SEEDS, size))
    _live(operator, gateway, crm, numbers, now)
    advance(len(numbers))
    _multiply(size // len(numbers), lambda: advance(len(numbers)))
    _heavy(operator, gateway, crm, now)
    staff.engage("staff@example.com", operator, Role.PLATFORM, password=PASSWORD, at=now)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")
        cursor.execute("CHECKPOINT")


def _clients(now: dt.datetime) -> tuple[APIClient, APIClient]:
    """A gateway, and the carrier's own system."""
    made = []
    for role in (ApiKey.Role.GATEWAY, ApiKey.Role.OPERATOR):
        key = keys.issue(operator_code=CODE, role=role, name="bench", at=now)
        made.append(APIClient(SERVER_NAME="127.0.0.1"))
        made[-1].credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    return made[0], made[1]


def _sent(client: APIClient, path: str, body: Any) -> Any:
    answer = client.post(f"/api/v1/{path}", body, format="json")
    assert answer.status_code in (200, 201, 202), (path, answer.content)
    return answer.json()


# The few -----------------------------------------------------------------------------------------


def _live(
    operator: Operator, gateway: APIClient, crm: APIClient, numbers: range, now: dt.datetime
) -> None:
    bought = now - _BOUGHT_BEFORE
    plans = list(seeding.PLANS)
    names = [f"c-{nr:04}" for nr in numbers]
    drafts = [
        Draft(
            external_id=name,
            name="王小明",
            msisdn=f"+86139{nr:08}",
            email=f"{name}@example.com",
            subjects=(f"user-{name}",),
            plan=plans[nr % len(plans)],
        )
        for nr, name in zip(numbers, names, strict=True)
    ]
    outcomes = registry.upsert(operator, drafts, at=bought)
    assert all(outcome.status == registry.CREATED for outcome in outcomes)
    while lifecycle.open_due(None, at=now):
        pass
    for back in range(3):
        records = [
            {
                "id": f"{back}-{name}",
                "subject": f"user-{name}",
                "model": MODELS[-1 - back % 2],
                "occurred_at": (now - back * DAY - dt.timedelta(seconds=60)).isoformat(),
                "input_tokens": 4_000,
                "output_tokens": 500,
            }
            for name in names
        ]
        assert _sent(gateway, "usage-records", records)["accepted"] == len(records)
    rollups.fold_all(at=now)
    closing.close_due(operator, at=now)
    for nr, name in zip(numbers, names, strict=True):
        money = {"reference": f"bank-{name}", "amount": "900.00", "payer": "王小明"}
        _sent(crm, "transfers", money | {"pays": {"wallet": name}})
        booster = {"kind": "booster", "booster": next(iter(seeding.BOOSTERS))}
        order = _sent(crm, f"subscribers/{name}/orders", booster)["number"]
        if nr % 3:
            _sent(crm, f"orders/{order}/pay", {"way": "wallet"})
        open_ones = _invoices(crm, name)
        if nr % 4 and open_ones:
            order = _sent(
                crm, f"subscribers/{name}/orders", {"kind": "invoice", "invoice": open_ones[0]}
            )["number"]
            _sent(crm, f"orders/{order}/pay", {"way": "wallet"})


def _invoices(crm: APIClient, name: str) -> list[str]:
    items = crm.get(f"/api/v1/subscribers/{name}/invoices").json()["items"]
    return [one["number"] for one in items if one["state"] == "open"]


# The many ----------------------------------------------------------------------------------------


def _multiply(times: int, advance: Callable[[], None]) -> None:
    """Let each row of the operator's subscribers be there so many times."""
    with connection.cursor() as cursor:
        cursor.execute(_TABLES_SQL)
        columns: dict[str, list[tuple[str, str]]] = {}
        for table, column, kind, generated in cursor.fetchall():
            if not generated:
                columns.setdefault(table, []).append((column, kind))
        tables = {
            table
            for table, held in columns.items()
            if "subscriber_id" in dict(held) or table in _BESIDES
        } | {"subscriptions_subscriber"}
        cursor.execute(_FOREIGN_SQL)
        foreign = {
            (table, column): there for table, column, there in cursor.fetchall() if there in tables
        }
        cursor.execute(_UNIQUE_SQL, [sorted(tables)])
        unique: dict[str, list[list[str]]] = {}
        for table, names in cursor.fetchall():
            unique.setdefault(table, []).append(names)
        strides = {}
        for table in tables:
            if "id" in dict(columns[table]) and dict(columns[table])["id"] != "uuid":
                cursor.execute(f'SELECT coalesce(max(id), 0) + 1 FROM "{table}"')
                strides[table] = cursor.fetchone()[0]
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("SET synchronous_commit = off")
        statements = []
        for table in sorted(tables):
            cursor.execute(f'SELECT EXISTS (SELECT FROM "{table}")')
            if cursor.fetchone()[0]:
                shifted = _shifted(table, columns[table], foreign, strides)
                told = _told_apart(columns[table], shifted, unique.get(table, []))
                statements.append(_copying(table, columns[table], shifted, told))
        # In parts, so that it is seen to go on.
        step = max(1, times // 20)
        for first in range(1, times, step):
            last = min(first + step, times) - 1
            for statement in statements:
                cursor.execute(statement, [first, last])
            for _ in range(first, last + 1):
                advance()
        for table in strides:
            cursor.execute(
                f"""
                SELECT setval(of, (SELECT coalesce(max(id), 0) + 1 FROM "{table}"))
                FROM (SELECT coalesce(pg_get_serial_sequence(%(table)s, 'id'),
                                      to_regclass(%(table)s || '_id')::text) AS of) s
                WHERE of IS NOT NULL
                """,
                {"table": table},
            )
        cursor.execute("RESET session_replication_role")
        cursor.execute("RESET synchronous_commit")


def _shifted(
    table: str,
    columns: list[tuple[str, str]],
    foreign: dict[tuple[str, str], str],
    strides: dict[str, int],
) -> dict[str, str]:
    """What copy `k` has in the columns that name rows."""
    found = {}
    for column, kind in columns:
        there = foreign.get((table, column)) or _NAMES.get(column)
        if column == "subscriber_id":
            there = "subscriptions_subscriber"
        elif column == "id" and table in strides:
            there = table
        if there in strides and kind in ("bigint", "integer"):
            found[column] = f'"{column}" + k * {strides[there]}::bigint'
    if table == "subscriptions_subject":
        found["subject"] = "\"subject\" || '-' || k"
    if "msisdn" in dict(columns):
        found["msisdn"] = "'+86138' || lpad((id + k * 1000)::text, 8, '0')"
    return found


def _told_apart(
    columns: list[tuple[str, str]], shifted: dict[str, str], unique: list[list[str]]
) -> dict[str, str]:
    """What copy `k` has in a text or number that may be there once."""
    kinds = dict(columns)
    found: dict[str, str] = {}
    for names in unique:
        if not set(names) & (set(shifted) | set(found)):
            texts = [name for name in names if kinds[name].startswith(("character", "text"))]
            if texts:
                found[texts[-1]] = f"\"{texts[-1]}\" || '-' || k"
            else:  # numbers that follow each other
                assert kinds[names[-1]] in ("integer", "bigint"), names
                found[names[-1]] = f'"{names[-1]}" + k * 1000'
    return found


def _copying(
    table: str, columns: list[tuple[str, str]], shifted: dict[str, str], told: dict[str, str]
) -> str:
    names = [name for name, _ in columns]
    values = [told.get(name) or shifted.get(name) or f'"{name}"' for name in names]
    first = f" WHERE id < {shifted['id'].rpartition(' ')[2]}" if "id" in shifted else ""
    # Those without a number are the first's by their subscriber.
    if not first and "subscriber_id" in shifted:
        first = f" WHERE subscriber_id < {shifted['subscriber_id'].rpartition(' ')[2]}"
    listed = ", ".join(f'"{name}"' for name in names)
    return (
        f'INSERT INTO "{table}" ({listed}) OVERRIDING SYSTEM VALUE'
        f' SELECT {", ".join(values)} FROM "{table}"'
        f" CROSS JOIN generate_series(%s::int, %s::int) AS copies (k){first}"
    )


# The one -----------------------------------------------------------------------------------------


def _heavy(operator: Operator, gateway: APIClient, crm: APIClient, now: dt.datetime) -> None:
    zone = ZoneInfo(operator.time_zone)
    names = tuple(f"{HEAVY}-{nr}" for nr in range(SUBJECTS))
    draft = Draft(external_id=HEAVY, name="Heavy", msisdn="+8613700000000", subjects=names)
    registry.upsert(operator, [draft], at=now - YEARS)
    subscriber = registry.find(operator, HEAVY)
    plan = list(seeding.PLANS)[-1]
    lifecycle.subscribe(operator, subscriber.pk, plan, at=now - YEARS)
    while lifecycle.open_due(None, at=now):
        pass
    rng = random.Random(7)
    for back in range(_TOLD_DAYS):
        records = [
            {
                "id": f"{back}-{nr}",
                "subject": names[nr % SUBJECTS],
                "model": MODELS[nr % len(MODELS)],
                "occurred_at": (now - back * DAY - dt.timedelta(seconds=nr * 43)).isoformat(),
                "input_tokens": rng.randrange(100, 4_000),
                "output_tokens": rng.randrange(10, 1_000),
            }
            for nr in range(_A_DAY)
        ]
        assert _sent(gateway, "usage-records", records)["accepted"] == _A_DAY
    rollups.fold_all(at=now)
    _remember(subscriber, zone, now)
    for nr in range(3):
        keeping.create(subscriber, Terms(f"Key {nr}", 10**12, "month", ()), by="portal", at=now)
    closing.close_due(operator, at=now)
    _spend(crm)
    user = User.objects.create_user(email="heavy@example.com", password=PASSWORD, created_at=now)
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    Access.objects.create(user=user, operator=operator, subscriber=subscriber, created_at=now)


def _spend(crm: APIClient) -> None:
    """Money moves through the wallet, and half of the invoices are paid."""
    for nr in range(60):
        money = {"reference": f"bank-{HEAVY}-{nr}", "amount": "500.00", "payer": "Heavy"}
        _sent(crm, "transfers", money | {"pays": {"wallet": HEAVY}})
        booster = {"kind": "booster", "booster": next(iter(seeding.BOOSTERS))}
        order = _sent(crm, f"subscribers/{HEAVY}/orders", booster)["number"]
        _sent(crm, f"orders/{order}/pay", {"way": "wallet"})
    for number in _invoices(crm, HEAVY)[::2]:
        bill = {"kind": "invoice", "invoice": number}
        order = _sent(crm, f"subscribers/{HEAVY}/orders", bill)["number"]
        _sent(crm, f"orders/{order}/pay", {"way": "wallet"})


def _remember(subscriber: Subscriber, zone: ZoneInfo, now: dt.datetime) -> None:
    until = periods.day_start(now - (_TOLD_DAYS + 2) * DAY, zone)
    subjects = list(subscriber.subjects.values_list("pk", flat=True))
    told: dict[str, Any] = {"subscriber": subscriber.pk, "zone": zone.key, "until": until}
    with connection.cursor() as cursor:
        for of, key, kind, parts in (
            ("usage", "model", "text", list(MODELS)),
            ("subject", "subject_id", "bigint", subjects),
        ):
            names = {"table": f"metering_{of}hour", "days": f"metering_{of}day", "key": key}
            values = told | {"since": until - YEARS, "parts": parts}
            cursor.execute(_HOURS_SQL.format(**names, type=kind), values)
            cursor.execute(_DAYS_SQL.format(**names), values)
