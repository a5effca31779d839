"""`POST /api/v1/usage-records` and the quarantine: every sentence of the contract on them."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from django.db import connection
from rest_framework.test import APIClient

from metering import parsing, rollups
from metering.models import QuarantinedRecord, UsageRecord
from subscriptions import keys, lifecycle
from subscriptions.models import ApiKey, Operator, OutboxEvent, Subscriber
from tests.factories import (
    NOW,
    buckets_of,
    local,
    make_operator,
    make_plan,
    make_rate_card,
    make_subscriber,
    set_clock,
)
from tests.usage import (
    DAY,
    HOUR,
    MINUTE,
    PATH,
    US,
    Gateway,
    T,
    assert_books_agree,
    assert_problem,
    balance,
    bare,
    causes,
    counted,
    get,
    lines,
    post,
    put,
    record,
    texts_holding,
    used,
)

pytestmark = pytest.mark.django_db

MIB = 1024 * 1024
JSON = "application/json"
NDJSON = "application/x-ndjson"


# Shapes ------------------------------------------------------------------------------------------


def test_a_record_is_charged_and_the_answer_says_how_much(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    answer = gateway.send(record())

    assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")
    body = answer.json()
    assert body.pop("batch").isdigit()
    assert body == {"accepted": 1, "duplicates": 0, "rejected": [], "units": "120.000"}
    assert balance(api)["available"] == "9999880.000"


@pytest.mark.parametrize(
    "body",
    [
        json.dumps([record("a"), record("b")]).encode(),
        json.dumps({"records": [record("a"), record("b")]}).encode(),
        json.dumps({"sent_by": "x", "records": [record("a"), record("b")], "n": 2}).encode(),
        lines(record("a"), record("b")),
        b"\r\n\r\n" + b"\r\n".join([lines(record("a")), b"", lines(record("b"))]) + b"\r\n",
        b" \n\t" + json.dumps([record("a"), record("b")], indent=2).encode() + b"\n",
    ],
    ids=["array", "envelope", "fuller envelope", "ndjson", "ndjson of windows", "indented"],
)
@pytest.mark.parametrize("content_type", [JSON, NDJSON, "text/plain", ""])
def test_several_records_come_as_an_array_an_envelope_or_lines(
    gateway: Gateway, subscriber: Subscriber, body: bytes, content_type: str
) -> None:
    answer = gateway.send(body, content_type)

    assert answer.status_code == 200, answer.content
    assert counted(answer.json()) == (2, 0, 0)
    assert answer.json()["units"] == "240.000"


@pytest.mark.parametrize("body", [b"[]", b'{"records": []}'])
def test_nothing_sent_is_nothing_charged(gateway: Gateway, body: bytes) -> None:
    answer = gateway.send(body).json()

    assert (counted(answer), answer["units"]) == ((0, 0, 0), "0.000")


def test_fields_nobody_knows_are_let_by(gateway: Gateway, subscriber: Subscriber) -> None:
    answer = gateway.charge(record(total_tokens=120, cost=None, nested={"a": [1, {"b": None}]}))

    assert counted(answer) == (1, 0, 0)


def test_an_outcome_and_attributes_are_kept(gateway: Gateway, subscriber: Subscriber) -> None:
    gateway.charge(record(outcome="cancelled", attributes={"route": "a", "名": [1, None]}))

    row = UsageRecord.objects.get(subscriber_id=subscriber.pk)
    assert (row.outcome, row.attributes) == ("cancelled", {"route": "a", "名": [1, None]})


# Compression -------------------------------------------------------------------------------------


def zstd(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd}


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "zstd", " Zstd "])
def test_a_body_may_be_compressed(gateway: Gateway, subscriber: Subscriber, encoding: str) -> None:
    pack = PACKERS["gzip" if "gzip" in encoding.lower() else "zstd"]

    answer = gateway.send(pack(lines(record("a"), record("b"))), NDJSON, encoding)

    assert answer.status_code == 200, answer.content
    assert counted(answer.json()) == (2, 0, 0)


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_compressed_body_may_have_several_members(
    gateway: Gateway, subscriber: Subscriber, encoding: str
) -> None:
    pack = PACKERS[encoding]
    members = [pack(lines(record(f"r-{n}")) + b"\n") for n in range(50)]

    answer = gateway.send(pack(b"") + b"".join(members), NDJSON, encoding)

    assert counted(answer.json()) == (50, 0, 0)


def test_zstd_that_says_neither_its_size_nor_its_end_ahead_is_read(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    stream = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compressobj()
    packed = b"".join(
        stream.compress(lines(record(f"r-{n}")) + b"\n")
        + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        for n in range(20)
    )

    answer = gateway.send(packed + stream.flush(), NDJSON, "zstd")

    assert counted(answer.json()) == (20, 0, 0)


def flushed_line_by_line(encoding: str, count: int) -> bytes:
    """NDJSON packed so that what comes before any cut can be unpacked, whole lines of it."""
    data = [lines(record(f"r-{n}")) + b"\n" for n in range(count)]
    if encoding == "gzip":
        deflate = zlib.compressobj(wbits=31)
        parts = [deflate.compress(line) + deflate.flush(zlib.Z_FULL_FLUSH) for line in data]
        return b"".join(parts) + deflate.flush()
    stream = zstandard.ZstdCompressor().compressobj()
    block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
    return b"".join(stream.compress(line) + stream.flush(block) for line in data) + stream.flush()


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_compressed_body_that_ends_too_early_is_400_wherever_it_is_cut(
    gateway: Gateway, subscriber: Subscriber, encoding: str
) -> None:
    whole = flushed_line_by_line(encoding, 5)

    for length in range(len(whole)):
        assert_problem(gateway.send(whole[:length], NDJSON, encoding), 400, "malformed")

    assert not UsageRecord.objects.exists()
    assert not QuarantinedRecord.objects.exists()
    assert counted(gateway.send(whole, NDJSON, encoding).json()) == (5, 0, 0)


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_second_member_that_ends_too_early_is_400(
    gateway: Gateway, subscriber: Subscriber, encoding: str
) -> None:
    pack = PACKERS[encoding]
    first, second = pack(lines(record("a")) + b"\n"), pack(lines(record("b")) + b"\n")

    for length in range(1, len(second)):
        answer = gateway.send(first + second[:length], NDJSON, encoding)
        assert_problem(answer, 400, "malformed")

    assert not UsageRecord.objects.exists()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (lines(record()), "gzip"),
        (lines(record()), "zstd"),
        (b"", "gzip"),
        (b"", "zstd"),
        (gzip.compress(b"", mtime=0), "gzip"),
        (zstd(b""), "zstd"),
        (gzip.compress(lines(record()), mtime=0), "zstd"),
        (zstd(lines(record())), "gzip"),
        (gzip.compress(lines(record()), mtime=0) + b"tail", "gzip"),
        (zstd(lines(record())) + b"tail", "zstd"),
        (gzip.compress(lines(record()), mtime=0), ""),
        (lines(record()), "br"),
        (lines(record()), "gzip, zstd"),
        (zlib.compress(lines(record())), "deflate"),
    ],
    ids=range(14),
)
def test_a_body_that_is_not_what_its_encoding_says_is_400(
    gateway: Gateway, subscriber: Subscriber, body: bytes, encoding: str
) -> None:
    assert_problem(gateway.send(body, JSON, encoding), 400, "malformed")
    assert not UsageRecord.objects.exists()


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_small_body_that_unpacks_large_is_413(gateway: Gateway, encoding: str) -> None:
    bomb = PACKERS[encoding](b" " * (200 * MIB))
    assert len(bomb) < MIB

    assert_problem(gateway.send(bomb, JSON, encoding), 413, "too_large")


@pytest.mark.parametrize("encoding", PACKERS)
def test_many_members_that_are_large_together_are_413(gateway: Gateway, encoding: str) -> None:
    bomb = PACKERS[encoding](b" " * MIB) * 17

    assert_problem(gateway.send(bomb, JSON, encoding), 413, "too_large")


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.timeout(60)
def test_a_body_of_nothing_but_empty_members_is_refused_soon(
    gateway: Gateway, encoding: str
) -> None:
    empty = PACKERS[encoding](b"")
    body = empty * (16 * MIB // len(empty))

    answer = gateway.send(body, JSON, encoding)

    assert answer.status_code in (400, 413)


def test_sixteen_mebibytes_are_taken_and_one_byte_more_is_413(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    def padded(size: int, record_id: str) -> bytes:
        start = json.dumps([record(record_id)]).encode()
        return start + b" " * (size - len(start))

    assert gateway.send(padded(16 * MIB, "raw")).status_code == 200
    assert_problem(gateway.send(padded(16 * MIB + 1, "raw-1")), 413, "too_large")
    for encoding, pack in PACKERS.items():
        fits = gateway.send(pack(padded(16 * MIB, encoding)), JSON, encoding)
        beyond = gateway.send(pack(padded(16 * MIB + 1, f"{encoding}-1")), JSON, encoding)
        assert fits.status_code == 200
        assert_problem(beyond, 413, "too_large")
    assert UsageRecord.objects.count() == 3


def test_ten_thousand_records_are_taken_and_one_more_is_413(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    many = [record(f"r-{n}", input_tokens=1, output_tokens=0) for n in range(10_001)]
    bad = [*many[:-1], {"id": "no record"}]

    for body in (
        many,
        bad,
        {"records": many},
        lines(*many),
        [0] * 10_001,
        lines(*[{}] * 10_001),
    ):
        assert_problem(gateway.send(body), 413, "too_large")
    assert not UsageRecord.objects.exists()
    assert not QuarantinedRecord.objects.exists()

    answer = gateway.send({"records": many[:-1]}).json()
    assert (counted(answer), answer["units"]) == ((10_000, 0, 0), "10000.000")


@pytest.mark.parametrize(
    ("begin", "value", "end"),
    [
        (b"[", b"1,", b"1]"),
        (b"[", b"1,       ", b"1]"),
        (b"[", b"{},", b"{}]"),
        (b'{"records":[', b"1,", b"1]}"),
        (b'["\\ud800",', b"1,", b"1]"),
        (b'{"id":[', b"[],", b"[]]}"),
        (b"", b"{}\n", b"{}"),
        (b"{}\n", b"1\n", b"1"),
    ],
    ids=["numbers", "fewer", "objects", "records", "halves", "one record", "lines", "more lines"],
)
@pytest.mark.timeout(120)
def test_a_body_of_millions_of_values_is_413_before_it_takes_memory(
    gateway: Gateway, begin: bytes, value: bytes, end: bytes
) -> None:
    body = begin + value * ((16 * MIB - len(begin + end)) // len(value)) + end
    tracemalloc.start()
    try:
        answer = gateway.send(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert_problem(answer, 413, "too_large")
    assert peak < 100 * MIB


def test_blank_lines_are_no_records(gateway: Gateway, subscriber: Subscriber) -> None:
    body = lines(record("a")) + b"\n" * 20_000 + b" \r\n" + lines(record("b"))

    assert counted(gateway.send(body).json()) == (2, 0, 0)


# What cannot be read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n ",
        b"{",
        b"[",
        b"[{}",
        b'{"records": [}',
        b'{"records": 5}',
        b'{"records": null}',
        b'{"records": {"id": "x"}}',
        b'"text"',
        b"5",
        b"null",
        b"true",
        b"id,subject\n1,2\n",
        b"\xef\xbb\xbf[]",
        b"[] tail",
        b"[],[]",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"records":' * 50_000,
        json.dumps([record(output_tokens=float("nan"))]).encode(),
        json.dumps([record(output_tokens=float("-inf"))]).encode(),
        lines(record("a")) + b"\n{",
        lines(record("a")) + b"\nnot json",
        lines(record("a")) + b"," + lines(record("b")),
        json.dumps([record("a")]).encode().replace(b"user", b"\xff"),
        b"\xff\xfe[\0]\0",
        '[{"id": "x"}]'.encode("utf-16"),
    ],
)
def test_a_body_that_cannot_be_read_is_400_and_nothing_of_it_is_taken(
    gateway: Gateway, subscriber: Subscriber, body: bytes
) -> None:
    assert_problem(gateway.send(body), 400, "malformed")
    assert not UsageRecord.objects.exists()
    assert not QuarantinedRecord.objects.exists()


@pytest.mark.parametrize("place", ["id", "subject", "model", "attributes", "unknown", "outcome"])
@pytest.mark.parametrize("shape", ["object", "array", "lines"])
def test_invalid_utf_8_anywhere_is_400(
    gateway: Gateway, subscriber: Subscriber, place: str, shape: str
) -> None:
    value: Any = {"a": "HERE"} if place == "attributes" else "HERE"
    bodies = {
        "object": json.dumps(record(**{place: value})).encode(),
        "array": json.dumps([record("b"), record(**{place: value})]).encode(),
        "lines": lines(record("b"), record(**{place: value})),
    }

    answer = gateway.send(bodies[shape].replace(b"HERE", b"\xc3\x28"))

    assert_problem(answer, 400, "malformed")
    assert not UsageRecord.objects.exists()
    assert not QuarantinedRecord.objects.exists()


# Keys and methods --------------------------------------------------------------------------------


def test_without_a_good_key_it_is_401(gateway: Gateway, subscriber: Subscriber) -> None:
    client = APIClient()
    for header in ("", "Bearer", "Bearer ", "Bearer tbg_wrong", f"Basic {gateway.key}", "Bearer é"):
        answer = client.generic("POST", PATH, json.dumps(record()), JSON, HTTP_AUTHORIZATION=header)
        assert_problem(answer, 401, "unauthorized")
        assert answer["WWW-Authenticate"] == "Bearer"
    assert not UsageRecord.objects.exists()


@pytest.mark.parametrize("body", [record("b"), [record("b")], [], [{"id": "bad"}]])
def test_a_revoked_key_is_401_also_where_it_was_used_before(
    gateway: Gateway, subscriber: Subscriber, body: Any
) -> None:
    gateway.charge(record("a"))
    ApiKey.objects.filter(digest=keys.digest_of(gateway.key)).update(revoked_at=NOW)

    assert_problem(gateway.send(body), 401, "unauthorized")
    assert UsageRecord.objects.count() == 1
    assert not QuarantinedRecord.objects.exists()


def test_a_key_of_the_other_role_is_403(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    assert_problem(api.post(PATH, record(), format="json"), 403, "wrong_role")
    assert_problem(gateway.client.get("/api/v1/quarantine"), 403, "wrong_role")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_another_method_is_405(gateway: Gateway, method: str) -> None:
    answer = gateway.client.generic(method, PATH)

    assert (answer.status_code, answer["Allow"]) == (405, "POST")
    assert answer["Content-Type"] == "application/problem+json"


def test_a_longer_address_is_404(gateway: Gateway) -> None:
    for path in (f"{PATH}/", f"{PATH}/r-1", "/api/v1/usage-record"):
        assert_problem(gateway.client.post(path, record(), format="json"), 404, "not_found")


# Records that cannot be charged ------------------------------------------------------------------


def test_every_rejected_record_is_named_and_the_others_are_charged(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    answer = gateway.charge(
        record("good-1"),
        record("who", subject="nobody"),
        record("good-2"),
        record("old", occurred_at=NOW - 36 * DAY),
        record("none", input_tokens=0, output_tokens=0),
        {"id": "empty"},
        record("good-3"),
        record("good-1", input_tokens=7),
    )

    assert (counted(answer), answer["units"]) == ((3, 0, 5), "360.000")
    assert [(r["index"], r["id"], r["cause"]) for r in answer["rejected"]] == [
        (1, "who", "unknown_subject"),
        (3, "old", "out_of_window"),
        (4, "none", "no_usage"),
        (5, "empty", "invalid_record"),
        (7, "good-1", "conflict"),
    ]
    assert all(r["detail"] for r in answer["rejected"])
    waiting = {row["id"]: row for row in get(api, "quarantine")["items"]}
    assert [waiting[r["quarantine_id"]]["record_id"] for r in answer["rejected"]] == [
        r["id"] for r in answer["rejected"]
    ]


NO_NAMES: list[Any] = [5, "", [], {}, True]
NO_COUNTS: list[Any] = [-1, "-1", 10**9 + 1, str(10**9 + 1), 10**400, "many", "", 1.5, True, [], {}]
NO_INSTANTS: list[Any] = [
    "2026-06-10T12:00:00",
    "2026-06-10",
    "yesterday",
    "",
    "2026-06-31T12:00:00Z",
    "2026-06-10T25:00:00Z",
    "0000-01-01T00:00:00Z",
    "10000-01-01T00:00:00Z",
    [],
    {},
    True,
    10**30,
]
INVALID: list[dict[str, Any]] = [
    *({field: None} for field in ("id", "subject", "model", "occurred_at")),
    *({field: value} for field in ("id", "subject", "model") for value in NO_NAMES),
    {"id": "x" * 513},
    {"subject": "x" * 257},
    {"model": "x" * 257},
    {"outcome": "x" * 33},
    {"outcome": 5},
    *({"input_tokens": count} for count in NO_COUNTS),
    *({"output_tokens": count} for count in NO_COUNTS),
    *({"cached_input_tokens": count} for count in NO_COUNTS),
    *({"reasoning_tokens": count} for count in NO_COUNTS),
    {"cache_write_tokens": -1},
    {"input_tokens": None},
    {"output_tokens": None},
    {"cached_input_tokens": 101},
    {"cache_write_tokens": 101},
    {"cached_input_tokens": 60, "cache_write_tokens": 41},
    {"reasoning_tokens": 21},
    *({field: "a\0b"} for field in ("id", "subject", "model", "outcome")),
    {"attributes": {"a": "b\0"}},
    {"attributes": {"a\0": 1}},
    {"attributes": {"a": [{"b": ["\0"]}]}},
    {"attributes": "text"},
    {"attributes": [1]},
    {"attributes": 5},
    {"attributes": {"a": "x" * 4096}},
    *({"occurred_at": moment} for moment in NO_INSTANTS),
]


@pytest.mark.parametrize("wrong", INVALID, ids=[ascii(wrong)[:60] for wrong in INVALID])
def test_an_invalid_record_is_quarantined_and_its_neighbours_are_charged(
    gateway: Gateway, subscriber: Subscriber, wrong: dict[str, Any]
) -> None:
    answer = gateway.charge(record("before"), record(**{"id": "bad", **wrong}), record("after"))

    assert causes(answer) == [(1, "invalid_record")]
    assert (counted(answer), answer["units"]) == ((2, 0, 1), "240.000")
    row = QuarantinedRecord.objects.get(pk=answer["rejected"][0]["quarantine_id"])
    assert row.cause == "invalid_record"


@pytest.mark.parametrize("item", [5, "text", None, True, [], [{}], {}])
def test_an_item_that_is_no_record_at_all_is_named(
    gateway: Gateway, subscriber: Subscriber, item: Any
) -> None:
    answer = gateway.charge(record("before"), item, record("after"))

    assert causes(answer) == [(1, "invalid_record")]
    assert answer["rejected"][0]["id"] == ""


@pytest.mark.parametrize(
    ("place", "half"),
    [
        ("id", r"\ud800"),
        ("subject", r"\udfff x"),
        ("model", r"\ud800A"),
        ("outcome", r"\ud800\\"),
        ("attributes", r"x\udc00"),
        ("unknown", r"\uD800\uD800\uDC00"),
    ],
)
@pytest.mark.parametrize("shape", ["object", "array", "lines"])
def test_half_a_surrogate_pair_is_an_invalid_record_and_hurts_no_other(
    gateway: Gateway, api: APIClient, subscriber: Subscriber, half: str, place: str, shape: str
) -> None:
    value: Any = {"a": "HERE"} if place == "attributes" else "HERE"
    bad = record(**{"id": "bad", "messages": "SECRET", place: value})
    bodies = {
        "object": json.dumps(bad).encode(),
        "array": json.dumps([record("good"), bad]).encode(),
        "lines": lines(record("good"), bad),
    }

    answer = gateway.send(bodies[shape].replace(b"HERE", half.encode()))

    assert answer.status_code == 200, answer.content
    index = 0 if shape == "object" else 1
    assert causes(answer.json()) == [(index, "invalid_record")]
    assert answer.json()["accepted"] == index
    [row] = get(api, "quarantine")["items"]
    assert row["subject"] == ("user-s-1" if place != "subject" else row["subject"])
    assert texts_holding("SECRET") == []


@pytest.mark.parametrize(
    "none",
    [
        {"input_tokens": 0, "output_tokens": 0},
        {"input_tokens": None, "output_tokens": None},
        {"input_tokens": "0", "output_tokens": "0"},
    ],
)
def test_a_record_without_any_tokens_is_no_usage(
    gateway: Gateway, subscriber: Subscriber, none: dict[str, Any]
) -> None:
    assert causes(gateway.charge(record(**none))) == [(0, "no_usage")]


def test_a_subject_nobody_has_and_a_model_no_card_names_are_told(
    gateway: Gateway, operator: Operator
) -> None:
    make_rate_card(operator, weights={"deepseek/*": ("1", "1", "1", "1", "1")})
    make_subscriber(operator)

    answer = gateway.charge(record("a", subject="nobody"), record("b", model="gpt-x"), record("c"))

    assert causes(answer) == [(0, "unknown_subject"), (1, "unknown_model")]
    assert "nobody" in answer["rejected"][0]["detail"]
    assert "gpt-x" in answer["rejected"][1]["detail"]


def test_without_a_rate_card_every_model_is_unknown(gateway: Gateway, operator: Operator) -> None:
    make_subscriber(operator)

    assert causes(gateway.charge(record())) == [(0, "unknown_model")]


def test_a_single_record_that_cannot_be_charged_is_a_200_too(gateway: Gateway) -> None:
    answer = gateway.send(record(subject="nobody"))

    assert answer.status_code == 200
    assert causes(answer.json()) == [(0, "unknown_subject")]


@pytest.mark.parametrize("count", ["100", 100.0, "100.0", "1e2"])
def test_numbers_may_come_as_strings(gateway: Gateway, subscriber: Subscriber, count: Any) -> None:
    answer = gateway.charge(record(input_tokens=count, output_tokens="20"))

    assert answer["units"] == "120.000"


def test_the_largest_counts_are_charged_exactly(gateway: Gateway, operator: Operator) -> None:
    make_rate_card(operator, weights={"*": ("100", "99.999", "100", "100", "100")})
    subscriber = make_subscriber(operator)
    largest = {"input_tokens": 10**9, "output_tokens": 10**9, "cached_input_tokens": 1}

    answer = gateway.charge(*(record(f"r-{n}", **largest) for n in range(1000)))

    each = (10**9 - 1) * 100_000 + 99_999 + 10**9 * 100_000
    assert answer["units"] == f"{each}.000"
    assert used(subscriber) == {"uncovered": each}


# The window --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("away", "inside"),
    [
        (-35 * DAY, True),
        (-35 * DAY - US, False),
        (5 * MINUTE, True),
        (5 * MINUTE + US, False),
    ],
)
def test_the_window_is_from_35_days_back_to_5_minutes_ahead(
    gateway: Gateway, operator: Operator, away: dt.timedelta, inside: bool
) -> None:
    bare(operator)

    answer = gateway.charge(record(occurred_at=NOW + away))

    assert causes(answer) == ([] if inside else [(0, "out_of_window")])


@pytest.mark.parametrize(
    "moment",
    [
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-12:00",
        "1969-12-31T23:59:59Z",
        "2262-04-11T23:47:16Z",
    ],
)
def test_a_time_at_the_calendars_end_is_out_of_the_window(
    gateway: Gateway, subscriber: Subscriber, moment: str
) -> None:
    answer = gateway.charge(record("before"), record(occurred_at=moment), record("after"))

    assert causes(answer) == [(1, "out_of_window")]


@pytest.mark.parametrize(
    "moment",
    [
        "2026-06-10T04:00:00Z",
        "2026-06-10T04:00:00.000000Z",
        "2026-06-10T12:00:00+08:00",
        "2026-06-09T16:00:00-12:00",
        "2026-06-11T03:59:00+23:59",
        "2026-06-09T04:01:00-23:59",
        "2026-06-10t04:00:00z",
        "2026-06-10T04:00:00.000000000Z",
    ],
)
def test_an_instant_may_be_written_with_any_offset(
    gateway: Gateway, subscriber: Subscriber, moment: str
) -> None:
    gateway.charge(record(occurred_at=moment))

    assert UsageRecord.objects.get(subscriber_id=subscriber.pk).occurred_at == NOW


# The same record again ---------------------------------------------------------------------------


def test_the_same_record_again_is_a_duplicate(gateway: Gateway, subscriber: Subscriber) -> None:
    gateway.charge(record())

    for body in (record(), [record()], {"records": [record()]}):
        answer = gateway.send(body).json()
        assert (counted(answer), answer["units"]) == ((0, 1, 0), "0.000")
    assert used(subscriber) == {"allowance": 120}


def test_time_cost_outcome_and_attributes_do_not_make_a_record_another(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    gateway.charge(record(occurred_at=NOW - HOUR))

    answer = gateway.charge(
        record(occurred_at=NOW, outcome="cancelled", attributes={"cache_hit": True}, cost=0)
    )

    assert counted(answer) == (0, 1, 0)


def test_counts_written_otherwise_are_the_same_content(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    gateway.charge(record())

    again = record(input_tokens="100", cached_input_tokens=0, reasoning_tokens="0")

    assert counted(gateway.charge(again)) == (0, 1, 0)


OTHER_CONTENT: list[dict[str, Any]] = [
    {"input_tokens": 101},
    {"output_tokens": 21},
    {"cached_input_tokens": 1},
    {"cache_write_tokens": 1},
    {"reasoning_tokens": 1},
    {"model": "deepseek/other"},
]


@pytest.mark.parametrize("other", OTHER_CONTENT)
def test_other_content_under_a_known_id_is_a_conflict(
    gateway: Gateway, subscriber: Subscriber, other: dict[str, Any]
) -> None:
    gateway.charge(record())

    in_a_batch = gateway.charge(record("new"), record(**other))
    alone = gateway.send(record(**other))

    assert causes(in_a_batch) == [(1, "conflict")]
    assert counted(in_a_batch) == (1, 0, 1)
    assert_problem(alone, 409, "conflict")
    assert used(subscriber) == {"allowance": 240}
    # Both are the same row, kept for review.
    row = QuarantinedRecord.objects.get(cause="conflict")
    assert (row.record_id, row.attempts) == ("r-1", 2)


def test_another_subject_of_the_same_subscriber_is_other_content(
    gateway: Gateway, operator: Operator
) -> None:
    make_rate_card(operator)
    make_subscriber(operator, subjects=("user-7", "user-8"))
    gateway.charge(record(subject="user-7"))

    assert_problem(gateway.send(record(subject="user-8")), 409, "conflict")


def test_inside_one_batch_the_first_wins(gateway: Gateway, subscriber: Subscriber) -> None:
    answer = gateway.charge(
        record("a"),
        record("a"),
        record("a", occurred_at=NOW - HOUR),
        record("a", input_tokens=1),
        record("b", input_tokens=1),
        record("b"),
    )

    assert (counted(answer), answer["units"]) == ((2, 2, 2), "141.000")
    assert causes(answer) == [(3, "conflict"), (5, "conflict")]


def test_a_record_that_cannot_be_charged_does_not_stand_in_the_way_of_one_that_can(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    answer = gateway.charge(record(occurred_at=NOW - 40 * DAY), record())

    assert causes(answer) == [(0, "out_of_window")]
    assert (counted(answer), answer["units"]) == ((1, 0, 1), "120.000")


@pytest.mark.parametrize("days", [-3, -2, -1, 1, 2, 3])
def test_up_to_three_days_away_it_is_the_same_record(
    gateway: Gateway, operator: Operator, days: int
) -> None:
    set_clock(operator, NOW + 5 * DAY)
    subscriber = bare(operator)
    gateway.charge(record())

    answer = gateway.charge(record(occurred_at=NOW + days * DAY))

    assert counted(answer) == (0, 1, 0)
    assert used(subscriber) == {"uncovered": 120}


@pytest.mark.parametrize("days", [-30, -5, -4, 4, 5])
def test_four_days_away_and_more_it_is_another_record(
    gateway: Gateway, operator: Operator, days: int
) -> None:
    set_clock(operator, NOW + 5 * DAY)
    subscriber = bare(operator)
    gateway.charge(record())

    answer = gateway.charge(record(occurred_at=NOW + days * DAY, input_tokens=1))

    assert counted(answer) == (1, 0, 0)
    assert sum(used(subscriber).values()) == 141
    assert_books_agree()


def test_several_repeats_in_a_batch_of_new_records_are_each_known_again(
    gateway: Gateway, operator: Operator
) -> None:
    set_clock(operator, NOW + 3 * DAY)
    subscriber = bare(operator)
    gateway.charge(*(record(f"r-{n}", occurred_at=NOW + n * HOUR) for n in range(0, 60, 2)))

    moved = [record(f"r-{n}", occurred_at=NOW + (n - 10) * HOUR) for n in range(60)]
    answer = gateway.charge(*moved)

    assert counted(answer) == (30, 30, 0)
    assert used(subscriber) == {"uncovered": 60 * 120}


def test_the_largest_batch_sent_again_is_known_as_a_whole(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    """What is sent of it to the database is more than a socket takes at once."""
    batch = [record(f"r-{nr}", input_tokens=1) for nr in range(parsing.MAX_RECORDS)]

    assert counted(gateway.charge(*batch)) == (parsing.MAX_RECORDS, 0, 0)
    assert counted(gateway.charge(*batch)) == (0, parsing.MAX_RECORDS, 0)
    assert_books_agree()


def test_a_resend_is_known_after_its_window_has_passed(
    gateway: Gateway, operator: Operator
) -> None:
    bare(operator)
    gateway.charge(record())
    set_clock(operator, NOW + 40 * DAY)

    assert counted(gateway.charge(record())) == (0, 1, 0)
    assert_problem(gateway.send(record(input_tokens=1)), 409, "conflict")
    assert causes(gateway.charge(record("new"))) == [(0, "out_of_window")]


def test_a_resend_is_known_after_its_model_has_gone(gateway: Gateway, operator: Operator) -> None:
    subscriber = bare(operator)
    gateway.charge(record(occurred_at=NOW - MINUTE))
    # Only usage from NOW on is weighed by the newer version, so a new time meets it.
    make_rate_card(operator, effective_from=NOW, weights={"gpt/*": ("1", "1", "1", "1", "1")})

    assert counted(gateway.charge(record())) == (0, 1, 0)
    assert causes(gateway.charge(record("new"))) == [(0, "unknown_model")]
    assert used(subscriber) == {"uncovered": 120}


def test_a_resend_is_known_after_the_plan_has_ended(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    gateway.charge(record())
    [bucket] = buckets_of(subscriber)
    assert bucket.subscription_id is not None
    lifecycle.change(subscriber.pk, bucket.subscription_id, cancel_at_period_end=True, at=NOW)
    set_clock(operator, local(2026, 7, 5))

    assert counted(gateway.charge(record())) == (0, 1, 0)
    assert used(subscriber) == {"allowance": 120}


def test_a_resend_meets_the_subscriber_its_subject_named_then(
    gateway: Gateway, operator: Operator, api: APIClient
) -> None:
    first = bare(operator)
    second = make_subscriber(operator, "s-2")
    gateway.charge(record(occurred_at=NOW - HOUR))
    set_clock(operator, NOW + HOUR)
    assert put(api, "subscribers/s-1", {"subjects": []}).status_code == 200
    assert put(api, "subscribers/s-2", {"subjects": ["user-s-1"]}).status_code == 200
    set_clock(operator, NOW + 2 * HOUR)

    again = gateway.charge(record(occurred_at=NOW - HOUR))
    late = gateway.charge(record("late", occurred_at=NOW + HOUR - US))
    new = gateway.charge(record("new", occurred_at=NOW + HOUR))

    assert [counted(answer) for answer in (again, late, new)] == [(0, 1, 0), (1, 0, 0), (1, 0, 0)]
    assert (used(first), used(second)) == ({"uncovered": 240}, {"uncovered": 120})


def test_a_rotated_key_is_the_same_gateway(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    gateway.charge(record())

    rotated = Gateway(operator, name="gateway")

    assert counted(rotated.charge(record())) == (0, 1, 0)


def test_the_same_id_of_another_gateway_is_another_record(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    gateway.charge(record())

    assert counted(Gateway(operator, name="second").charge(record())) == (1, 0, 0)
    assert used(subscriber) == {"allowance": 240}


def test_the_same_id_of_another_subscriber_is_another_record(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    make_subscriber(operator, "s-2")

    answer = gateway.charge(record(), record(subject="user-s-2"))

    assert counted(answer) == (2, 0, 0)


def test_ids_differ_by_case_and_by_every_character(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    ids = ["a", "A", "a ", " a", "é", "e\u0301", "\u200ba", "x" * 512, "x" * 511 + "y", "名" * 512]

    answer = gateway.charge(*(record(record_id) for record_id in ids))

    assert counted(answer) == (len(ids), 0, 0)
    assert counted(gateway.charge(*(record(i) for i in ids))) == (0, len(ids), 0)


def test_a_keys_subject_wins_over_the_one_sent(operator: Operator, subscriber: Subscriber) -> None:
    other = make_subscriber(operator, "s-2")
    key = keys.issue(
        operator_code=operator.code, role="gateway", name="bound", at=NOW, subject="user-s-2"
    )
    bound = Gateway(operator, key=key)

    assert counted(bound.send(record()).json()) == (1, 0, 0)
    assert counted(bound.charge(record("a"), record("b", subject="nobody"))) == (2, 0, 0)

    assert (used(subscriber), used(other)) == ({}, {"uncovered": 360})


# Time --------------------------------------------------------------------------------------------


def test_everything_asks_the_test_operators_clock(
    api: APIClient, gateway: Gateway, operator: Operator
) -> None:
    began = dt.datetime.now(dt.UTC)
    make_rate_card(operator, weights={"deepseek/*": ("1", "1", "1", "1", "1")})
    make_plan(operator, allowance=200 * T)
    put(api, "subscribers/s-1", {"subjects": ["user-s-1"]})
    post(api, "subscribers/s-1/subscriptions", {"plan": "light"})
    put(api, "boosters/b", {"name": "B", "price": "1", "units": "50", "valid_days": 30})
    post(api, "subscribers/s-1/boosters", {"booster": "b"})
    gateway.charge(record("a"), record("b"), record("c"), record("who", subject="nobody"))
    gateway.charge(record("later", occurred_at=NOW + 6 * MINUTE))
    put(api, "subscribers/s-2", {"subjects": ["nobody"]})
    for row in get(api, "quarantine")["items"]:
        post(api, f"quarantine/{row['id']}/retry")
    rollups.fold_all(at=NOW)

    assert balance(api)["as_of"] == "2026-06-10T04:00:00Z"
    assert OutboxEvent.objects.filter(kind="bucket.exhausted").exists()
    # The wall's time is only where lag is measured.
    assert columns_holding_times_from(began) == {"metering_usagebatch.stored_at"}


def columns_holding_times_from(began: dt.datetime) -> set[str]:
    """The columns in which some row holds a time from `began` to now."""
    found = set()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.table_name, c.column_name FROM information_schema.columns c"
            " WHERE c.table_schema = 'public' AND c.data_type = 'timestamp with time zone'"
            " AND to_regclass(c.table_name) NOT IN (SELECT inhrelid FROM pg_inherits)"
        )
        for table, column in cursor.fetchall():
            cursor.execute(
                f"SELECT EXISTS (SELECT FROM {table} WHERE {column} BETWEEN %s AND %s)",
                [began, dt.datetime.now(dt.UTC) + MINUTE],
            )
            if cursor.fetchone()[0]:
                found.add(f"{table}.{column}")
    return found


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("clock", ["2000-02-29T12:00:00Z", "2023-11-16T18:17:03Z"])
def test_a_clock_in_another_year_has_its_own_window_and_days(clock: str) -> None:
    now = dt.datetime.fromisoformat(clock)
    operator = make_operator(at=now)
    make_rate_card(operator, effective_from=now - 40 * DAY)
    subscriber = make_subscriber(operator)

    answer = Gateway(operator).charge(
        record("now", occurred_at=now),
        record("old", occurred_at=now - 35 * DAY),
        record("older", occurred_at=now - 35 * DAY - US),
        record("wall", occurred_at=dt.datetime.now(dt.UTC)),
    )

    assert causes(answer) == [(2, "out_of_window"), (3, "out_of_window")]
    assert used(subscriber) == {"uncovered": 240}


def test_without_a_test_clock_it_is_the_walls_time() -> None:
    operator = make_operator("real", at=None)
    bare(operator)
    now = dt.datetime.now(dt.UTC)

    answer = Gateway(operator).charge(
        record("early", occurred_at=now - 36 * DAY), record("late", occurred_at=now + 10 * MINUTE)
    )

    assert causes(answer) == [(0, "out_of_window"), (1, "out_of_window")]


# Prompts -----------------------------------------------------------------------------------------


PROMPTS: dict[str, Any] = {
    "messages": [{"role": "user", "content": "SECRET"}],
    "prompt": "SECRET",
    "completion": "SECRET",
    "choices": [{"message": {"content": "SECRET"}}],
    "input": "SECRET",
    "output": ["SECRET"],
    "response": {"body": "SECRET"},
    "request": {"messages": "SECRET"},
    "metadata": {"usage": 5, "messages": [{"content": "SECRET"}], "a": [{"prompt": "SECRET"}]},
}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"subject": "nobody"},
        {"model": 5},
        {"occurred_at": "2026-01-01T00:00:00Z"},
        {"input_tokens": 0, "output_tokens": 0},
        {"input_tokens": None, "output_tokens": None},
        {"id": None},
        {"id": "a\0"},
        {"attributes": {**PROMPTS, "bad": "\0"}},
        {"attributes": [PROMPTS]},
        {"attributes": PROMPTS, "reasoning_tokens": 21},
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_prompts_and_completions_are_never_stored(
    gateway: Gateway, subscriber: Subscriber, said: dict[str, Any], several: bool
) -> None:
    body = {**PROMPTS, **record(**{"attributes": {"route": "a", **PROMPTS}, **said})}

    answer = gateway.send([record("other"), body] if several else body)

    assert answer.status_code == 200, answer.content
    assert texts_holding("SECRET") == []
    if not said:
        row = UsageRecord.objects.get(record_id="r-1")
        assert row.attributes == {"route": "a", "metadata": {"usage": 5, "a": [{}]}}


# Quarantine --------------------------------------------------------------------------------------


def quarantined(api: APIClient, query: str = "") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = get(api, f"quarantine{query}")["items"]
    return items


def retry(api: APIClient, row: dict[str, Any]) -> Any:
    answer = post(api, f"quarantine/{row['id']}/retry")
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_the_quarantine_shows_what_was_sent_and_why_it_waits(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    said = record("r-9", subject="nobody", attributes={"a": 1})

    [rejected] = gateway.charge(said)["rejected"]

    [row] = quarantined(api)
    sent = row.pop("record")
    assert row == {
        "id": rejected["quarantine_id"],
        "gateway": "gateway",
        "record_id": "r-9",
        "subject": "nobody",
        "cause": "unknown_subject",
        "detail": rejected["detail"],
        "received_at": "2026-06-10T04:00:00Z",
        "attempts": 1,
        "resolution": None,
        "resolved_at": None,
    }
    assert {name: sent[name] for name in said if name != "occurred_at"} == {
        name: value for name, value in said.items() if name != "occurred_at"
    }
    assert dt.datetime.fromisoformat(sent["occurred_at"]) == NOW


def test_what_could_not_be_typed_is_shown_as_it_was_sent(gateway: Gateway, api: APIClient) -> None:
    for sent in (5, "text", [1], {"id": 5, "input_tokens": -1, "more": None}, {"id": "n\0l"}):
        gateway.charge(sent)

    assert [row["record"] for row in quarantined(api)] == [
        5,
        "text",
        [1],
        {"id": 5, "input_tokens": -1, "more": None},
        {"id": "n\0l"},
    ]


def test_the_quarantine_is_listed_by_cursor_and_cause(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    gateway.charge(*(record(f"r-{n}", subject="nobody") for n in range(5)), record("bad", model=5))

    first = get(api, "quarantine?limit=4")
    second = get(api, first["next"])

    shown = [row["record_id"] for row in (*first["items"], *second["items"])]
    assert sorted(shown) == ["bad", "r-0", "r-1", "r-2", "r-3", "r-4"]
    assert second["next"] is None
    assert [row["record_id"] for row in quarantined(api, "?cause=invalid_record")] == ["bad"]
    assert quarantined(api, "?cause=nothing") == []


def test_the_same_refused_record_sent_again_is_one_row(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    ids = {
        rejected["quarantine_id"]
        for _ in range(3)
        for rejected in gateway.charge(record(subject="no"), record(subject="no"))["rejected"]
    }

    [row] = quarantined(api)
    assert ids == {row["id"]}


def test_a_refused_record_shows_why_it_was_refused_last(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    gateway.charge(record())
    make_rate_card(operator, weights={"gpt/*": ("1", "1", "1", "1", "1")})
    make_subscriber(operator)

    gateway.charge(record())

    [row] = quarantined(api)
    assert (row["cause"], row["attempts"]) == ("unknown_model", 2)
    assert "deepseek/chat" in row["detail"]


def test_once_its_subscriber_exists_a_record_can_be_charged(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    make_plan(operator)
    gateway.charge(record())
    [row] = quarantined(api)
    assert retry(api, row)["cause"] == "unknown_subject"
    put(api, "subscribers/s-1", {"subjects": ["user-s-1"]})

    first, second = retry(api, row), retry(api, row)

    charged = {"id": row["id"], "status": "charged", "cause": None, "detail": None}
    assert first == {**charged, "units": "120.000"}
    assert second == {**charged, "units": None}
    assert quarantined(api) == []
    [resolved] = quarantined(api, "?all=true")
    assert (resolved["resolution"], resolved["resolved_at"]) == (
        "charged",
        "2026-06-10T04:00:00Z",
    )
    assert UsageRecord.objects.count() == 1
    assert_books_agree()


def test_once_its_model_has_a_weight_a_record_can_be_charged(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    make_rate_card(operator, weights={"gpt/*": ("1", "1", "1", "1", "1")})
    subscriber = make_subscriber(operator)
    gateway.charge(record("g", model="gpt/x"), record("a"), record("b", model="qwen"))
    make_rate_card(operator, weights={"gpt/*": ("1",) * 5, "deepseek/*": ("2",) * 5})

    outcomes = [retry(api, row) for row in quarantined(api)]

    assert [(o["status"], o["cause"], o["units"]) for o in outcomes] == [
        ("charged", None, "240.000"),
        ("rejected", "unknown_model", None),
    ]
    assert used(subscriber) == {"uncovered": 360}
    assert [row["record_id"] for row in quarantined(api)] == ["b"]


def test_a_record_charged_meanwhile_is_a_duplicate_when_retried(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    gateway.charge(record())
    subscriber = bare(operator)
    gateway.charge(record())
    [row] = quarantined(api)

    assert (retry(api, row)["status"], retry(api, row)["status"]) == ("duplicate", "duplicate")
    assert used(subscriber) == {"uncovered": 120}
    assert quarantined(api) == []


def test_a_retry_judges_the_window_by_when_the_record_came(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    gateway.charge(record("in", occurred_at=NOW - 35 * DAY))
    gateway.charge(record("out", occurred_at=NOW - 36 * DAY))
    subscriber = bare(operator)
    set_clock(operator, NOW + 40 * DAY)

    outcomes = [retry(api, row) for row in quarantined(api)]

    assert [(o["status"], o["cause"]) for o in outcomes] == [
        ("charged", None),
        ("rejected", "out_of_window"),
    ]
    assert used(subscriber) == {"uncovered": 120}


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ({"model": 5}, "invalid_record"),
        ({"input_tokens": 0, "output_tokens": 0}, "no_usage"),
        ({"id": "\ud800"}, "invalid_record"),
        ({"input_tokens": 7}, "conflict"),
    ],
)
def test_a_cause_that_cannot_be_mended_stays(
    gateway: Gateway, api: APIClient, subscriber: Subscriber, said: dict[str, Any], cause: str
) -> None:
    gateway.charge(record())
    gateway.charge(record(**said))
    [row] = quarantined(api)

    for _ in range(2):
        outcome = retry(api, row)
        assert (outcome["status"], outcome["cause"]) == ("rejected", cause)
    assert [r["id"] for r in quarantined(api)] == [row["id"]]
    assert used(subscriber) == {"allowance": 120}


def test_a_retry_without_any_live_key_of_the_gateway_waits(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    gateway.charge(record())
    subscriber = bare(operator)
    ApiKey.objects.filter(role="gateway").update(revoked_at=NOW)
    [row] = quarantined(api)

    assert retry(api, row)["status"] == "rejected"
    Gateway(operator)
    assert retry(api, row)["status"] == "charged"
    assert used(subscriber) == {"uncovered": 120}


@pytest.mark.parametrize("number", ["0", "999999", "9" * 30, "x", "-1", "%00"])
def test_a_retry_of_nothing_is_404(api: APIClient, number: str) -> None:
    assert_problem(post(api, f"quarantine/{number}/retry"), 404, "not_found")
