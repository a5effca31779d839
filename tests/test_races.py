"""What happens at once: real threads and processes on the real database, and exact all the same."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import random
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection, connections, transaction
from rest_framework.test import APIClient

from metering import context, few_asks, ingest, records
from metering.models import QuarantinedRecord, UsageBatch, UsageRecord
from metering.parsing import Usage
from subscriptions import (
    buckets,
    clock,
    lifecycle,
    partitions,
    reservations,
    reservations_few,
    warm,
)
from subscriptions.models import Bucket, Operator, Subject, Subscriber, Suspension
from subscriptions.policies import Window
from tests.asking import asked, commit, release, reserve
from tests.at_once import at_once
from tests.factories import (
    NOW,
    buckets_of,
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_rate_card,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.sender import Sender
from tests.usage import (
    DAY,
    HOUR,
    MINUTE,
    US,
    Gateway,
    T,
    assert_books_agree,
    balance,
    counted,
    get,
    post,
    put,
    put_card,
    record,
    records_of,
    used,
)

EDGE = local(2026, 7, 1)  # of two periods, at 16:00 UTC

# One process does them all: they would take each other's cores.
pytestmark = [pytest.mark.django_db, pytest.mark.xdist_group("races")]

WRITERS = 8

Result = TypeVar("Result")


@pytest.fixture(scope="module")
def _database(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield
        # Numbers go on: processes remember by number.
        call_command("flush", verbosity=0, interactive=False, reset_sequences=False)


@pytest.fixture
def _django_db_helper(_database: None, django_db_blocker: Any) -> Iterator[None]:
    """In pytest-django's place: no transaction, and tables emptied once, after the last test."""
    with django_db_blocker.unblock():
        yield


@pytest.fixture(scope="module")
def senders(_database: None) -> Iterator[list[Sender]]:
    """Two further processes."""
    url = settings.DATABASE_URL.rpartition("/")[0] + "/" + connection.settings_dict["NAME"]
    with Sender(url) as first, Sender(url) as second:
        yield [first, second]


_codes = itertools.count(1)


@pytest.fixture
def operator() -> Operator:
    return make_operator(f"race-{next(_codes)}")


@pytest.fixture(autouse=True)
def _books_agree_and_nothing_deadlocked() -> Iterator[None]:
    before = deadlocks()
    yield
    assert_books_agree()
    assert deadlocks() == before


def deadlocks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        count: int = cursor.fetchone()[0]
        return count


def charging(gateway: Gateway, *batches: Any) -> Callable[[], list[Any]]:
    """Posts batches one after the other, here."""
    return lambda: [gateway.charge(*batch) for batch in batches]


def sending(sender: Sender, gateway: Gateway, *batches: Any) -> Callable[[], list[Any]]:
    """Posts them from another process."""
    return lambda: sender.send(gateway.key, *batches)


def flat(answers: list[list[Any]]) -> list[Any]:
    return [answer for some in answers for answer in some]


def sums(answers: list[Any]) -> tuple[int, int, int]:
    return (
        sum(a["accepted"] for a in answers),
        sum(a["duplicates"] for a in answers),
        sum(len(a["rejected"]) for a in answers),
    )


def units_of(answers: list[Any]) -> int:
    """Whole units that the answers say were charged."""
    return round(sum(float(a["units"]) for a in answers))


# The same usage several times at once ------------------------------------------------------------


def test_the_same_batch_posted_eight_times_at_once_is_charged_once(
    operator: Operator, gateway: Gateway
) -> None:
    plan = make_plan(operator, allowance=5000 * T)
    people = [make_subscriber(operator, f"s-{n}") for n in range(20)]
    for person in people:
        subscribe(person, plan)

    for nr in range(4):
        batch = [
            record(f"{nr}-{n}", subject=f"user-s-{n % 20}", input_tokens=n) for n in range(200)
        ]
        shuffled = [random.sample(batch, len(batch)) for _ in range(WRITERS)]

        answers = at_once(*(charging(gateway, batch) for batch in shuffled))

        assert sums(flat(answers)) == (200, 7 * 200, 0)
    total = 4 * sum(n + 20 for n in range(200))
    assert sum(sum(used(person).values()) for person in people) == total


def test_the_same_batch_from_several_processes_and_keys_is_charged_once(
    operator: Operator, gateway: Gateway, senders: list[Sender]
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=500 * T))
    rotated = Gateway(operator)

    answers = []
    for nr in range(8):
        batch = [record(f"{nr}-{n}", input_tokens=1, output_tokens=0) for n in range(50)]
        answers += at_once(
            charging(gateway, batch),
            charging(rotated, batch),
            sending(senders[0], gateway, batch, batch),
            sending(senders[1], rotated, batch, batch),
        )

    assert sums(flat(answers)) == (400, 5 * 400, 0)
    assert used(subscriber) == {"allowance": 400}


def test_the_same_id_on_neighbouring_days_at_once_is_charged_once(
    operator: Operator, gateway: Gateway, senders: list[Sender]
) -> None:
    make_rate_card(operator)
    subscriber = make_subscriber(operator)
    rounds = 15

    for nr in range(rounds):
        days = random.sample([-2, -1, 0, 1], 4)
        some = [
            [record(f"{nr}-{n}", occurred_at=NOW - DAY + d * DAY) for n in range(3)] for d in days
        ]
        answers = at_once(
            charging(gateway, some[0]),
            charging(gateway, some[1]),
            sending(senders[0], gateway, some[2]),
            sending(senders[1], gateway, some[3]),
        )
        assert sums(flat(answers)) == (3, 9, 0)

    assert used(subscriber) == {"uncovered": rounds * 3 * 120}


@pytest.mark.parametrize("away", [-DAY, DAY])
def test_an_id_stored_a_day_away_while_a_batch_waits_for_its_buckets_is_found(
    operator: Operator, gateway: Gateway, away: dt.timedelta
) -> None:
    make_rate_card(operator)
    subscriber = make_subscriber(operator)
    on, many = NOW - DAY, range(records.FEW + 6)
    partitions.ensure(records.RECORDS, [(NOW + n * DAY).date() for n in range(-5, 5)])
    gateway.charge(*[record(f"known-{nr}", occurred_at=on) for nr in many])
    answers: list[Any] = []

    def send() -> None:
        try:
            answers.append(gateway.charge(*[record(f"r-{nr}", occurred_at=on) for nr in many]))
        finally:
            connections.close_all()

    thread = threading.Thread(target=send)
    with transaction.atomic():
        first = gateway.charge(record("r-7", occurred_at=on + away))
        thread.start()
        # It has looked around before: nothing was there to be seen.
        while not locks_waited_for() and thread.is_alive():
            time.sleep(0.01)
    thread.join()

    assert counted(first) == (1, 0, 0)
    assert counted(answers[0]) == (len(many) - 1, 1, 0)
    assert UsageRecord.objects.filter(subscriber_id=subscriber.pk, record_id="r-7").count() == 1


def at_an_edge_of_a_plan(operator: Operator) -> dt.datetime:
    """Where one of a subscriber's periods ends and the next begins, with buckets of their own."""
    subscribe(make_subscriber(operator), make_plan(operator, allowance=1_000_000 * T))
    return EDGE


def at_an_edge_of_a_month(operator: Operator) -> dt.datetime:
    """The same without a plan: there is no bucket yet at all."""
    make_subscriber(operator)
    return EDGE


def where_a_gift_begins(operator: Operator) -> dt.datetime:
    """It burns before the allowance, and pays for nothing that was before it."""
    at_an_edge_of_a_plan(operator)
    at = local(2026, 6, 20)
    set_clock(operator, at)
    until = (at + 30 * DAY).isoformat()
    gift = {"units": "1000000", "valid_until": until, "reason": "sorry"}
    crm = client_for(make_key(operator))
    assert post(crm, "subscribers/s-1/grants", gift).status_code == 201
    return at


@pytest.mark.parametrize("many", [1, records.FEW + 6])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    "at_an_edge", [at_an_edge_of_a_plan, at_an_edge_of_a_month, where_a_gift_begins]
)
def test_an_id_told_on_both_sides_of_an_edge_at_once_is_charged_once(
    operator: Operator,
    gateway: Gateway,
    at_an_edge: Callable[[Operator], dt.datetime],
    known: bool,
    many: int,
) -> None:
    """Its two charges draw of different buckets, and have no lock of these in common."""
    make_rate_card(operator)
    edge = at_an_edge(operator)
    subscriber_id = Subscriber.objects.get(operator=operator).pk
    before, after = edge - 20 * HOUR, edge + HOUR
    assert before.date() != after.date()
    set_clock(operator, edge + 2 * HOUR)
    partitions.ensure(records.RECORDS, [(edge + n * DAY).date() for n in range(-6, 7)])
    partitions.ensure(partitions.ENTRIES, [edge.date()])
    lifecycle.ensure_open([subscriber_id], at=edge + 2 * HOUR, until=edge + 2 * HOUR)
    if known:
        gateway.charge(record("then", occurred_at=before))
        gateway.charge(record("now", occurred_at=after))
    answers: list[Any] = []

    def send() -> None:
        try:
            one = [record(f"r-{nr}", occurred_at=after) for nr in range(many)]
            answers.append(gateway.charge(*one))
        finally:
            connections.close_all()

    thread = threading.Thread(target=send)
    with transaction.atomic():
        first = gateway.charge(record("r-0", occurred_at=before))
        thread.start()
        while not locks_waited_for() and thread.is_alive():
            time.sleep(0.01)
    thread.join()

    assert counted(first) == (1, 0, 0)
    assert counted(answers[0]) == (many - 1, 1, 0)
    assert UsageRecord.objects.filter(subscriber_id=subscriber_id, record_id="r-0").count() == 1


@pytest.mark.parametrize("many", [1, records.FEW + 6])
def test_only_near_an_edge_a_charge_has_a_lock_of_its_subscriber(
    operator: Operator, gateway: Gateway, many: int
) -> None:
    """Within a period all of three days draw of one bucket, whose lock is enough."""
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=1_000_000 * T))
    partitions.ensure(records.RECORDS, [(EDGE + n * DAY).date() for n in range(-21, 14)])
    partitions.ensure(partitions.ENTRIES, [(EDGE + n * DAY).date() for n in range(-21, 9)])

    def held(mark: str, at: dt.datetime) -> list[int]:
        set_clock(operator, at)
        lifecycle.ensure_open([subscriber.pk], at=at, until=at)
        with transaction.atomic(), connection.cursor() as cursor:
            gateway.charge(*[record(f"{mark}-{nr}", occurred_at=at) for nr in range(many)])
            return held_subscribers(cursor)

    for mark in ("found", "remembered"):
        assert held(f"{mark} in the middle", EDGE - 10 * DAY) == []
    for mark, away in (("before", -2 * DAY), ("behind", HOUR), ("well behind", 3 * DAY)):
        assert held(mark, EDGE + away) == [subscriber.pk], mark
        assert held(f"{mark}, remembered", EDGE + away) == [subscriber.pk], mark
    assert held("past it", EDGE + 4 * DAY) == []


def held_subscribers(cursor: Any) -> list[int]:
    """Of whom this transaction has a lock by their id."""
    cursor.execute(
        "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
        " AND pid = pg_backend_pid()"
    )
    return [row[0] for row in cursor.fetchall()]


@pytest.mark.parametrize("of_two_buckets", [False, True])
def test_near_an_edge_a_commit_has_a_lock_of_its_subscriber_too(
    operator: Operator, gateway: Gateway, of_two_buckets: bool
) -> None:
    """Of what is held of one bucket it is one message; of two it goes the general way."""
    at_an_edge_of_a_plan(operator)
    subscriber_id = Subscriber.objects.get(operator=operator).pk
    at = EDGE + HOUR
    set_clock(operator, at)
    partitions.ensure(records.RECORDS, [(EDGE + n * DAY).date() for n in range(-6, 7)])
    partitions.ensure(partitions.ENTRIES, [at.date()])
    lifecycle.ensure_open([subscriber_id], at=at, until=at)
    if of_two_buckets:
        gift = {"units": "60", "valid_until": (at + 30 * DAY).isoformat(), "reason": "sorry"}
        crm = client_for(make_key(operator))
        assert post(crm, "subscribers/s-1/grants", gift).status_code == 201
    reserve(gateway)

    with transaction.atomic(), connection.cursor() as cursor:
        assert commit(gateway, occurred_at=at)["accepted"] == 1
        assert held_subscribers(cursor) == [subscriber_id]


def test_a_batch_looks_around_again_only_where_something_was_stored_meanwhile(
    operator: Operator, gateway: Gateway
) -> None:
    """Others wait for its buckets while it does."""
    subscribe(make_subscriber(operator), make_plan(operator, allowance=1_000_000 * T))
    gateway.charge(*[record(f"before-{nr}", occurred_at=NOW - DAY) for nr in range(100)])
    tables = partitions.names_of(records.RECORDS, [(NOW - DAY).date()])
    again = records._around(tuple(tables), "again").sql

    def looked_at() -> bool:
        """Whether it looks for its keys on the day before."""
        subscriber = Subscriber.objects.get(operator=operator)
        start, end = partitions.bounds_of(NOW.date())
        given = [[subscriber.pk], ["new"], 1, "", operator.pk, snapshot, start, end]
        raw = connection.connection
        raw.execute("SET enable_seqscan = off")
        try:
            asked = re.sub(r"\$(\d)", lambda nr: f"%(p{nr[1]})s", again)
            rows = raw.execute(
                f"EXPLAIN (ANALYZE, COSTS off, TIMING off) {asked}",
                {f"p{nr}": value for nr, value in enumerate(given, start=1)},
            ).fetchall()
        finally:
            raw.execute("RESET enable_seqscan")
        plan = [row[0] for row in rows]
        assert any("batch_stored_by" in line for line in plan), plan
        [keys] = [line for line in plan if "Function Scan on g" in line]
        return "never executed" not in keys

    def now() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_snapshot()::text")
            return str(cursor.fetchone()[0])

    snapshot = now()
    assert not looked_at()
    gateway.charge(record("the same day"))
    other = make_operator(f"race-{next(_codes)}")
    make_rate_card(other)
    make_subscriber(other)
    Gateway(other).charge(record("the day before", occurred_at=NOW - DAY))
    assert not looked_at()
    gateway.charge(record("the day before", occurred_at=NOW - DAY))
    assert looked_at()
    snapshot = now()
    assert not looked_at()


def test_a_batch_that_commits_with_its_draw_leaves_nothing_where_an_id_is_found_a_day_away(
    operator: Operator, gateway: Gateway
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=1_000_000 * T))
    many = records.FEW + 6
    for part in ("known", "remembered"):
        gateway.charge(*[record(f"{part}-{nr}") for nr in range(many)])

    found = gateway.charge(
        *[record(f"new-{nr}") for nr in range(many)],
        record("known-0", occurred_at=NOW - DAY),
    )

    assert counted(found) == (many, 1, 0)
    assert used(subscriber)["allowance"] == 3 * many * 120
    assert UsageRecord.objects.filter(subscriber_id=subscriber.pk).count() == 3 * many


def test_who_was_emptied_by_another_process_is_read_anew_and_nobody_else(
    operator: Operator, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a batch with one that ran dry among a thousand costs as two of whom none is known."""
    plan = make_plan(operator, allowance=100_000 * T)
    people = [make_subscriber(operator, f"s-{n}", subjects=(f"user-{n}",)) for n in range(3)]
    for one in people:
        subscribe(one, plan)

    def batch(mark: str) -> list[dict[str, Any]]:
        every = range(records.FEW)
        return [record(f"{mark}-{n}-{nr}", subject=f"user-{n}") for n in range(3) for nr in every]

    gateway.charge(*batch("first"))
    known = dict(context._remembered[operator.pk])
    assert known.keys() == {"user-0", "user-1", "user-2"}
    # The other process has drawn of it, and this one goes on by what it knows.
    gateway.charge(record("all", subject="user-1", input_tokens=90_000, output_tokens=0))
    context._remembered[operator.pk] = known
    asked: set[str] = set()
    read = context.Context._read

    def noted(known: Any, usages: Sequence[Usage], at: dt.datetime) -> None:
        asked.update(usage.subject for usage in usages)
        read(known, usages, at)

    monkeypatch.setattr(context.Context, "_read", noted)
    stored: list[int] = []
    store = records.store

    def counting(lines: Sequence[Any], **named: Any) -> None:
        stored.append(len(lines))
        store(lines, **named)

    monkeypatch.setattr(records, "store", counting)

    answer = gateway.charge(*batch("second"))

    assert counted(answer) == (3 * records.FEW, 0, 0)
    assert asked == {"user-1"}
    assert stored == [3 * records.FEW]
    both = 2 * records.FEW * 120
    assert [used(one) for one in people] == [
        {"allowance": both},
        {"allowance": 100_000, "uncovered": 90_000 + both - 100_000},
        {"allowance": both},
    ]


def test_of_two_contents_under_one_id_at_once_one_is_charged_and_one_kept(
    operator: Operator, gateway: Gateway
) -> None:
    make_rate_card(operator)
    subscriber = make_subscriber(operator)

    for nr in range(15):
        one, two, three = (record(f"r-{nr}", input_tokens=n) for n in (1, 2, 3))
        answers = at_once(
            *(partial(gateway.send, body) for body in (one, two, [three, record(f"n-{nr}")]))
        )
        assert sorted(a.status_code for a in answers) in ([200, 200, 409], [200, 409, 409])

    assert UsageRecord.objects.filter(subscriber_id=subscriber.pk).count() == 30
    assert QuarantinedRecord.objects.filter(operator=operator, cause="conflict").count() == 30


def test_a_quarantined_record_retried_several_times_at_once_is_charged_once(
    operator: Operator, gateway: Gateway
) -> None:
    api = client_for(make_key(operator))
    gateway.charge(*(record(f"r-{n}") for n in range(8)))
    make_rate_card(operator)
    subscriber = make_subscriber(operator)
    rows = [row["id"] for row in get(api, "quarantine")["items"]]

    def retry_all() -> list[str]:
        some = random.sample(rows, len(rows))
        return [post(api, f"quarantine/{row}/retry").json()["status"] for row in some]

    at_once(*[retry_all] * 4, charging(gateway, [record(f"r-{n}") for n in range(8)]))

    assert used(subscriber) == {"uncovered": 8 * 120}
    assert get(api, "quarantine")["items"] == []


# Many writers, few subscribers -------------------------------------------------------------------


def test_writers_on_overlapping_subscribers_stay_exact_while_buckets_run_dry(
    operator: Operator, gateway: Gateway, senders: list[Sender]
) -> None:
    allowance, cap, block = 30_000, 20_000, 1_000
    terms = {"allowance": allowance * T}
    plans = {
        "stop": make_plan(operator, "stop", **terms),
        "meter": make_plan(
            operator,
            "meter",
            on_exhaustion="meter",
            price_per_million="1.20",
            cap_units=cap * T,
            **terms,
        ),
        "blocks": make_plan(
            operator,
            "blocks",
            on_exhaustion="blocks",
            block_units=block * T,
            block_price=yuan("1"),
            cap=yuan(f"{cap // block}"),
            **terms,
        ),
        "none": None,
    }
    people: dict[str, tuple[str, Subscriber]] = {}
    for code, plan in plans.items():
        for n in range(4):
            person = make_subscriber(operator, f"{code}-{n}")
            people[f"user-{code}-{n}"] = (code, person)
            if plan:
                subscribe(person, plan)
    names = list(people)
    choice = random.Random(7)

    def batches(writer: str) -> list[list[dict[str, Any]]]:
        """Own records, some that all writers send, in any order."""
        made = []
        for nr in range(12):
            own = [
                record(
                    f"{writer}-{nr}-{n}",
                    subject=choice.choice(names),
                    input_tokens=choice.randrange(1, 400),
                )
                for n in range(40)
            ]
            shared = [
                record(f"all-{nr}-{n}", subject=names[(nr + n) % len(names)], input_tokens=7 * n)
                for n in range(10)
            ]
            made.append(choice.sample(own + shared, 50))
        return made

    work = [batches(f"w-{n}") for n in range(WRITERS)]
    answers = at_once(
        *(charging(gateway, *some) for some in work[2:]),
        *(sending(sender, gateway, *some) for sender, some in zip(senders, work[:2], strict=True)),
    )

    assert sums(flat(answers)) == (WRITERS * 480 + 120, 7 * 120, 0)
    wanted = dict.fromkeys(people, 0)
    for sent in {r["id"]: r for some in work for batch in some for r in batch}.values():
        wanted[sent["subject"]] += sent["input_tokens"] + sent["output_tokens"]
    for name, (code, person) in people.items():
        covered = {"none": 0}.get(code, allowance)
        limit = {"stop": 0, "none": 0}.get(code, cap)
        total = wanted[name]
        drawn = used(person)
        assert drawn.get("allowance", 0) == min(total, covered)
        assert drawn.get("overage", 0) == min(max(0, total - covered), limit)
        assert drawn.get("uncovered", 0) == max(0, total - covered - limit)
        if code == "blocks":
            [bought] = buckets_of(person, "overage")
            beyond = min(max(0, total - covered), limit)
            assert bought.granted == -(-beyond // block) * block * T
    # Enough was sent for buckets to run dry, and not for all.
    assert Bucket.objects.filter(subscriber__operator=operator, kind="uncovered").count() > 8


def test_single_records_of_sixteen_threads_each_get_their_own_answer(
    operator: Operator, gateway: Gateway
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=20_000 * T))
    other = Gateway(operator, name="other")

    def post_some(thread: int) -> list[Any]:
        sender = other if thread % 4 == 3 else gateway
        return [sender.send(body) for body in bodies(thread)]

    def bodies(thread: int) -> list[dict[str, Any]]:
        return [
            body
            for n in range(10)
            for body in (
                record(f"{thread}-{n}", input_tokens=thread * 100 + n + 1, output_tokens=0),
                record(f"shared-{n}", input_tokens=1, output_tokens=0),
                record("taken", input_tokens=thread + 1, output_tokens=0),
                record(f"who-{thread}-{n}", subject="nobody"),
            )
        ]

    answers = at_once(*(partial(post_some, thread) for thread in range(16)))

    shared = taken = 0
    for thread, some in enumerate(answers):
        for body, answer in zip(bodies(thread), some, strict=True):
            said = answer.json()
            if body["id"] == "taken":
                assert answer.status_code in (200, 409)
                taken += said.get("accepted", 0)
                continue
            assert answer.status_code == 200
            if body["subject"] == "nobody":
                [refused] = said["rejected"]
                assert (refused["index"], refused["id"]) == (0, body["id"])
                assert sums([said]) == (0, 0, 1)
            elif body["id"].startswith("shared"):
                shared += said["accepted"]
                assert said["accepted"] + said["duplicates"] == 1
            else:
                assert (sums([said]), said["units"]) == (
                    (1, 0, 0),
                    f"{body['input_tokens']}.000",
                )
    assert (shared, taken) == (2 * 10, 2)  # once a gateway
    said = [answer.json() for some in answers for answer in some if answer.status_code == 200]
    assert sum(used(subscriber).values()) == units_of(said)
    # They did share transactions.
    assert UsageBatch.objects.filter(operator=operator).count() < 16 * 10


# Usage while something else changes --------------------------------------------------------------


class Race:
    """Usage of one subject, sent by this and another process until the change has happened often.

    Changes go on only as usage is answered: whoever is faster, they meet. Usage is only of times
    that the clock had passed when it was sent, unless `ahead` says otherwise: then all is settled
    that can matter to it.
    """

    ahead = dt.timedelta(0)

    def __init__(self, operator: Operator, gateway: Gateway, sender: Sender) -> None:
        self.operator, self.gateway, self.sender = operator, gateway, sender
        self.api = client_for(make_key(operator))
        self.answers: list[Any] = []
        self.ended = threading.Event()
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()
        self._answered = threading.Event()
        self.now = clock.now(operator)

    def move_clock(self, by: dt.timedelta = MINUTE) -> None:
        """On, by the door; only then do senders know the new time."""
        to = self.now + by
        assert post(self.api, "test-clock", {"now": to.isoformat()}).status_code == 200
        self.now = to

    def some_usage(self, many: int = 6) -> list[dict[str, Any]]:
        with self._guard:
            numbers = [next(self._numbers) for _ in range(many)]
        last = self.now - US + self.ahead
        return [
            record(
                f"r-{number}",
                occurred_at=last - (last - NOW) * random.random() ** 3,
                input_tokens=random.randrange(1, 50),
                output_tokens=0,
            )
            for number in numbers
        ]

    def run(self, change: Callable[[int], None], rounds: int) -> None:
        """Change things `rounds` times while usage comes."""

        def changes() -> None:
            try:
                for nr in range(rounds):
                    self._answered.clear()
                    change(nr)
                    assert self._answered.wait(200), "usage ended before the changes"
            finally:
                self.ended.set()

        self.move_clock()
        at_once(changes, self._post_here, self._post_here, self._post_there)
        self._keep([self.gateway.charge(*self.some_usage())])
        assert sums(self.answers)[1:] == (0, 0)
        assert len(self.answers) > 10

    def _post_here(self) -> None:
        while not self.ended.is_set():
            if random.random() < 0.5:
                [single] = self.some_usage(1)
                self._keep([self.gateway.send(single).json()])
            else:
                self._keep([self.gateway.charge(*self.some_usage())])

    def _post_there(self) -> None:
        while not self.ended.is_set():
            self._keep(self.sender.send(self.gateway.key, self.some_usage(), self.some_usage()))

    def _keep(self, answers: list[Any]) -> None:
        with self._guard:
            self.answers += answers
        self._answered.set()


@pytest.fixture
def race(operator: Operator, gateway: Gateway, senders: list[Sender]) -> Race:
    return Race(operator, gateway, senders[0])


def test_usage_while_gifts_and_boosters_come(race: Race, operator: Operator) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=2000 * T))
    body = {"name": "B", "price": "1", "units": "300", "valid_days": 1}
    assert put(race.api, "boosters/b", body).status_code == 201

    def change(nr: int) -> None:
        race.move_clock()
        if nr % 2:
            answer = post(race.api, "subscribers/s-1/boosters", {"booster": "b"})
        else:
            until = (race.now + 3 * MINUTE).isoformat()
            gift = {"units": "200.5", "valid_until": until, "reason": "x"}
            answer = post(race.api, "subscribers/s-1/grants", gift)
        assert answer.status_code == 201

    race.run(change, 14)

    assert sum(used(subscriber).values()) == units_of(race.answers)
    for bucket in buckets_of(subscriber):
        assert bucket.granted is None or bucket.used <= bucket.granted
    # No bucket paid for usage from before it began; reconcile has told that too.
    began = {str(b.id): b.valid_from for b in buckets_of(subscriber)}
    for item in records_of(race.api, "&limit=1000"):
        for drawn in item["receipt"]["buckets"]:
            moment = dt.datetime.fromisoformat(item["occurred_at"])
            assert drawn["kind"] == "uncovered" or began[drawn["id"]] <= moment


def test_usage_while_a_plan_is_sold(race: Race, operator: Operator) -> None:
    make_rate_card(operator)
    make_rate_card(operator, "dear", weights={"*": ("2",) * 5})
    make_plan(operator, rate_card="dear")
    subscriber = make_subscriber(operator)
    sold: list[dt.datetime] = []

    def change(nr: int) -> None:
        race.move_clock()
        if nr == 8:
            answer = post(race.api, "subscribers/s-1/subscriptions", {"plan": "light"})
            assert answer.status_code == 201
            sold.append(race.now)

    race.run(change, 14)

    assert sum(used(subscriber).values()) == units_of(race.answers)
    for item in records_of(race.api, "&limit=1000"):
        after = dt.datetime.fromisoformat(item["occurred_at"]) >= sold[0]
        assert item["receipt"]["rate_card"] == ("dear" if after else "standard")
        assert kinds_of(item) == {"allowance" if after else "uncovered"}
    assert set(used(subscriber)) == {"uncovered", "allowance"}


def kinds_of(item: Any) -> set[str]:
    return {bucket["kind"] for bucket in item["receipt"]["buckets"]}


def test_usage_while_its_subject_goes_from_one_subscriber_to_another(
    race: Race, operator: Operator
) -> None:
    plan = make_plan(operator)
    people = [make_subscriber(operator, "s-1"), make_subscriber(operator, "s-2", subjects=())]
    for person in people:
        subscribe(person, plan)

    def change(nr: int) -> None:
        race.move_clock()
        old, new = ("s-1", "s-2") if nr % 2 == 0 else ("s-2", "s-1")
        drafts = [
            {"external_id": old, "subjects": []},
            {"external_id": new, "subjects": ["user-s-1"]},
        ]
        answer = post(race.api, "subscribers/batch", drafts).json()
        assert [item["status"] for item in answer["items"]] == ["updated", "updated"]

    race.run(change, 14)

    bindings = Subject.objects.filter(operator=operator, subject="user-s-1").order_by("pk")
    assert len(bindings) == 15
    holders = [(b.valid_until, b.subscriber_id) for b in bindings]
    for row in UsageRecord.objects.filter(subscriber_id__in=[p.pk for p in people]):
        holder = next(s for until, s in holders if until is None or row.occurred_at < until)
        assert row.subscriber_id == holder
    assert all(set(used(person)) == {"allowance"} for person in people)
    assert sum(used(person)["allowance"] for person in people) == units_of(race.answers)


def test_what_was_read_before_a_subject_moved_is_not_remembered_after_it(
    monkeypatch: pytest.MonkeyPatch, operator: Operator, gateway: Gateway
) -> None:
    plan = make_plan(operator)
    old, new = make_subscriber(operator, "s-1"), make_subscriber(operator, "s-2", subjects=())
    for person in (old, new):
        subscribe(person, plan)
    make_subscriber(operator, "s-3")
    gateway.charge(record("r-0", subject="user-s-3"))  # the day's partitions are there
    set_clock(operator, NOW + MINUTE)
    api = client_for(make_key(operator))
    begin = ingest._Attempt._read_terms
    moves = [
        {"external_id": "s-1", "subjects": []},
        {"external_id": "s-2", "subjects": ["user-s-1"]},
    ]

    def move_first(attempt: ingest._Attempt) -> Any:
        if moves:
            drafts = [moves.pop(0), moves.pop(0)]
            [answer] = at_once(lambda: post(api, "subscribers/batch", drafts).json())
            assert [item["status"] for item in answer["items"]] == ["updated", "updated"]
        return begin(attempt)

    monkeypatch.setattr(ingest._Attempt, "_read_terms", move_first)
    gateway.charge(record("r-1", occurred_at=NOW))
    set_clock(operator, NOW + 2 * MINUTE)
    gateway.charge(record("r-2", occurred_at=NOW + MINUTE))

    assert moves == []
    assert (used(old), used(new)) == ({"allowance": 120}, {"allowance": 120})


@pytest.mark.parametrize("many", [1, records.FEW + 1])
@pytest.mark.parametrize("happens", ["moved", "suspended"])
def test_whose_bucket_runs_low_is_charged_by_what_holds_not_by_what_is_remembered(
    operator: Operator, gateway: Gateway, many: int, happens: str
) -> None:
    old, new = make_subscriber(operator, "s-1"), make_subscriber(operator, "s-2", subjects=())
    for person in (old, new):
        subscribe(person, make_plan(operator, person.external_id, allowance=(many + 1) * 120 * T))

    def charge(mark: str, occurred_at: dt.datetime) -> None:
        some = [record(f"{mark}-{nr}", occurred_at=occurred_at) for nr in range(many)]
        assert counted(gateway.charge(*some)) == (many, 0, 0)

    charge("before", NOW)
    known = context._remembered[operator.pk]["user-s-1"]
    assert (known.subscriber_id, known.pick) == (old.pk, None)
    set_clock(operator, NOW + MINUTE)
    if happens == "moved":
        move(operator)
    else:
        lifecycle.suspend(old.pk, reason="unpaid", at=NOW + MINUTE)
    set_clock(operator, NOW + 2 * MINUTE)
    charge("after", NOW + MINUTE)
    charge("late", NOW)

    both = {"allowance": (many + 1) * 120, "uncovered": (many - 1) * 120}
    told = {
        "moved": (both, {"allowance": many * 120}),
        "suspended": (both | {"uncovered": (2 * many - 1) * 120}, {}),
    }[happens]
    for person, kinds in zip((old, new), told, strict=True):
        assert Counter(used(person)) == Counter(kinds)  # zeros do not count


@pytest.mark.parametrize("many", [1, records.FEW + 1])
def test_whose_bucket_runs_low_is_read_once_until_something_of_them_changes(
    operator: Operator, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    person = make_subscriber(operator, "s-1")
    subscribe(person, make_plan(operator, allowance=10_000 * T))
    gateway.charge(record("most", input_tokens=9_500, output_tokens=0))
    read: list[int] = []
    reads = context.Context._read

    def noted(known: Any, usages: Sequence[Usage], at: dt.datetime) -> None:
        read.append(len(usages))
        reads(known, usages, at)

    monkeypatch.setattr(context.Context, "_read", noted)

    def charge(mark: str) -> int:
        del read[:]
        batch = [record(f"{mark}-{n}", input_tokens=1, output_tokens=0) for n in range(many)]
        assert counted(gateway.charge(*batch)) == (many, 0, 0)
        return len(read)

    assert charge("first") <= 2
    assert [charge("second"), charge("third")] == [0, 0]
    gift = {"units": "1", "valid_until": (NOW + DAY).isoformat(), "reason": "x"}
    assert post(client_for(make_key(operator)), "subscribers/s-1/grants", gift).status_code == 201
    assert charge("gift") > 0
    charge("settles")
    assert charge("settled") == 0
    lifecycle.suspend(person.pk, reason="unpaid", at=NOW)

    assert charge("suspended") > 0
    assert used(person)["uncovered"] == many


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has something else committed once, right before a function of a module begins."""

    def arrange(name: str, happens: Callable[[], None], module: Any = reservations) -> None:
        goes_on = getattr(module, name)
        due = [happens]

        def first(*given: Any, **named: Any) -> Any:
            if due:
                at_once(due.pop())
            return goes_on(*given, **named)

        monkeypatch.setattr(module, name, first)

    return arrange


@pytest.mark.parametrize(
    ("happens", "given", "allowance"),
    [("filled", 10_000, 3_000), ("drawn", 7_000, 7_000), ("overtaken", 7_400, 5_600)],
)
def test_a_demand_of_two_buckets_is_split_by_what_holds_when_it_is_drawn(
    operator: Operator,
    gateway: Gateway,
    before: Callable[..., None],
    happens: str,
    given: int,
    allowance: int,
) -> None:
    """It is reckoned without a lock, while what is reserved comes back, or another draws."""
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=10_000 * T))
    api = client_for(make_key(operator))

    def give(units: str, valid_until: dt.datetime) -> None:
        gift = {"units": units, "valid_until": valid_until.isoformat(), "reason": "x"}
        assert post(api, "subscribers/s-1/grants", gift).status_code == 201

    give("10000", NOW + 30 * DAY)
    reserve(gateway, "a-1", units="3000")
    many = records.FEW + 1
    batch = [record(f"r-{n}", input_tokens=200, output_tokens=0) for n in range(many)]
    other = record("other", input_tokens=1_000, output_tokens=0)
    beside: dict[str, Callable[[], Any]] = {
        "filled": partial(release, gateway, "a-1"),
        "drawn": partial(gateway.charge, other),
        "overtaken": partial(give, "400", NOW + DAY),
    }
    before("draw", beside[happens], buckets)

    assert counted(gateway.charge(*batch)) == (many, 0, 0)

    both = Counter[str]()
    for bucket in buckets_of(subscriber):
        both[bucket.kind] += bucket.used // T
    assert both == {"gift": given, "allowance": allowance}


def test_nothing_is_locked_before_the_draw_of_who_has_bought_all_packs(
    operator: Operator, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy subscriber is beyond its packs in each batch for the rest of the month."""
    terms: dict[str, Any] = {
        "block_units": 500 * T,
        "block_price": yuan("1"),
        "cap_units": 1_000 * T,
    }
    plan = make_plan(operator, allowance=100 * T, on_exhaustion="blocks", **terms)
    subscriber = make_subscriber(operator)
    subscribe(subscriber, plan)
    many = records.FEW + 1

    def charge(mark: str) -> None:
        batch = [record(f"{mark}-{n}", input_tokens=10, output_tokens=0) for n in range(many)]
        assert counted(gateway.charge(*batch)) == (many, 0, 0)

    locks: list[int] = []
    burn = buckets._burn

    def noted(*given: Any, **named: Any) -> Any:
        locks.append(1)
        return burn(*given, **named)

    monkeypatch.setattr(buckets, "_burn", noted)
    charge("first")  # buys both
    charge("second")
    charge("third")

    assert locks == [1]
    assert used(subscriber) == {"allowance": 100, "overage": 1_000, "uncovered": 30 * many - 1_100}


def move(operator: Operator) -> None:
    """The subject of s-1 to s-2, by the API."""
    drafts = [
        {"external_id": "s-1", "subjects": []},
        {"external_id": "s-2", "subjects": ["user-s-1"]},
    ]
    answer = post(client_for(make_key(operator)), "subscribers/batch", drafts).json()
    assert [item["status"] for item in answer["items"]] == ["updated", "updated"]


@pytest.mark.parametrize("few", [True, False])
def test_an_ask_is_judged_by_what_its_subject_is_when_it_holds_units(
    monkeypatch: pytest.MonkeyPatch, before: Any, operator: Operator, gateway: Gateway, few: bool
) -> None:
    way = reservations_few if few else reservations
    if not few:
        monkeypatch.setattr(few_asks, "reserve", lambda *given, **named: {})
    plan = make_plan(operator)
    old, new = make_subscriber(operator, "s-1"), make_subscriber(operator, "s-2", subjects=())
    for person in (old, new):
        subscribe(person, plan)
    set_clock(operator, NOW + MINUTE)

    before("reserve", lambda: move(operator), way)
    moved = reserve(gateway, "a-1", subject="user-s-1", units="100")
    suspend = partial(lifecycle.suspend, new.pk, reason="unpaid", at=NOW + MINUTE)
    before("reserve", suspend, way)
    refused = reserve(gateway, "a-2", subject="user-s-1", units="100")

    assert (moved["decision"], refused["decision"]) == ("allow", "deny")
    assert refused["cause"] == "suspended"
    assert [buckets_of(one, "allowance")[0].reserved for one in (old, new)] == [0, 100 * T]


def test_a_slice_is_renewed_by_what_its_subject_is_then(
    before: Any, operator: Operator, gateway: Gateway
) -> None:
    plan = make_plan(operator)
    old, new = make_subscriber(operator, "s-1"), make_subscriber(operator, "s-2", subjects=())
    for person in (old, new):
        subscribe(person, plan)
    reserve(gateway, "a-1", subject="user-s-1", slice=True, units="1000")
    used_up = record("r-1", subject="user-s-1", input_tokens=900, output_tokens=0)
    set_clock(operator, NOW + MINUTE)

    before("renew", lambda: move(operator))
    answer = post(gateway.client, "reservations/a-1/usage", used_up).json()

    assert (answer["renewed"], answer["final"]) == (False, True)
    assert (answer["granted"], answer["cause"]) == ("100.000", "unknown_subject")
    assert [buckets_of(one, "allowance")[0].reserved for one in (old, new)] == [100 * T, 0]


def test_an_ask_that_is_judged_again_counts_once_towards_the_plans_rate(
    before: Any, settings: Any, operator: Operator, gateway: Gateway
) -> None:
    settings.RATE_LIMIT_PREFIX = f"test-{uuid.uuid4()}"
    subscribe(make_subscriber(operator), make_plan(operator, requests_per_minute=2))

    def overtake() -> None:
        raise reservations.Moved

    before("reserve", overtake)
    decided = [reserve(gateway, f"a-{n}", units="1")["decision"] for n in range(3)]

    assert decided == ["allow", "allow", "deny"]


def test_usage_while_its_subscriber_is_suspended_and_restored(
    race: Race, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))

    def change(nr: int) -> None:
        race.move_clock()
        if nr % 2 == 0:
            lifecycle.suspend(subscriber.pk, reason="unpaid", at=race.now)
        else:
            lifecycle.restore(subscriber.pk, at=race.now)

    race.run(change, 14)

    assert sum(used(subscriber).values()) == units_of(race.answers)
    rows = Suspension.objects.filter(subscriber_id=subscriber.pk)
    spans = [(row.starts_at, row.ends_at or race.now) for row in rows]
    assert len(spans) == 7
    for item in records_of(race.api, "&limit=1000"):
        moment = dt.datetime.fromisoformat(item["occurred_at"])
        suspended = any(since <= moment < until for since, until in spans)
        assert kinds_of(item) == {"uncovered" if suspended else "allowance"}


def test_usage_while_the_clock_passes_the_months_end_and_the_grace(
    race: Race, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100_000 * T, rollover="one_cycle"))
    race.move_clock(local(2026, 6, 30, 20) - race.now)

    def change(nr: int) -> None:
        race.move_clock(6 * HOUR)

    race.run(change, 14)

    assert race.now > local(2026, 7, 3)
    assert sum(used(subscriber).values()) == units_of(race.answers)
    june, july = buckets_of(subscriber, "allowance")
    assert (june.valid_until, july.valid_from) == (local(2026, 7, 1), local(2026, 7, 1))
    # What June left was moved on once.
    assert len(buckets_of(subscriber, "rollover")) == 1
    assert june.used == june.granted


def test_usage_while_rate_cards_are_published(race: Race, operator: Operator) -> None:
    put_card(race.api, NOW - DAY, **{"*": "1 1 1 1 1"})
    subscriber = make_subscriber(operator)
    starts = [NOW - DAY]

    def change(nr: int) -> None:
        race.move_clock()
        weight = str(nr + 2)
        answer = put_card(race.api, race.now, **{"*": " ".join([weight] * 5)})
        assert answer.status_code == 201
        starts.append(race.now)

    race.run(change, 14)

    assert sum(used(subscriber).values()) == units_of(race.answers)
    for row in UsageRecord.objects.filter(subscriber_id=subscriber.pk):
        version = sum(start <= row.occurred_at for start in starts)
        assert row.units == row.uncached_input_tokens * version * T
    assert balance(race.api)["available"] == "0.000"


def test_usage_of_now_and_some_minutes_ahead_while_all_of_it_changes(
    race: Race, operator: Operator
) -> None:
    """Reconcile alone tells here: what such usage meets is decided by who commits first."""
    put_card(race.api, NOW - DAY, **{"*": "1 1 1 1 1"})
    terms = {"allowance": 1500 * T, "price_per_million": "1.20", "block_price": yuan("1")}
    for code in ("stop", "meter", "blocks"):
        make_plan(
            operator,
            code,
            on_exhaustion=code,
            rollover="one_cycle",
            block_units=200 * T,
            **terms,
        )
    first = make_subscriber(operator, "s-1")
    second = make_subscriber(operator, "s-2", subjects=())
    body = {"name": "B", "price": "1", "units": "300", "valid_days": 1}
    assert put(race.api, "boosters/b", body).status_code == 201
    race.move_clock(local(2026, 6, 30, 12) - race.now)
    race.ahead = 5 * MINUTE
    held: list[str] = []

    def sell() -> Any:
        answer = post(race.api, "subscribers/s-1/subscriptions", {"plan": "stop"})
        held.append(answer.json()["id"])
        return answer

    def change_plan(code: str) -> Any:
        path = f"/api/v1/subscribers/s-1/subscriptions/{held[0]}"
        return race.api.patch(path, {"plan": code}, format="json")

    def rebind(old: str, new: str) -> Any:
        drafts = [
            {"external_id": old, "subjects": []},
            {"external_id": new, "subjects": ["user-s-1"]},
        ]
        return post(race.api, "subscribers/batch", drafts)

    def give() -> Any:
        until = (race.now + 3 * HOUR).isoformat()
        gift = {"units": "100", "valid_until": until, "reason": "x"}
        return post(race.api, "subscribers/s-1/grants", gift)

    changes: list[Callable[[], Any]] = [
        sell,
        give,
        partial(change_plan, "blocks"),
        partial(rebind, "s-1", "s-2"),
        lambda: put_card(race.api, race.now, **{"*": "2 2 2 2 2"}),
        partial(rebind, "s-2", "s-1"),
        partial(lifecycle.suspend, first.pk, reason="x"),
        lambda: post(race.api, "subscribers/s-1/boosters", {"booster": "b"}),
        partial(lifecycle.restore, first.pk),
        partial(change_plan, "meter"),
        give,
        lambda: put_card(race.api, race.now, **{"*": "3 3 3 3 3"}),
        give,
    ]

    def change(nr: int) -> None:
        one = changes[nr]
        answer = one(at=race.now) if isinstance(one, partial) and one.args == (first.pk,) else one()
        assert answer is None or answer.status_code in (200, 201, 409)
        race.move_clock(HOUR)

    race.run(change, len(changes))

    assert race.now > local(2026, 7, 1)
    drawn = sum(used(first).values()) + sum(used(second).values())
    assert drawn == units_of(race.answers)


# Reservations at once ----------------------------------------------------------------------------


def test_two_hundred_reservations_at_once_never_grant_more_than_there_is(
    operator: Operator, senders: list[Sender]
) -> None:
    make_rate_card(operator)
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=1000 * T))
    # A gateway each: what comes from one at the same moment shares a transaction.
    gateways = [Gateway(operator, name=f"g-{n}") for n in range(62)]

    def here(nr: int) -> list[Any]:
        return [reserve(gateways[nr], f"a-{n}", units="30") for n in range(3)]

    def there(nr: int) -> list[Any]:
        asks = [asked(f"a-{n}", units="30") for n in range(10)]
        return senders[nr].send(gateways[60 + nr].key, *asks, path="reservations")

    answers = flat(
        at_once(*(partial(here, n) for n in range(60)), *(partial(there, n) for n in range(2)))
    )

    assert len(answers) == 200
    assert sum(float(a["granted"]) for a in answers) == 990
    assert Counter(a["decision"] for a in answers) == {"allow": 33, "deny": 167}
    assert {a["cause"] for a in answers if a["decision"] == "deny"} == {"exhausted"}
    [bucket] = buckets_of(subscriber, "allowance")
    assert bucket.reserved == 990 * T


def test_reservations_at_once_never_grant_more_than_a_window_has_left(
    operator: Operator, senders: list[Sender]
) -> None:
    make_rate_card(operator)
    limits = (Window("day", 1000 * T), Window("5h", 2000 * T, sliding=True))
    subscribe(make_subscriber(operator), make_plan(operator, windows=limits))
    gateways = [Gateway(operator, name=f"g-{n}") for n in range(22)]

    def here(nr: int) -> list[Any]:
        made = [reserve(gateways[nr], f"a-{n}", units="30") for n in range(3)]
        for n, answer in enumerate(made):
            if answer["decision"] == "allow":
                commit(gateways[nr], f"a-{n}", input_tokens=30, output_tokens=0)
        return made

    def there(nr: int) -> list[Any]:
        asks = [asked(f"a-{n}", units="30") for n in range(10)]
        return senders[nr].send(gateways[20 + nr].key, *asks, path="reservations")

    answers = flat(
        at_once(*(partial(here, n) for n in range(20)), *(partial(there, n) for n in range(2)))
    )

    assert sum(float(a["granted"]) for a in answers) == 990
    assert {a["cause"] for a in answers if a["decision"] == "deny"} == {"rate_limited"}


def test_asks_of_one_gateway_that_share_transactions_never_grant_more_than_there_is(
    operator: Operator, gateway: Gateway
) -> None:
    """Each its own subscriber's or one that all want: what a run holds is held once."""
    plan = make_plan(operator, allowance=1000 * T)
    people = [make_subscriber(operator, f"s-{n}") for n in range(5)]
    for person in people:
        subscribe(person, plan)
    subjects = ["user-s-0"] * 6 + [f"user-s-{n}" for n in range(1, 5)]

    def ask(nr: int) -> list[Any]:
        who = {"subject": subjects[nr % 10], "units": "30"}
        return [reserve(gateway, f"a-{nr}-{n}", **who) for n in range(10)]

    answers = flat(at_once(*(partial(ask, nr) for nr in range(20))))

    assert len(answers) == 200
    decided = Counter(a["decision"] for a in answers)
    assert decided == {"allow": 33 + 80, "deny": 120 - 33}
    reserved = [buckets_of(person, "allowance")[0].reserved for person in people]
    assert reserved == [990 * T, *[600 * T] * 4]


def test_an_ask_that_waits_while_the_first_pack_is_bought_is_promised_no_other(
    operator: Operator, gateway: Gateway
) -> None:
    """There was no bucket of packs to lock when it began to wait, and one is all that may be."""
    plan = make_plan(
        operator,
        allowance=100 * T,
        on_exhaustion="blocks",
        block_units=500 * T,
        block_price=yuan("1"),
        cap_units=500 * T,
    )
    subscriber = make_subscriber(operator)
    subscribe(subscriber, plan)
    gateway.charge(record("r-1", input_tokens=10, output_tokens=0))
    asking: list[Any] = []

    def ask() -> None:
        try:
            asking.append(reserve(gateway, units="150"))
        finally:
            connections.close_all()

    thread = threading.Thread(target=ask)
    with transaction.atomic():
        usage = [record(f"u-{n}", input_tokens=270, output_tokens=0) for n in range(2)]
        gateway.charge(*usage)
        thread.start()
        while not locks_waited_for() and thread.is_alive():
            time.sleep(0.01)
    thread.join()

    assert asking[0]["decision"] == "deny"
    assert used(subscriber) == {"allowance": 100, "overage": 450}


def locks_waited_for() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE a.datname = current_database() AND NOT l.granted"
        )
        count: int = cursor.fetchone()[0]
        return count


def test_the_same_ask_from_several_threads_and_processes_is_one(
    operator: Operator, gateway: Gateway, senders: list[Sender]
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=1000 * T))
    rotated = Gateway(operator)

    for nr in range(12):
        name = f"a-{nr}"
        answers = at_once(
            *(lambda: [reserve(gateway, name, units="10") for _ in range(2)],) * 3,  # noqa: B023
            lambda: [reserve(rotated, name, units="10")],  # noqa: B023
            lambda: senders[0].send(
                gateway.key,
                *[asked(name, units="10")] * 2,  # noqa: B023
                path="reservations",
            ),
        )
        assert len({a["available"] for a in flat(answers)}) == 1

    [bucket] = buckets_of(subscriber, "allowance")
    assert bucket.reserved == 120 * T


def test_of_two_commits_at_once_one_counts(
    operator: Operator, gateway: Gateway, senders: list[Sender]
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=10_000 * T))
    rotated = Gateway(operator)

    charged = 0
    for nr in range(12):
        name = f"a-{nr}"
        reserve(gateway, name, units="100")
        same, other = record(name), record(f"{name}-other", input_tokens=7)
        answers = at_once(
            *(
                partial(post, sender.client, f"reservations/{name}/commit", body)
                for sender in (gateway, rotated)
                for body in (same, same, other)
            )
        )
        done = [a.json() for a in answers if a.status_code == 200]
        assert {a.status_code for a in answers} == {200, 409}
        assert len({a["batch"] for a in done}) == 1
        charged += round(float(done[0]["units"]))

    assert used(subscriber) == {"allowance": charged}


def test_a_commit_and_the_sweep_at_once_charge_once_and_leave_nothing_held(
    operator: Operator, gateway: Gateway
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=10_000 * T))

    for nr in range(20):
        name = f"a-{nr}"
        reserve(gateway, name, units="100", ttl_seconds=60)
        answers = at_once(
            partial(commit, gateway, name, input_tokens=70, output_tokens=0),
            partial(reservations.expire_due, operator.pk, at=NOW + MINUTE),
            partial(commit, gateway, name, input_tokens=70, output_tokens=0),
        )
        first, expired, again = answers
        assert first == again
        assert (first["late"], first["released"]) in {(False, "30.000"), (True, "0.000")}
        assert expired == first["late"]

    assert used(subscriber) == {"allowance": 20 * 70}
    assert buckets_of(subscriber, "allowance")[0].reserved == 0


def test_reservations_usage_and_the_sweep_at_once_lose_nothing(
    operator: Operator, gateway: Gateway, senders: list[Sender]
) -> None:
    """Asked, committed with more or less, released, outlived, beside usage that asks nobody."""
    terms: dict[str, Any] = {
        "allowance": 3_000 * T,
        "price_per_million": "1",
        "block_units": 500 * T,
        "block_price": yuan("1"),
        "cap_units": 4_000 * T,
    }
    people = {}
    for policy in ("stop", "meter", "blocks", "none"):
        for n in range(2):
            name = f"{policy}-{n}"
            people[f"user-{name}"] = make_subscriber(operator, name)
            if policy != "none":
                plan = make_plan(operator, policy, on_exhaustion=policy, **terms)
                subscribe(people[f"user-{name}"], plan)
    names = list(people)
    gateways = [Gateway(operator, name=f"g-{n}") for n in range(4)]
    ended = threading.Event()

    def asks(place: int) -> int:
        """Units that were charged."""
        choice, total = random.Random(place), 0
        sender = gateways[place % 4]
        for nr in range(40):
            who = {"subject": choice.choice(names)}
            name = f"{place}-{nr}"
            ttl = choice.choice((1, 600))
            reserve(sender, name, units=str(choice.randrange(1, 300)), ttl_seconds=ttl, **who)
            match choice.randrange(4):
                case 0:
                    release(sender, name)
                case 1:
                    pass  # forgotten
                case _:
                    tokens = choice.randrange(1, 400)
                    answer = commit(sender, name, input_tokens=tokens, output_tokens=0, **who)
                    assert float(answer["units"]) == tokens
                    total += tokens
        return total

    def uses(place: int) -> int:
        choice, total = random.Random(-place), 0
        for nr in range(12):
            batch = [
                record(
                    f"u-{place}-{nr}-{n}",
                    subject=choice.choice(names),
                    input_tokens=choice.randrange(1, 60),
                    output_tokens=0,
                )
                for n in range(10)
            ]
            answers = (
                senders[place].send(gateway.key, batch) if place < 2 else [gateway.charge(*batch)]
            )
            total += units_of(answers)
        return total

    def sweeps() -> int:
        at = NOW
        while not ended.wait(0.05):
            # The clock moves only as far as this sweep is concerned.
            at += MINUTE / 60
            reservations.expire_due(operator.pk, at=at)
        return 0

    def all_of_it() -> int:
        try:
            return sum(at_once(*work))
        finally:
            ended.set()

    work = [*(partial(asks, n) for n in range(8)), *(partial(uses, n) for n in range(4))]
    total, _ = at_once(all_of_it, sweeps)

    assert total == sum(sum(used(person).values()) for person in people.values())
    while reservations.expire_due(operator.pk, at=NOW + DAY):
        pass
    assert not Bucket.objects.filter(subscriber__operator=operator, reserved__gt=0).exists()


def test_units_given_back_do_not_wait_for_a_bucket_that_came_after_their_locks(
    operator: Operator, gateway: Gateway
) -> None:
    """The sweep has locked what three have; the first got another bucket meanwhile, and a batch
    that draws of it waits for the second's."""
    plan = make_plan(operator, allowance=100 * T)
    people = [make_subscriber(operator, f"s-{n}", subjects=(f"user-{n}",)) for n in range(3)]
    for nr, one in enumerate(people):
        subscribe(one, plan)
        reserve(gateway, f"a-{nr}", units="100", ttl_seconds=1, subject=f"user-{nr}")
    first, _, last = (buckets_of(one, "allowance")[0] for one in people)

    def uses(mark: str, *who: int) -> list[Any]:
        def one(nr: int) -> dict[str, Any]:
            return record(f"{mark}-{nr}", subject=f"user-{nr}", input_tokens=10, output_tokens=0)

        return [gateway.charge(*map(one, who))]

    sweep = partial(reservations.expire_due, operator.pk, at=NOW + MINUTE)
    held, done = threading.Event(), threading.Event()

    def holds() -> None:
        with holding(last):
            held.set()
            done.wait(60)

    with ThreadPoolExecutor(3) as pool:
        holder = pool.submit(closing(holds))
        held.wait(60)
        with holding(first):
            swept = pool.submit(closing(sweep))
            wait_for_locks(1)
            uses("opens", 0)
        wait_for_locks(1)
        charged = pool.submit(closing(partial(uses, "draws", 0, 1)))
        wait_for_locks(2)
        done.set()
        holder.result()
        assert swept.result() == 3
        assert counted(charged.result()[0]) == (2, 0, 0)

    assert not Bucket.objects.filter(subscriber__operator=operator, reserved__gt=0).exists()
    assert [sum(used(one).values()) for one in people] == [20, 10, 0]
    # What came back burns first again, whatever was remembered of the first one's buckets.
    uses("then", 0)
    assert used(people[0]) == {"uncovered": 20, "allowance": 10}


@contextlib.contextmanager
def holding(bucket: Bucket) -> Iterator[None]:
    """Somebody's transaction that has locked a bucket, until the block ends."""
    with transaction.atomic():
        Bucket.objects.select_for_update(no_key=True).get(
            subscriber_id=bucket.subscriber_id, id=bucket.id
        )
        yield


def closing(call: Callable[[], Result]) -> Callable[[], Result]:
    """The call, for a thread of its own: its connection is closed behind it."""

    def run() -> Result:
        try:
            return call()
        finally:
            connections.close_all()

    return run


def wait_for_locks(count: int) -> None:
    """Until so many wait for a lock."""
    ends = time.monotonic() + 20
    while locks_waited_for() < count:
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_the_same_record_made_void_several_times_at_once_is_void_once(
    operator: Operator, gateway: Gateway
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=1_000 * T))
    api = client_for(make_key(operator))
    gateway.charge(record("r-1"), record("r-2"))

    answers = at_once(
        *[partial(adjust, api, "r-1", "void")] * 4, charging(gateway, [record("r-3")])
    )

    assert len({answer["adjustment"]["batch"] for answer in answers[:4]}) == 1
    [bucket] = buckets_of(subscriber)
    assert bucket.used == 240 * T


def test_records_made_void_and_corrected_while_others_are_charged(
    operator: Operator, gateway: Gateway
) -> None:
    """The allowance runs dry and is refilled all the time, for whoever remembers what pays."""
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, allowance=1_200 * T, on_exhaustion="meter", price_per_million="1.20")
    subscribe(subscriber, plan)
    api = client_for(make_key(operator))
    gateway.charge(*(record(f"old-{nr}") for nr in range(12)))

    def fix(nr: int) -> list[Any]:
        for which in range(nr, 12, 3):
            adjust(api, f"old-{which}", "correct", input_tokens=which * 10)
            if which % 2:
                adjust(api, f"old-{which}", "void")
        return []

    at_once(
        *(partial(fix, nr) for nr in range(3)),
        *(charging(gateway, *([record(f"new-{nr}-{m}")] for m in range(15))) for nr in range(3)),
    )

    left = sum(20 + which * 10 for which in range(0, 12, 2))
    buckets = {bucket.kind: bucket.used // T for bucket in buckets_of(subscriber)}
    assert sum(buckets.values()) == left + 45 * 120


def test_of_a_void_and_a_correction_at_once_the_void_stands(
    operator: Operator, gateway: Gateway
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=10_000 * T))
    api = client_for(make_key(operator))

    for nr in range(8):
        gateway.charge(record(f"r-{nr}"))
        said = [{"input_tokens": tokens, "reason": "x"} for tokens in (10, 500)]
        path = f"subscribers/s-1/usage-records/r-{nr}/correct"
        corrections = [partial(post, api, path, body) for body in said]
        *answers, _ = at_once(*corrections, partial(adjust, api, f"r-{nr}", "void"))
        assert {answer.status_code for answer in answers} <= {200, 409}

    assert [bucket.used for bucket in buckets_of(subscriber)] == [0]


def test_records_made_void_while_their_bucket_ends(operator: Operator, gateway: Gateway) -> None:
    make_rate_card(operator)
    subscriber = make_subscriber(operator)
    api = client_for(make_key(operator))
    for nr in range(6):
        end = NOW + (nr + 1) * HOUR
        lifecycle.give(
            subscriber.pk, units=240 * T, valid_until=end, reason="x", at=operator.clock_at or NOW
        )
        at = end - MINUTE
        set_clock(operator, at)
        gateway.charge(*(record(f"r-{nr}-{m}", occurred_at=at) for m in range(2)))

        def end_it(end: dt.datetime = end) -> list[Any]:
            set_clock(operator, end)
            return []

        at_once(*(partial(adjust, api, f"r-{nr}-{m}", "void") for m in range(2)), end_it)
        # Refilled before its end, or not at all: each of the two as it came.
        assert buckets_of(subscriber)[-1].used in (0, 120 * T, 240 * T)


def adjust(api: APIClient, id: str, how: str, **said: Any) -> Any:
    answer = post(api, f"subscribers/s-1/usage-records/{id}/{how}", {"reason": "x", **said})
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_batches_get_no_number_that_a_killed_server_may_have_given_out_again(
    operator: Operator, gateway: Gateway
) -> None:
    """What it had not written down it has forgotten; its connections, though, are gone too."""
    make_rate_card(operator)
    make_subscriber(operator)

    def numbers() -> list[int]:
        return [int(gateway.charge(record(uuid.uuid4().hex))["batch"]) for _ in range(2)]

    warm.close()
    first = numbers()
    warm.close()
    second = numbers()

    assert first[1] == first[0] + 1
    assert second[1] == second[0] + 1
    assert second[0] > first[0] + 2
