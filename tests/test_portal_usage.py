"""The pages about usage: parts, comparison, receipts with what buckets had, staying up to date."""

from __future__ import annotations

import csv
import datetime as dt
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

import hypothesis.extra.django
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import receipts, rollups, standings
from metering.models import UsageRecord
from subscriptions import lifecycle
from subscriptions.models import Operator, Subscriber
from subscriptions.subscriber_keys import keeping as subscriber_keys
from subscriptions.subscriber_keys.keeping import Terms
from tests.factories import (
    NOW,
    SHANGHAI,
    buckets_of,
    client_for,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
)
from tests.families import join, make_family
from tests.usage import DAY, HOUR, MINUTE, Gateway, bare, post, record
from tests.visiting import asking, assert_cheap, client_of, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _this_portal(operator: Operator, settings: Any) -> None:
    settings.PORTAL_OPERATOR = operator.code


def rows_of(client: Client, path: str) -> list[dict[str, str]]:
    answer = client.get(path)
    content = b"".join(answer) if answer.streaming else answer.content
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))


# Charts -------------------------------------------------------------------------------------------


def test_a_chart_has_a_gap_where_nothing_was_used(
    operator: Operator, subscriber: Subscriber, gateway: Gateway
) -> None:
    set_clock(operator, NOW + 4 * DAY)
    gateway.charge(
        *(
            record(f"r-{days}", subject="user-s-1", occurred_at=NOW + days * DAY)
            for days in (0, 3, 4)
        )
    )

    [drawn] = re.findall(
        r'<path class="series-1" d="([^"]+)"', text_of(client_of(subscriber), "/usage/")
    )

    old, middle, new = (int(x) for x in re.findall(r"M(\d+) ", drawn))
    # A bar for each of 30 days in a picture of 1,000.
    assert (round((new - middle) / 33), round((middle - old) / 33)) == (1, 3)
    assert new > 950


# Parts --------------------------------------------------------------------------------------------


@pytest.fixture
def two_keys(operator: Operator) -> Subscriber:
    subscriber = make_subscriber(operator, subjects=("phone", "=laptop()"))
    subscribe(subscriber, make_plan(operator))
    return subscriber


def test_usage_is_told_by_key_whether_folded_or_not(
    operator: Operator, two_keys: Subscriber, gateway: Gateway, api: Any
) -> None:
    for nr, (subject, tokens) in enumerate((("phone", 1000), ("=laptop()", 300), ("phone", 50))):
        at = NOW - nr * HOUR
        said = {"subject": subject, "occurred_at": at, "output_tokens": 0}
        gateway.charge(record(f"r-{nr}", input_tokens=tokens, **said))
    voided = post(api, "subscribers/s-1/usage-records/r-2/void", {"reason": "a test"})
    assert voided.status_code == 200, voided.content
    client = client_of(two_keys)

    for _ in range(2):
        rows = rows_of(client, "/usage/table.csv?by=day&of=key")
        assert {(row["key"], row["requests"], row["units"]) for row in rows} == {
            ("phone", "1", "1000.000"),
            ("'=laptop()", "1", "300.000"),
        }
        by_hour = rollups.usage_by_subject(
            *(operator.pk, two_keys.pk, SHANGHAI),
            since=NOW - 2 * HOUR - 30 * MINUTE,
            until=NOW + MINUTE,
            by="hour",
        )
        assert sorted(row.units for _, row in by_hour) == [300_000, 1_000_000]
        assert rollups.fold_all(at=NOW) in (0, 3)
    page = text_of(client, "/usage/?of=key")
    assert ">phone<" in re.sub(r"\s+", "", page)
    assert "=laptop()" in page


def test_a_key_has_its_name(operator: Operator, subscriber: Subscriber, gateway: Gateway) -> None:
    issued = subscriber_keys.create(subscriber, Terms("My laptop"), by="a test", at=NOW)
    gateway.charge(record("r-1", subject=issued.key.subject))

    assert "My laptop" in text_of(client_of(subscriber), "/usage/?of=key")


def test_each_part_is_compared_with_as_long_before(
    operator: Operator, two_keys: Subscriber, gateway: Gateway
) -> None:
    for name, at, tokens in (("now", NOW, 300), ("before", NOW - 2 * DAY, 200)):
        said = {"subject": "phone", "occurred_at": at, "output_tokens": 0}
        gateway.charge(record(name, input_tokens=tokens, **said))
    client = client_of(two_keys)

    for way in ("model", "class", "key"):
        page = text_of(client, f"/usage/?of={way}&from=2026-06-09&to=2026-06-10")
        assert "+50%" in page, way


def test_the_largest_parts_have_names_and_the_rest_is_one(
    subscriber: Subscriber, gateway: Gateway
) -> None:
    gateway.charge(
        *(record(f"r-{n}", model=f"m-{n}", input_tokens=100 - n, output_tokens=0) for n in range(7))
    )

    page = text_of(client_of(subscriber), "/usage/")

    assert all(f"m-{n}" in page for n in range(5))
    assert "m-5" not in page
    assert "All others" in page
    assert len(rows_of(client_of(subscriber), "/usage/table.csv")) == 7


# Receipts -----------------------------------------------------------------------------------------


def test_a_receipt_says_what_each_bucket_had_before_and_after(
    operator: Operator, gateway: Gateway
) -> None:
    plan = make_plan(operator, allowance=1_000_000, on_exhaustion="meter", price_per_million="1")
    subscriber = make_subscriber(operator)
    subscribe(subscriber, plan)
    gateway.charge(
        *(
            record(f"r-{n}", input_tokens=400, output_tokens=0, occurred_at=NOW + n * MINUTE / 10)
            for n in range(4)
        )
    )

    page = text_of(client_of(subscriber), "/usage/requests/")
    cells = [each.strip() for each in re.findall(r"<td[^>]*>([^<]*)</td>", page)]

    # The latest first: two lines of tokens (tokens, weight, units), then buckets.
    assert [cell for cell in cells if cell and "×" not in cell] == [
        *("400", "400", "400", "200", "600"),
        *("400", "400", "200", "200", "0", "200", "0", "200"),
        *("400", "400", "400", "600", "200"),
        *("400", "400", "400", "1,000", "600"),
    ]
    assert page.count("used so far") == 2


class StandingTests(hypothesis.extra.django.TestCase):
    @settings(max_examples=12)
    @given(
        batches=st.lists(
            st.lists(st.integers(1, 700), min_size=1, max_size=4), min_size=1, max_size=6
        ),
        gift=st.integers(0, 1500),
        far=st.booleans(),
    )
    def test_what_one_request_leaves_is_what_the_next_one_finds(
        self, batches: Sequence[Sequence[int]], gift: int, far: bool
    ) -> None:
        operator = make_operator("tried")
        terms = {"on_exhaustion": "meter", "price_per_million": "1"}
        plan = make_plan(operator, allowance=2_000_000, **terms)
        subscriber = make_subscriber(operator)
        subscribe(subscriber, plan)
        if gift:
            until = NOW + 10 * DAY
            given_units = gift * 1000
            lifecycle.give(
                subscriber.pk, units=given_units, valid_until=until, reason="a test", at=NOW
            )
        gateway = Gateway(operator)
        for nr, sizes in enumerate(batches):
            set_clock(operator, NOW + nr * MINUTE)
            gateway.charge(
                *(
                    record(
                        f"r-{nr}-{n}",
                        input_tokens=size,
                        output_tokens=0,
                        occurred_at=NOW + nr * MINUTE + dt.timedelta(seconds=n),
                    )
                    for n, size in enumerate(sizes)
                )
            )
        records = list(UsageRecord.objects.filter(subscriber_id=subscriber.pk))
        drawn = receipts.drawn_by(operator, subscriber.pk, records)

        stood = standings.standings_of(
            subscriber.pk, records, drawn, at=NOW + (40 * DAY if far else HOUR)
        )

        for bucket in buckets_of(subscriber):
            chain = [each for (_, pk), each in sorted(stood.items()) if pk == bucket.id]
            if not chain:
                continue
            assert all(one.after == two.before for one, two in itertools.pairwise(chain))
            if chain[0].used:
                assert (chain[0].before, chain[-1].after) == (0, bucket.used)
            else:
                assert bucket.granted is not None
                left = bucket.granted - bucket.used
                assert (chain[0].before, chain[-1].after) == (bucket.granted, left)
        paid = sum(abs(each.after - each.before) for each in stood.values())
        assert paid == sum(record.units for record in records)


def test_a_corrected_request_says_so_and_shifts_nobody_elses_figures(
    operator: Operator, subscriber: Subscriber, gateway: Gateway, api: Any
) -> None:
    for nr, tokens in enumerate((100, 50)):
        set_clock(operator, NOW + nr * MINUTE)
        gateway.charge(record(f"r-{nr + 1}", input_tokens=tokens, output_tokens=0))
    set_clock(operator, NOW + 2 * MINUTE)
    body = {"reason": "a test", "input_tokens": 30}
    assert post(api, "subscribers/s-1/usage-records/r-1/correct", body).status_code == 200

    page = text_of(client_of(subscriber), "/usage/requests/")

    assert page.count("Corrected later") == 1
    assert "9,999,900" in page
    assert "9,999,850" in page


# Single requests ----------------------------------------------------------------------------------


def test_requests_are_paged_by_their_place_each_once(
    subscriber: Subscriber, gateway: Gateway
) -> None:
    # All of one instant: the place has to break ties.
    gateway.charge(*(record(f"r-{n:02}", input_tokens=1, output_tokens=0) for n in range(70)))
    client = client_of(subscriber)
    seen: list[str] = []
    path: str | None = "/usage/requests/"

    while path:
        page = text_of(client, path)
        seen += re.findall(r"· (r-\d\d)<", page)
        onward = re.search(r'href="(\?day=[^"]*after=[^"]*)"', page)
        path = "/usage/requests/" + onward[1].replace("&amp;", "&") if onward else None

    assert seen == [f"r-{n:02}" for n in reversed(range(70))]
    rows = rows_of(client, "/usage/requests.csv?day=2026-06-10")
    assert [row["id"] for row in rows] == seen
    assert rows[0]["buckets"] == "allowance 1.000"


@pytest.mark.parametrize(
    "after",
    ["x", "W10=", "WzEsMiwzLDRd", "WyIyMDI2LTA2LTEwIiwgMSwgIiIsICIiXQ==", "%00", "%FF", "A" * 9000],
)
def test_a_place_that_cannot_be_read_is_the_beginning(subscriber: Subscriber, after: str) -> None:
    text_of(client_of(subscriber), f"/usage/requests/?after={after}")


# Up to date ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/usage/"])
def test_a_part_is_sent_again_only_where_something_changed(
    subscriber: Subscriber, gateway: Gateway, path: str
) -> None:
    client = client_of(subscriber)
    page = text_of(client, path, **{"hx-request": "true"})
    [version] = re.findall(r'If-None-Match": "\\"(\w+)\\""', page)
    asks = {"hx-request": "true", "if-none-match": f'"{version}"'}

    with CaptureQueriesContext(connection) as asked:
        same = client.get(path, headers=asks)
    gateway.charge(record())
    changed = client.get(path, headers=asks)

    assert (same.status_code, same.content) == (304, b"")
    assert len(asked) <= 5, [query["sql"][:90] for query in asked]
    assert (changed.status_code, changed.content.lstrip()[:8]) == (200, b"<div id=")
    assert version not in changed.content.decode()


def test_who_asks_again_asks_for_the_same_days(subscriber: Subscriber) -> None:
    page = text_of(client_of(subscriber), "/usage/?from=2026-06-01&to=2026-06-05")

    assert re.findall(r'name="(?:from|to)" value="([^"]+)"', page) == ["2026-06-01", "2026-06-05"]


# What it costs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/usage/?of=key", "/usage/?of=class&by=month", "/usage/requests/", "/usage/table.csv"]
)
def test_a_page_of_usage_asks_the_database_at_most_twelve_times(
    operator: Operator, two_keys: Subscriber, gateway: Gateway, path: str
) -> None:
    for nr in range(6):
        gateway.charge(record(f"r-{nr}", subject="phone", model=f"m-{nr}"))

    assert_cheap(client_of(two_keys), path)


@pytest.mark.parametrize("path", ["/usage/requests/", "/usage/requests.csv"])
def test_requests_paid_from_one_bucket_and_from_several_and_corrected_cost_twelve_questions(
    operator: Operator, gateway: Gateway, path: str
) -> None:
    subscriber = bare(operator)
    for nr in range(4):
        until = NOW + (nr + 1) * DAY
        lifecycle.give(subscriber.pk, units=100_000, valid_until=until, reason="a test", at=NOW)
    gateway.charge(record("alone", input_tokens=50, output_tokens=0))
    gateway.charge(*(record(f"r-{nr}", input_tokens=75, output_tokens=0) for nr in range(2)))
    staff = client_for(make_key(operator, name="staff"))
    less = {"reason": "counted twice", "input_tokens": 60}
    corrected = post(staff, "subscribers/s-1/usage-records/r-1/correct", less)
    client = client_of(subscriber)

    page = client.get("/usage/requests/")
    receipts = {item["id"]: item["receipt"]["buckets"] for item in page.context["items"]}

    assert corrected.status_code == 200, corrected.content
    assert {id: len(buckets) for id, buckets in receipts.items()} == {
        "alone": 1,
        "r-0": 2,
        "r-1": 1,
    }
    assert "Corrected later" in page.content.decode()
    assert_cheap(client, path)


def test_requests_that_several_buckets_paid_are_told_in_as_many_questions_however_many(
    operator: Operator, gateway: Gateway
) -> None:
    subscriber = bare(operator)
    for nr in range(6):
        until = NOW + (nr + 1) * DAY
        lifecycle.give(subscriber.pk, units=100_000, valid_until=until, reason="a test", at=NOW)
    client = client_of(subscriber)
    asked = []
    for nr in range(3):
        gateway.charge(record(f"r-{nr}", input_tokens=150, output_tokens=0))
        client.get("/usage/requests/")  # weights are read once in a process
        page, queries = asking(client, "/usage/requests/")
        assert [len(item["receipt"]["buckets"]) for item in page.context["items"]] == [2] * (nr + 1)
        asked.append(len(queries))

    assert len(set(asked)) == 1, asked


def test_another_subscribers_usage_is_nowhere(
    operator: Operator, two_keys: Subscriber, gateway: Gateway
) -> None:
    gateway.charge(record("theirs", subject="phone", model="their-model"))
    stranger = client_of(make_subscriber(operator, "s-2"))
    place = "/usage/requests/?day=2026-06-10"

    for path in ("/usage/", "/usage/?of=key", place):
        page = text_of(stranger, path)
        assert "their" not in page
        assert "phone" not in page
    for path in ("/usage/table.csv?of=key", "/usage/requests.csv?day=2026-06-10"):
        assert rows_of(stranger, path) == []


# Members ------------------------------------------------------------------------------------------


def test_the_main_line_sees_what_each_member_drew_and_a_member_does_not(
    operator: Operator, gateway: Gateway
) -> None:
    owner, child = make_subscriber(operator), make_subscriber(operator, "s-2")
    subscribe(owner, make_plan(operator))
    join(make_family(owner), child)
    gateway.charge(record("own", input_tokens=700, output_tokens=0))
    drawn = {"subject": "user-s-2", "input_tokens": 300, "output_tokens": 0}
    gateway.charge(record("theirs", **drawn))
    client = client_of(owner)

    rows = rows_of(client, "/usage/table.csv?by=month&of=member")
    page = text_of(client, "/usage/?of=member")
    receipt = text_of(client_of(child), "/usage/requests/")

    assert {row["member"]: row["units"] for row in rows} == {"s-1": "700.000", "s-2": "300.000"}
    assert "s-2" in page
    assert_cheap(client, "/usage/?of=member")
    assert "used so far" in receipt
    assert "By member" not in text_of(client_of(child), "/usage/?of=member")
