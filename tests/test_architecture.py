"""What the import contracts cannot see: keys, locks, clocks, and who writes which table."""

from __future__ import annotations

import ast
import datetime as dt
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.db import connection

from metering.adjusted import ADJUSTED
from metering.models import UsageBatch
from metering.records import RECORDS
from subscriptions import lifecycle, partitions
from subscriptions.advisory import Lock
from subscriptions.models import Bucket, Operator, Subscription
from tests.factories import (
    NOW,
    local,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import Gateway, assert_books_agree, record

ROOT = Path(settings.BASE_DIR)
ROOMS = ("subscriptions", "metering", "billing")


# --- keys ---------------------------------------------------------------------------------------

HOT = (
    "subscriptions_bucket",
    "subscriptions_bucketentry",
    "subscriptions_outboxevent",
    "subscriptions_subscription",
    "subscriptions_subscriptionperiod",
    "subscriptions_suspension",
    "subscriptions_reservation",
    "metering_usagerecord",
    "metering_usagehour",
    "metering_subjecthour",
    "metering_usageday",
    "metering_subjectday",
    "metering_adjustment",
    "metering_adjustedrecord",
)
DAY = dt.date(2026, 6, 10)
# Queues of jobs, across subscribers on purpose, and the folder's way from a batch to its records.
ACROSS_SUBSCRIBERS = {
    "subscription_opening_queue",
    "period_turn_queue",
    "period_close_queue",
    "outbox_queue",
    "outbox_told",
    "reservation_expiry_queue",
    "adjustment_list",
    "usage_hour_time",  # BRIN: a sweep reads the last hours of all
    f"{partitions.name_of(RECORDS, DAY)}_batch",
}


@pytest.fixture
def hot_tables(db: None) -> list[str]:
    """The hot tables, with a day of those that have days."""
    days = (RECORDS, ADJUSTED, partitions.ENTRIES)
    for table in days:
        partitions.ensure(table, [DAY])
    return [*HOT, *(partitions.name_of(table, DAY) for table in days)]


def rows(sql: str, *parameters: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


def test_every_key_and_index_of_a_hot_table_leads_with_the_subscriber(
    hot_tables: list[str],
) -> None:
    indexes = rows(
        "SELECT c.relname, pg_get_indexdef(i.indexrelid, 1, true) FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = ANY(%s::regclass[])",
        hot_tables,
    )

    others = {name for name, leads in indexes if leads != "subscriber_id"}
    assert others == ACROSS_SUBSCRIBERS
    assert len(indexes) > 2 * len(HOT) - len(ACROSS_SUBSCRIBERS)


def test_every_foreign_key_of_a_hot_table_is_the_subscribers(hot_tables: list[str]) -> None:
    foreign = rows(
        "SELECT conname, confrelid::regclass::text, (SELECT attname FROM pg_attribute"
        " WHERE attrelid = conrelid AND attnum = conkey[1])"
        " FROM pg_constraint WHERE contype = 'f' AND conrelid = ANY(%s::regclass[])",
        hot_tables,
    )

    assert {(table, column) for _, table, column in foreign} == {
        ("subscriptions_subscriber", "subscriber_id")
    }


def test_a_day_of_records_is_unique_by_their_identity(hot_tables: list[str]) -> None:
    [(definition,)] = rows(
        "SELECT pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indisunique AND indrelid = %s::regclass",
        partitions.name_of(RECORDS, DAY),
    )

    assert definition.endswith("(subscriber_id, gateway_id, source, record_id)")


def test_hot_tables_have_no_triggers_and_nothing_waits_for_the_commit(
    hot_tables: list[str],
) -> None:
    triggers = rows(
        "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = ANY(%s::regclass[])",
        hot_tables,
    )
    deferrable = rows(
        "SELECT conname FROM pg_constraint WHERE condeferrable AND conrelid = ANY(%s::regclass[])",
        hot_tables,
    )

    assert (triggers, deferrable) == ([], [])


# --- who writes which table ---------------------------------------------------------------------

# A table that is not here is written nowhere.
WRITERS = {
    "subscriptions/buckets.py": {"bucket", "bucketentry"},
    "subscriptions/freezing.py": {"freeze"},
    "subscriptions/outbox.py": {"outboxevent"},
    "subscriptions/webhooks/endpoints.py": {"webhookendpoint"},
    "subscriptions/webhooks/queue.py": {"webhookdelivery", "webhookattempt"},
    "subscriptions/notices/queue.py": {"notice"},
    "subscriptions/notices/preferences.py": {"noticepreference"},
    "subscriptions/notices/policies.py": {"noticepolicy"},
    "subscriptions/families/keeping.py": {"family", "familymember", "familyinvite"},
    "subscriptions/families/giving.py": {"familygift"},
    "subscriptions/reservations.py": {"reservation", "reservationname"},
    "subscriptions/lifecycle.py": {
        *("subscription", "subscriptionperiod", "suspension", "upgrade", "ending"),
    },
    "subscriptions/expected.py": {"expectedperiod"},
    "subscriptions/jobs.py": {"job"},
    "subscriptions/taxes.py": {"taxrate"},
    "subscriptions/coupons.py": {"coupon", "redemption"},
    "subscriptions/registry.py": {"subscriber", "subject"},
    "subscriptions/catalog.py": {
        "plan",
        "plancomponent",
        "plantier",
        "planretirement",
        "planwindow",
        "booster",
        "ratecard",
        "ratecardweight",
    },
    # Of users only that a number is another's by now; the rest is written by allauth's forms.
    "subscriptions/users/access.py": {"access", "user"},
    "subscriptions/users/staff.py": {"staff", "staffnetwork"},
    "subscriptions/auditing.py": {"auditentry"},
    "subscriptions/keys.py": {"operator", "gateway", "apikey"},
    "subscriptions/subscriber_keys/keeping.py": {"subscriberkey", "keysecret", "keystep"},
    "subscriptions/subscriber_keys/guessing.py": {"keymisses"},
    "subscriptions/guards.py": {"guard"},
    "subscriptions/safety/steps.py": {"safetystep"},
    "subscriptions/safety/alerts.py": {"usagealert"},
    "subscriptions/clock.py": {"operator"},
    "subscriptions/operators.py": {"operator"},
    "subscriptions/seeding.py": {"operator"},
    "subscriptions/api/idempotency.py": {"idempotentrequest"},
    "subscriptions/tasks.py": {"idempotentrequest"},
    "metering/records.py": {"usagerecord"},
    "metering/ingest.py": {"usagebatch"},
    "metering/rollups.py": {"usagehour", "subjecthour", "usageday", "subjectday", "usagebatch"},
    "metering/adjusting.py": {"adjustment", "adjustedrecord"},
    "metering/rerating.py": {"rerating", "reratingshare"},
    "metering/quarantine.py": {"quarantinedrecord"},
    "metering/repeats.py": {"suspectedrepeat", "repeatdismissal"},
    "metering/duplicates.py": {"duplicatebatch"},
    "metering/usage_windows.py": {"usagewindow", "usagecounter", "windowevent"},
    "billing/ledger.py": {"account", "posting", "entry"},
    "billing/invoicing.py": {"invoice", "invoiceline", "invoicecounter", "invoicenumber"},
    "billing/closing.py": {"closechunk", "closepause"},
    "billing/finals.py": {"finalsweep"},
    "billing/figures.py": {"dayfigures"},
    "billing/approvals.py": {"approval"},
    "billing/prices/drafting.py": {"pricedraft"},
    "billing/corrections.py": {"correctionpolicy"},
    "billing/deferral.py": {"deferral", "deferralsweep"},
    "billing/costs.py": {
        *("supplier", "suppliergateway", "costcard", "costprice", "costday", "costentry")
    },
    "billing/fapiao/requests.py": {"fapiaoitem", "fapiaorequest"},
    "billing/settling.py": {"settlement", "settlementline"},
    "billing/exports/charge_files.py": {"chargefile", "chargeline"},
    "billing/documents/letterheads.py": {"letterhead"},
    "billing/documents/store.py": {"document"},
    "billing/payments.py": {"payment"},
    "billing/orders/keeping.py": {"order", "orderstep", "paymentintent"},
    "billing/phone_bills.py": {"phonebillcharge", "phonebillanswer"},
    "billing/receipts.py": {"planreceipt"},
    "billing/consents.py": {"consent"},
    "billing/collecting/policies.py": {"collectionpolicy"},
    "billing/collecting/cases.py": {"collectioncase", "collectionstep"},
    "billing/wallets.py": {"wallet", "walletmovement"},
    "billing/vouchers/keeping.py": {"voucher", "voucherbatch", "voucherset", "voucherstep"},
    "billing/vouchers/guessing.py": {"vouchermisses"},
    "billing/handovers/keeping.py": {"handover", "recyclingpolicy"},
    "billing/anomalies/cases.py": {"anomalycase", "anomalypolicy", "anomalystep"},
    "billing/anomalies/sweeping.py": {"anomalysweep"},
    "billing/interchange/imports.py": {"importjob", "importpart", "importchunk"},
    "billing/personal_data/keeping.py": {"personaldataexport", "personaldatapart"},
    "billing/interchange/exports.py": {"exportjob", "exportpart"},
    "billing/refunds.py": {"refund", "refundstep"},
    "billing/disputes.py": {"dispute", "disputestep"},
    "billing/complaints.py": {"complaint", "complaintmessage", "complaintpolicy"},
    "billing/bonuses.py": {"walletbonus", "walletbonusentry"},
    "billing/holds.py": {"wallethold"},
    "billing/top_up_policies.py": {"topuppolicy", "bonusrule"},
    "billing/auto_top_up/agreements.py": {"autotopup"},
    "billing/auto_top_up/runs.py": {"autotopuprun"},
    "billing/provider_books/importing.py": {"providerfile", "providerline"},
    "billing/provider_books/matching.py": {"providerline"},
    "billing/provider_books/differing.py": {"paymentdifference"},
    "billing/transfers.py": {"banktransfer"},
    "billing/ways/accounts.py": {"provideraccount", "providersecret"},
    "billing/inbox.py": {"providerevent"},
    "billing/methods.py": {"paymentmethod"},
    "billing/receiving.py": {"providerpayment", "paymenttask"},
    "billing/dunning.py": {
        "dunningcase",
        "dunningcursor",
        "dunningevent",
        "dunningpolicy",
        "dunningstop",
        "remindercursor",
    },
}
MODELS = {
    model.__name__: model._meta.db_table
    for model in apps.get_models()
    if model._meta.app_label in ROOMS
}
# Another company's books, in a folder of its own; what they are called is its own affair.
SANDBOX = "billing/ways/sandbox/"
SANDBOX_WRITERS = {
    "company.py": {"payment", "refund", "method", "dispute", "balancetransaction", "saving"},
    "notices.py": {"notice"},
}
SANDBOX_MODELS = {
    model.__name__: model._meta.db_table for model in apps.get_app_config("sandbox").get_models()
}
SQL_WRITE = re.compile(
    r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM|COPY|MERGE\s+INTO|TRUNCATE(?:\s+TABLE)?)\s+(?:ONLY\s+)?"
    r"((?:subscriptions|metering|billing|sandbox)_[a-z]+)"
)
ORM_WRITES = {
    "abulk_create",
    "acreate",
    "adelete",
    "aupdate",
    "bulk_create",
    "bulk_update",
    "create",
    "delete",
    "get_or_create",
    "update",
    "update_or_create",
}


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    """(path, text) of the product's modules; a migration makes tables and writes no rows."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "migrations" not in path.parts:
                yield path.relative_to(ROOT).as_posix(), path.read_text()


def tables_written(text: str, models: dict[str, str] = MODELS) -> set[str]:
    """The tables that a module's SQL or its managers write."""
    written = set(SQL_WRITE.findall(text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            model = _manager_of(node.func.value)
            if node.func.attr in ORM_WRITES and model in models:
                written.add(models[model])
    return written


def _manager_of(node: ast.expr) -> str:
    """`Bucket` in `Bucket.objects.filter(…)` and the like, else nothing."""
    while True:
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Attribute) and node.attr == "objects":
            return node.value.id if isinstance(node.value, ast.Name) else ""
        elif isinstance(node, ast.Attribute):
            node = node.value
        else:
            return ""


@pytest.mark.parametrize(
    ("text", "table"),
    [
        (
            'SQL = """\nINSERT INTO subscriptions_bucket\n (id) VALUES (1)"""',
            "subscriptions_bucket",
        ),
        ('SQL = "UPDATE ONLY metering_usagehour SET units = 0"', "metering_usagehour"),
        ('SQL = "DELETE FROM billing_invoice"', "billing_invoice"),
        ('SQL = "COPY metering_usagerecord (id) FROM STDIN"', "metering_usagerecord"),
        ("Bucket.objects.filter(id=1).exclude(id=2).update(used=0)", "subscriptions_bucket"),
        ("UsageBatch.objects.bulk_create([])", "metering_usagebatch"),
    ],
)
def test_a_write_is_seen(text: str, table: str) -> None:
    assert tables_written(text) == {table}


@pytest.mark.parametrize(
    "text",
    [
        'SQL = "SELECT 1 FROM subscriptions_bucket b FOR NO KEY UPDATE OF b"',
        "seen.update(Bucket.objects.all())",
        "Bucket.objects.filter(id=1).values_list()",
    ],
)
def test_a_read_is_not_taken_for_a_write(text: str) -> None:
    assert tables_written(text) == set()


def test_every_table_is_written_by_its_own_module() -> None:
    for path, text in sources(*ROOMS, "config"):
        room = path.partition("/")[0]
        own = {f"{room}_{table}" for table in WRITERS.get(path, ())}
        if not path.startswith(SANDBOX):
            assert tables_written(text) <= own, path


def test_the_sandboxs_tables_are_written_by_its_two_modules() -> None:
    for path, text in sources(SANDBOX):
        theirs = SANDBOX_WRITERS.get(path.removeprefix(SANDBOX), set())
        assert tables_written(text, SANDBOX_MODELS) == {f"sandbox_{table}" for table in theirs}


def test_no_room_names_a_table_of_a_room_above() -> None:
    for nr, room in enumerate(ROOMS):
        for path, text in sources(room):
            for above in ROOMS[nr + 1 :]:
                assert not re.search(rf"\b{above}_[a-z]+\b", text), path


# --- the clock ----------------------------------------------------------------------------------

WALL = re.compile(
    r"\bdatetime\.(?:now|utcnow|today)\(|\bdate\.today\(|\btimezone\.now\(|\btime\.(?:time|ctime)(?:_ns)?\("
    r"|\b(?:now|clock_timestamp|statement_timestamp|transaction_timestamp)\(\)"
    r"|\bCURRENT_(?:TIMESTAMP|DATE|TIME)\b|\bLOCALTIME(?:STAMP)?\b"
)
# When a batch was stored, for the lag of the hourly totals: nobody is charged by it.
WALL_READS = {"subscriptions/clock.py": 1, "metering/ingest.py": 1}
DOORS = re.compile(
    r"/(?:api|management|portal|console)/|/users/(?:adapter|views)\.py$|/(?:tasks|due|pages)\.py$|^config/"
)


def test_nothing_but_the_clock_reads_the_wall() -> None:
    found = {path: len(WALL.findall(text)) for path, text in sources(*ROOMS, "config")}

    assert {path: reads for path, reads in found.items() if reads} == WALL_READS


def test_only_doors_ask_the_clock() -> None:
    for path, text in sources(*ROOMS):
        if re.search(r"\bclock\.(?:now|wall)\(", text):
            assert DOORS.search(path), path


# --- advisory locks -----------------------------------------------------------------------------

ADVISORY = re.compile(r"pg_(?:try_)?advisory_\w+\(([^,)]+)[,)]")
# The number is a parameter, or is written into the statement.
FROM_LOCK = re.compile(r"%[sb]|\{Lock\.[A-Z_]+\.value\}")


def test_every_advisory_lock_has_a_number_of_its_own() -> None:
    numbers = [lock.value for lock in Lock.__members__.values()]
    assert len(numbers) == len(set(numbers))
    # A number that is not used is no lock: nobody holds it for what it says.
    told = "".join(text for _, text in sources(*ROOMS))
    functions = "".join(path.read_text() for path in ROOT.glob("*/migrations/rules/*.py"))
    unused = [
        lock.name
        for lock in Lock
        if f"Lock.{lock.name}" not in told
        and f"pg_advisory_xact_lock({lock.value}," not in functions
    ]
    assert unused == []


def test_an_advisory_lock_is_named_by_its_purpose() -> None:
    for path, text in sources(*ROOMS, "config"):
        for first_key in ADVISORY.findall(text):
            assert FROM_LOCK.fullmatch(first_key), (path, first_key)
            assert path == "subscriptions/advisory.py" or "Lock." in text, path
        assert not re.search(r"^_?(?:\w+_)?LOCK = \d", text, re.MULTILINE), path
    for migration in ROOT.glob("*/migrations/*.py"):
        for first_key in ADVISORY.findall(migration.read_text()):
            assert first_key == str(Lock.CLOCK.value), migration


# --- retention ----------------------------------------------------------------------------------


def test_retention_gives_way_to_a_long_reader(transactional_db: None) -> None:
    days = [DAY, DAY + partitions.DAY]
    partitions.ensure(RECORDS, days)
    reader = connection.get_new_connection(connection.get_connection_params())
    try:
        reader.execute("SELECT count(*) FROM metering_usagerecord")
        assert partitions.drop_before(RECORDS, days[-1]) == []
        assert set(days) <= set(partitions.existing(RECORDS))
        reader.rollback()
        assert DAY in partitions.drop_before(RECORDS, days[-1])
    finally:
        reader.close()


# --- shards -------------------------------------------------------------------------------------


@pytest.fixture
def four_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seam answers as it may one day: subscribers live in four places."""
    names = [
        path.removesuffix(".py").replace("/", ".")
        for path, text in sources(*ROOMS)
        if re.search(r"import .*\bshard_of\b", text)
    ]
    # All are imported before one is changed: what comes later would keep the change for good.
    users = [importlib.import_module(name) for name in names]
    assert len(users) > 2
    for module in users:
        monkeypatch.setattr(module, "shard_of", lambda subscriber_id: subscriber_id % 4)
        if hasattr(module, "shards_of"):
            monkeypatch.setattr(module, "shards_of", lambda ids: {one % 4 for one in ids})


def shards_by_transaction(table: str, stamp: str) -> list[set[int]]:
    """Which shards' rows each transaction left its mark on: xmin of a writer, xmax of a locker."""
    marks: dict[str, set[int]] = defaultdict(set)
    for transaction, shard in rows(
        f"SELECT DISTINCT {stamp}::text, subscriber_id %% 4 FROM {table} WHERE {stamp}::text <> '0'"
    ):
        marks[transaction].add(int(shard))
    return list(marks.values())


def assert_each_transaction_keeps_to_one_shard() -> None:
    for table in ("subscriptions_bucket", "subscriptions_bucketentry", "metering_usagerecord"):
        for stamp in ("xmin", "xmax"):
            assert {len(shards) for shards in shards_by_transaction(table, stamp)} <= {1}


@pytest.fixture
def town(four_shards: None, transactional_db: None) -> tuple[Operator, Gateway]:
    """Forty subscribers: plans that stop, meter, sell blocks and roll over, and none at all."""
    operator = make_operator()
    overage = {"price_per_million": "1", "cap": yuan("1")}
    block = {"block_units": 50_000, "block_price": yuan("0.10")}
    plans = [
        make_plan(operator, "stop", allowance=300_000),
        make_plan(operator, "meter", allowance=300_000, on_exhaustion="meter", **overage),
        make_plan(operator, "blocks", allowance=300_000, on_exhaustion="blocks", **block),
        make_plan(operator, "roll", allowance=3_000_000, rollover="one_cycle"),
        None,
    ]
    for nr in range(40):
        subscriber = make_subscriber(operator, f"s-{nr}")
        plan = plans[nr % len(plans)]
        if plan is not None:
            subscribe(subscriber, plan, starts_at=NOW - partitions.DAY)
    return operator, Gateway(operator)


def day_of_usage(name: str, at: dt.datetime, *, tokens: int = 60) -> list[dict[str, object]]:
    """Three records of each subscriber, in an order that is nobody's."""
    return [
        record(
            f"{name}-{nr}-{turn}",
            subject=f"user-s-{(7 * nr) % 40}",
            occurred_at=at - turn * dt.timedelta(hours=1),
            input_tokens=tokens,
            output_tokens=0,
        )
        for turn in range(3)
        for nr in range(40)
    ]


def test_over_four_shards_each_unit_is_charged_once(town: tuple[Operator, Gateway]) -> None:
    _, gateway = town
    batch = day_of_usage("a", NOW)

    first, again = gateway.charge(*batch), gateway.charge(*batch)
    more = gateway.charge(*batch[:7], *day_of_usage("b", NOW), *batch[7:9])

    assert (first["accepted"], first["duplicates"], first["units"]) == (120, 0, "7200.000")
    assert (again["accepted"], again["duplicates"], again["units"]) == (0, 120, "0.000")
    assert (more["accepted"], more["duplicates"]) == (120, 9)
    assert sum(Bucket.objects.values_list("used", flat=True)) == 2 * 7_200_000
    assert set(Bucket.objects.filter(used__gt=0).values_list("kind", flat=True)) == {
        "allowance",
        "overage",
        "uncovered",
    }
    assert_books_agree()


def test_a_charge_locks_one_shard_in_a_transaction(town: tuple[Operator, Gateway]) -> None:
    _, gateway = town

    for nr in range(6):  # dry on the way: both ways to draw
        gateway.charge(*day_of_usage(f"a-{nr}", NOW))
        assert_each_transaction_keeps_to_one_shard()

    assert UsageBatch.objects.count() == 6 * 4


def test_opening_and_turning_periods_lock_one_shard_in_a_transaction(
    town: tuple[Operator, Gateway],
) -> None:
    operator, gateway = town
    gateway.charge(*day_of_usage("a", NOW))

    set_clock(operator, local(2026, 7, 1))
    while lifecycle.open_due(operator.pk, at=local(2026, 7, 1)):
        assert_each_transaction_keeps_to_one_shard()

    assert Bucket.objects.filter(kind="rollover").count() == 8
    held = shards_by_transaction("subscriptions_subscription", "xmin")
    assert {len(shards) for shards in held} == {1}
    assert Subscription.objects.filter(opened_until=local(2026, 8, 1)).count() == 32
    assert_books_agree()


def test_usage_of_periods_not_yet_open_locks_one_shard_in_a_transaction(
    town: tuple[Operator, Gateway],
) -> None:
    operator, gateway = town

    set_clock(operator, local(2026, 7, 1, 2))
    answer = gateway.charge(*day_of_usage("a", local(2026, 7, 1, 1)))

    assert answer["accepted"] == 120
    assert_each_transaction_keeps_to_one_shard()
    assert_books_agree()
