"""`POST /api/v1/usage-records` and what it leads to: every sentence of the contract on usage."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from django.db import connection
from rest_framework.test import APIClient

from metering import rollups
from metering.models import QuarantinedRecord, UsageRecord
from subscriptions import keys, lifecycle
from subscriptions.models import ApiKey, Operator, OutboxEvent, Subscriber
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
from tests.usage import (
    PATH,
    Gateway,
    _days,  # noqa: F401
    assert_books_agree,
    counted,
    record,
    texts_holding,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_days")]

US = dt.timedelta(microseconds=1)
MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
MIB = 1024 * 1024
T = 1000  # thousandths of a unit: what a token of weight 1 makes
JSON = "application/json"
NDJSON = "application/x-ndjson"


@pytest.fixture
def operator() -> Operator:
    return make_operator()


@pytest.fixture
def gateway(operator: Operator) -> Gateway:
    return Gateway(operator)


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator))


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    """`s-1`, called `user-s-1`, with 10 million units until the end of June."""
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    return subscriber


def bare(operator: Operator, external_id: str = "s-1") -> Subscriber:
    """A subscriber without a plan, and the rate card that weighs its usage."""
    make_rate_card(operator)
    return make_subscriber(operator, external_id)


def get(api: APIClient, path: str) -> Any:
    answer = api.get(path if path.startswith("http") else f"/api/v1/{path}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def post(api: APIClient, path: str, body: Any = None) -> Any:
    return api.post(f"/api/v1/{path}", body, format="json")


def put(api: APIClient, path: str, body: Any) -> Any:
    return api.put(f"/api/v1/{path}", body, format="json")


def balance(api: APIClient, external_id: str = "s-1", query: str = "") -> Any:
    return get(api, f"subscribers/{external_id}/balance{query}")


def used(subscriber: Subscriber) -> dict[str, int]:
    """Tokens drawn, by kind of bucket; of a kind's several buckets the sum."""
    drawn: dict[str, int] = {}
    for bucket in buckets_of(subscriber):
        if bucket.used:
            drawn[bucket.kind] = drawn.get(bucket.kind, 0) + bucket.used // T
    return drawn


def assert_problem(answer: Any, status: int, cause: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["cause"], body["type"]) == (status, cause, "about:blank")
    assert body["title"]
    assert body["detail"]
    return body


def causes(answer: Any) -> list[tuple[int, str]]:
    return [(item["index"], item["cause"]) for item in answer["rejected"]]


def lines(*records: Any) -> bytes:
    return b"\n".join(json.dumps(item).encode() for item in records)


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
def test_a_body_may_be_compressed(
    gateway: Gateway, subscriber: Subscriber, encoding: str
) -> None:
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
        (gzip.compress(b""), "gzip"),
        (zstd(b""), "zstd"),
        (gzip.compress(lines(record())), "zstd"),
        (zstd(lines(record())), "gzip"),
        (gzip.compress(lines(record())) + b"tail", "gzip"),
        (zstd(lines(record())) + b"tail", "zstd"),
        (gzip.compress(lines(record())), ""),
        (lines(record()), "br"),
        (lines(record()), "gzip, zstd"),
        (zlib.compress(lines(record())), "deflate"),
    ],
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
        lines(*[0] * 10_001).replace(b"0", b"{}"),
    ):
        assert_problem(gateway.send(body), 413, "too_large")
    assert not UsageRecord.objects.exists()
    assert not QuarantinedRecord.objects.exists()

    answer = gateway.send({"records": many[:-1]}).json()
    assert (counted(answer), answer["units"]) == ((10_000, 0, 0), "10000.000")


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
        json.dumps([record("a")]).encode().replace(b"r-1", b"\xff"),
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
        answer = client.generic(
            "POST", PATH, json.dumps(record()), JSON, HTTP_AUTHORIZATION=header
        )
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


INVALID: list[dict[str, Any]] = [
    *({field: None} for field in ("id", "subject", "model", "occurred_at")),
    *({field: value} for field in ("id", "subject", "model") for value in (5, "", [], {}, True)),
    {"id": "x" * 513},
    {"subject": "x" * 257},
    {"model": "x" * 257},
    {"outcome": "x" * 33},
    {"outcome": 5},
    *(
        {field: value}
        for field in ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
        for value in (-1, "-1", 1_000_000_001, "1000000001", 10**400, "many", "", 1.5, True, [], {})
    ),
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
    *(
        {"occurred_at": moment}
        for moment in (
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
        )
    ),
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
    bad = record("bad", messages="SECRET", **{place: value})
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
def test_numbers_may_come_as_strings(
    gateway: Gateway, subscriber: Subscriber, count: Any
) -> None:
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


def test_a_resend_is_known_after_its_window_has_passed(
    gateway: Gateway, operator: Operator
) -> None:
    bare(operator)
    gateway.charge(record())
    set_clock(operator, NOW + 40 * DAY)

    assert counted(gateway.charge(record())) == (0, 1, 0)
    assert_problem(gateway.send(record(input_tokens=1)), 409, "conflict")
    assert causes(gateway.charge(record("new"))) == [(0, "out_of_window")]


def test_a_resend_is_known_after_its_model_has_gone(
    gateway: Gateway, operator: Operator
) -> None:
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
    subscriber = bare(operator)

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


def test_what_could_not_be_typed_is_shown_as_it_was_sent(
    gateway: Gateway, api: APIClient
) -> None:
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


# Weights and receipts ----------------------------------------------------------------------------


def weights(said: str) -> dict[str, str]:
    names = ("input", "cached_input", "cache_write", "output", "reasoning")
    return dict(zip(names, said.split(), strict=True))


def put_card(api: APIClient, effective_from: dt.datetime, **by_model: str) -> Any:
    return put(
        api,
        "rate-cards/standard",
        {
            "effective_from": effective_from.isoformat(),
            "weights": [{"model": m, **weights(w)} for m, w in by_model.items()],
        },
    )


def records_of(api: APIClient, query: str = "", external_id: str = "s-1") -> Any:
    span = "from=2026-05-01T00:00:00Z&to=2026-08-10T00:00:00Z"
    return get(api, f"subscribers/{external_id}/usage-records?{span}{query}")["items"]


def test_a_receipt_shows_tokens_by_class_times_weight(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    put_card(api, NOW - 40 * DAY, **{"deepseek/*": "1 0.1 1.25 4 4.125"})
    put_card(api, NOW - DAY, **{"deepseek/*": "1 0.1 1.25 4 4.125", "*": "9 9 9 9 9"})
    make_subscriber(operator)
    gateway.charge(
        record(
            input_tokens=1000,
            cached_input_tokens=333,
            cache_write_tokens=100,
            output_tokens=50,
            reasoning_tokens=7,
            outcome="complete",
        )
    )

    [shown] = records_of(api)

    uncovered = shown["receipt"]["buckets"][0]["id"]
    assert shown == {
        "id": "r-1",
        "subject": "user-s-1",
        "model": "deepseek/chat",
        "occurred_at": "2026-06-10T04:00:00Z",
        "outcome": "complete",
        "input_tokens": 1000,
        "cached_input_tokens": 333,
        "cache_write_tokens": 100,
        "output_tokens": 50,
        "reasoning_tokens": 7,
        "units": "926.175",
        "receipt": {
            "rate_card": "standard",
            "rate_card_version": 2,
            "lines": [
                {"class": "uncached_input", "tokens": 567, "weight": "1.000", "units": "567.000"},
                {"class": "cached_input", "tokens": 333, "weight": "0.100", "units": "33.300"},
                {"class": "cache_write", "tokens": 100, "weight": "1.250", "units": "125.000"},
                {"class": "output", "tokens": 43, "weight": "4.000", "units": "172.000"},
                {"class": "reasoning", "tokens": 7, "weight": "4.125", "units": "28.875"},
            ],
            "buckets": [{"id": uncovered, "kind": "uncovered", "units": "926.175"}],
        },
    }


def split_of(api: APIClient) -> dict[str, list[tuple[str, str]]]:
    return {
        item["id"]: [(b["kind"], b["units"]) for b in item["receipt"]["buckets"]]
        for item in records_of(api)
    }


def test_a_record_over_two_buckets_shows_both(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T))
    lifecycle.give(subscriber.pk, units=50_500, valid_until=NOW + DAY, reason="x", at=NOW)

    gateway.charge(record(input_tokens=180))

    assert split_of(api) == {
        "r-1": [("gift", "50.500"), ("allowance", "100.000"), ("uncovered", "49.500")]
    }


def test_records_of_a_batch_consume_buckets_in_order_of_time_gateway_and_id(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T), starts_at=NOW - DAY)

    gateway.charge(
        record("b", input_tokens=40, output_tokens=0),
        record("z", input_tokens=30, output_tokens=0, occurred_at=NOW - 2 * US),
        record("a", input_tokens=40, output_tokens=0),
        record("c", input_tokens=10, output_tokens=0, occurred_at=NOW - US),
        record("d", input_tokens=5, output_tokens=0),
    )

    assert split_of(api) == {
        "z": [("allowance", "30.000")],
        "c": [("allowance", "10.000")],
        "a": [("allowance", "40.000")],
        "b": [("allowance", "20.000"), ("uncovered", "20.000")],
        "d": [("uncovered", "5.000")],
    }
    assert_books_agree()


def test_a_batch_over_a_booster_a_period_edge_and_the_grace_has_a_receipt_that_adds_up(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, allowance=100 * T, rollover="one_cycle")
    subscribe(subscriber, plan, starts_at=local(2026, 6, 1))
    set_clock(operator, local(2026, 7, 1, 1))
    lifecycle.open_due(operator.pk, at=local(2026, 7, 1, 1))
    lifecycle.give(
        subscriber.pk, units=30 * T, valid_until=NOW + 60 * DAY, reason="x", at=local(2026, 7, 1, 1)
    )
    edge = local(2026, 7, 1)

    gateway.charge(
        *(
            record(f"r-{n:02}", occurred_at=edge + (n - 10) * 10 * MINUTE, input_tokens=7 * n)
            for n in range(17)
        )
    )

    for item in records_of(api):
        drawn = sum(float(b["units"]) for b in item["receipt"]["buckets"])
        assert f"{drawn:.3f}" == item["units"]
    totals: dict[str, float] = {}
    for item in records_of(api):
        for bucket in item["receipt"]["buckets"]:
            totals[bucket["kind"]] = totals.get(bucket["kind"], 0) + float(bucket["units"])
    assert totals == used(subscriber)
    assert_books_agree()


def test_a_record_of_no_units_has_a_receipt_without_buckets(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    make_rate_card(operator, weights={"free": ("0",) * 5, "*": ("1",) * 5})
    subscriber = make_subscriber(operator)

    answer = gateway.charge(record("a", model="free"), record("b"))

    assert answer["units"] == "120.000"
    assert split_of(api) == {"a": [], "b": [("uncovered", "120.000")]}
    assert counted(gateway.charge(record("a", model="free"))) == (0, 1, 0)
    assert used(subscriber) == {"uncovered": 120}
    assert_books_agree()


def test_usage_records_page_in_order_of_time(
    gateway: Gateway, api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    second = Gateway(operator, name="second")
    for n in range(7):
        gateway.charge(record(f"r-{n}", occurred_at=NOW - (n // 2) * HOUR))
        second.charge(record(f"r-{n}", occurred_at=NOW - (n // 2) * HOUR))

    url, seen, pages = "subscribers/s-1/usage-records?limit=3&", [], 0
    url += "from=2026-06-01T00:00:00Z&to=2026-07-01T00:00:00%2B08:00"
    while url:
        page = get(api, url)
        seen += [(item["occurred_at"], item["id"]) for item in page["items"]]
        url, pages = page["next"], pages + 1

    assert (len(seen), pages) == (14, 5)
    assert [moment for moment, _ in seen] == sorted(moment for moment, _ in seen)
    assert sorted(i for _, i in seen) == sorted(f"r-{n}" for n in range(7) for _ in range(2))


def test_usage_records_are_those_from_and_before_the_instants_asked_for(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    gateway.charge(*(record(f"r-{n}", occurred_at=NOW + n * US) for n in range(-2, 3)))
    path = "subscribers/s-1/usage-records?from=2026-06-10T12:00:00%2B08:00"

    items = get(api, f"{path}&to=2026-06-10T04:00:00.000002Z")["items"]

    assert [item["id"] for item in items] == ["r-0", "r-1"]


BAD_RANGES = [
    "",
    "from=2026-06-01T00:00:00Z",
    "to=2026-06-01T00:00:00Z",
    "from=2026-06-01&to=2026-06-02",
    "from=2026-06-01T00:00:00&to=2026-06-02T00:00:00",
    "from=x&to=y",
    "from=%00&to=%00",
    "from=0001-01-01T00:00:00Z&to=2026-06-02T00:00:00Z",
    "from=2026-06-01T00:00:00Z&to=9999-12-31T23:59:59Z",
    "from=2026-02-30T00:00:00Z&to=2026-06-02T00:00:00Z",
    "from=2026-06-01T00:00:00%2B99:00&to=2026-06-02T00:00:00Z",
]


@pytest.mark.parametrize("query", BAD_RANGES)
@pytest.mark.parametrize("report", ["usage", "usage-records"])
def test_a_range_that_cannot_be_read_is_400(
    api: APIClient, subscriber: Subscriber, report: str, query: str
) -> None:
    answer = api.get(f"/api/v1/subscribers/s-1/{report}?by=day&{query}")

    assert_problem(answer, 400, "bad_query")


# Usage reports -----------------------------------------------------------------------------------


def usage_by(api: APIClient, by: str, since: dt.datetime, until: dt.datetime) -> list[Any]:
    span = f"from={since.isoformat()}&to={until.isoformat()}".replace("+", "%2B")
    items: list[Any] = get(api, f"subscribers/s-1/usage?{span}&by={by}")["items"]
    return items


def test_the_usage_report_shows_every_class_and_the_operators_offset(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    make_rate_card(operator, weights={"*": ("1", "0.5", "2", "3", "4")})
    make_subscriber(operator)
    counts = {
        "input_tokens": 100,
        "cached_input_tokens": 10,
        "cache_write_tokens": 20,
        "output_tokens": 9,
        "reasoning_tokens": 4,
    }
    gateway.charge(record("a", **counts), record("b", **counts))

    for _ in range(2):
        assert usage_by(api, "day", NOW - DAY, NOW + DAY) == [
            {
                "period": "2026-06-10T00:00:00+08:00",
                "requests": 2,
                **{name: 2 * count for name, count in counts.items()},
                "units": "292.000",
            }
        ]
        rollups.fold_all(at=NOW)


def test_usage_is_shown_by_hour_day_and_month_and_by_model(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    bare(operator)
    set_clock(operator, local(2026, 7, 1, 1))
    moments = {
        "a": local(2026, 6, 30, 22, 59, 59),
        "b": local(2026, 6, 30, 23),
        "c": local(2026, 7, 1) - US,
        "d": local(2026, 7, 1),
        "e": local(2026, 7, 1, 0, 59),
    }
    gateway.charge(*(record(i, occurred_at=m, model=f"m-{i in 'ac'}") for i, m in moments.items()))
    since, until = local(2026, 6, 1), local(2026, 7, 2)

    def seen(by: str) -> list[tuple[str, int]]:
        return [(i["period"], i["requests"]) for i in usage_by(api, by, since, until)]

    for _ in range(2):
        assert seen("month") == [("2026-06-01T00:00:00+08:00", 3), ("2026-07-01T00:00:00+08:00", 2)]
        assert seen("day") == [("2026-06-30T00:00:00+08:00", 3), ("2026-07-01T00:00:00+08:00", 2)]
        assert [
            (i["period"][:13], i["requests"])
            for i in usage_by(api, "hour", local(2026, 6, 30), until)
        ] == [("2026-06-30T22", 1), ("2026-06-30T23", 2), ("2026-07-01T00", 2)]
        assert [
            (i["period"][:7], i["model"], i["requests"])
            for i in usage_by(api, "month,model", since, until)
        ] == [("2026-06", "m-False", 1), ("2026-06", "m-True", 2), ("2026-07", "m-False", 2)]
        rollups.fold_all(at=NOW)


@pytest.mark.parametrize("folded", ["before", "between", "after"])
def test_usage_is_exact_at_edges_inside_an_hour(
    gateway: Gateway, api: APIClient, operator: Operator, folded: str
) -> None:
    bare(operator)
    start = NOW - 3 * HOUR
    moments = [start + n * 7 * MINUTE + n * US for n in range(26)]
    half = len(moments) // 2
    gateway.charge(*(record(f"a-{n}", occurred_at=m) for n, m in enumerate(moments[:half])))
    if folded == "between":
        rollups.fold_all(at=NOW)
    gateway.charge(*(record(f"b-{n}", occurred_at=m) for n, m in enumerate(moments[half:])))
    if folded == "after":
        rollups.fold_all(at=NOW)

    edges = [start - HOUR, start, *moments[::3], start + HOUR, start + 90 * MINUTE, NOW, NOW + HOUR]
    for since in edges:
        for until in edges:
            if since >= until:
                continue
            wanted = sum(since <= moment < until for moment in moments)
            for by in ("hour", "day", "month"):
                shown = usage_by(api, by, since, until)
                assert sum(item["requests"] for item in shown) == wanted, (since, until, by)
                assert sum(float(item["units"]) for item in shown) == wanted * 120


def test_an_hour_is_the_zones_own_where_it_is_half_an_hour_off() -> None:
    operator = make_operator("south", zone="Asia/Kolkata")
    make_rate_card(operator)
    make_subscriber(operator)
    api = client_for(make_key(operator))
    gateway = Gateway(operator)
    gateway.charge(*(record(f"r-{n}", occurred_at=NOW - n * 10 * MINUTE) for n in range(12)))

    for _ in range(2):
        shown = usage_by(api, "hour", NOW - 2 * HOUR, NOW + HOUR)
        assert [(i["period"], i["requests"]) for i in shown] == [
            ("2026-06-10T07:00:00+05:30", 2),
            ("2026-06-10T08:00:00+05:30", 6),
            ("2026-06-10T09:00:00+05:30", 4),
        ]
        rollups.fold_all(at=NOW)


@pytest.mark.parametrize(
    ("by", "days", "status"),
    [
        ("hour", 31, 200),
        ("hour", 32, 422),
        ("day", 400, 200),
        ("day", 401, 422),
        ("month", 3650, 200),
        ("day", 0, 422),
        ("day", -1, 422),
        ("week", 1, 400),
        ("", 1, 400),
        ("day,subject", 1, 400),
        ("hour,model", 31, 200),
    ],
)
def test_a_report_covers_at_most_its_range(
    api: APIClient, subscriber: Subscriber, by: str, days: int, status: int
) -> None:
    until = (NOW + days * DAY).strftime("%Y-%m-%dT%H:%M:%SZ")

    answer = api.get(
        f"/api/v1/subscribers/s-1/usage?from=2026-06-10T04:00:00Z&to={until}&by={by}"
    )

    assert answer.status_code == status, answer.content


# What is drawn -----------------------------------------------------------------------------------


def test_the_balance_follows_the_charge_at_once(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    make_subscriber(operator)
    subscribe(
        Subscriber.objects.get(),
        make_plan(operator, allowance=1_000_500, on_exhaustion="meter", price_per_million="1.20"),
    )

    gateway.charge(record(input_tokens=600, output_tokens=0))
    gateway.charge(record("r-2", input_tokens=600, output_tokens=0))

    shown = balance(api)
    assert (shown["available"], shown["reserved"]) == ("0.000", "0.000")
    assert [
        (b["kind"], b["granted"], b["used"], b["remaining"], b["priority"])
        for b in shown["buckets"]
        if b["kind"] != "uncovered"
    ] == [
        ("allowance", "1000.500", "1000.500", "0.000", 30),
        ("overage", None, "199.500", None, 90),
    ]


def test_buckets_burn_by_priority_then_expiry_then_age(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T))
    put(api, "boosters/b", {"name": "B", "price": "1", "units": "100", "valid_days": 5})
    post(api, "subscribers/s-1/boosters", {"booster": "b"})
    for units, days in ((100, 9), (100, 3), (100, 3)):
        until = (NOW + days * DAY).isoformat()
        gift = {"units": str(units), "valid_until": until, "reason": "x"}
        assert post(api, "subscribers/s-1/grants", gift).status_code == 201
    soon = [b.id for b in buckets_of(subscriber, "gift") if b.valid_until == NOW + 3 * DAY]

    seen = []
    for n in range(6):
        gateway.charge(record(f"r-{n}", input_tokens=90, output_tokens=0))
        seen.append(used(subscriber))

    assert seen == [
        {"gift": 90},
        {"gift": 180},
        {"gift": 270},
        {"gift": 300, "allowance": 60},
        {"gift": 300, "allowance": 100, "booster": 50},
        {"gift": 300, "allowance": 100, "booster": 100, "uncovered": 40},
    ]
    drawn = split_of(api)
    assert [b["id"] for b in records_of(api)[1]["receipt"]["buckets"]] == [str(i) for i in soon]
    assert drawn["r-3"] == [("gift", "30.000"), ("allowance", "60.000")]
    assert_books_agree()


@pytest.mark.parametrize("on_exhaustion", ["stop", "degrade"])
def test_what_no_policy_covers_is_uncovered(
    gateway: Gateway, api: APIClient, operator: Operator, on_exhaustion: str
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T, on_exhaustion=on_exhaustion))

    gateway.charge(record("a"), record("b"))

    assert used(subscriber) == {"allowance": 100, "uncovered": 140}
    [row] = [b for b in balance(api)["buckets"] if b["kind"] == "uncovered"]
    assert (row["granted"], row["remaining"], row["priority"]) == (None, None, 100)
    assert balance(api)["available"] == "0.000"


def test_a_meter_with_a_cap_meters_up_to_it(gateway: Gateway, operator: Operator) -> None:
    subscriber = make_subscriber(operator)
    plan = make_plan(
        operator,
        allowance=100 * T,
        on_exhaustion="meter",
        price_per_million="1.20",
        cap_units=150 * T,
    )
    subscribe(subscriber, plan)

    for n in range(4):
        gateway.charge(record(f"r-{n}"))

    assert used(subscriber) == {"allowance": 100, "overage": 150, "uncovered": 230}
    assert_books_agree()


def blocks_plan(operator: Operator, **terms: Any) -> Any:
    given = {
        "allowance": 100 * T,
        "on_exhaustion": "blocks",
        "block_units": 100 * T,
        "block_price": yuan("1"),
        "cap": yuan("3"),
        **terms,
    }
    return make_plan(operator, "blocks", **given)


@pytest.mark.parametrize("tokens", [10, 50, 60, 100, 120, 250])
def test_blocks_are_bought_one_after_the_other_up_to_the_cap(
    gateway: Gateway, operator: Operator, tokens: int
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, blocks_plan(operator))
    total = 0

    while total < 700:
        gateway.charge(record(f"r-{total}", input_tokens=tokens, output_tokens=0))
        total += tokens

        beyond = max(0, total - 100)
        drawn = used(subscriber)
        assert drawn.get("overage", 0) == min(beyond, 300)
        assert drawn.get("uncovered", 0) == max(0, beyond - 300)
        blocks = sum(b.granted or 0 for b in buckets_of(subscriber, "overage")) // T
        assert blocks == min(300, -(-beyond // 100) * 100)
    assert_books_agree()


def test_blocks_are_bought_also_after_something_was_uncovered(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, blocks_plan(operator), starts_at=NOW - DAY)
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=NOW)
    gateway.charge(record("suspended"))
    set_clock(operator, NOW + HOUR)
    lifecycle.restore(subscriber.pk, at=NOW + HOUR)
    set_clock(operator, NOW + 2 * HOUR)

    for n in range(3):
        gateway.charge(record(f"r-{n}", occurred_at=NOW + HOUR))

    assert used(subscriber) == {"allowance": 100, "overage": 260, "uncovered": 120}
    assert_books_agree()


@pytest.mark.parametrize(
    ("terms", "kind"),
    [
        ({"allowance": 0, "on_exhaustion": "stop"}, "uncovered"),
        ({"allowance": 0}, "overage"),
        (
            {"allowance": 0, "on_exhaustion": "meter", "price_per_million": "1.20"},
            "overage",
        ),
        ({}, "allowance"),
    ],
)
def test_a_plan_counts_from_its_first_instant_also_for_a_subject_well_known(
    gateway: Gateway, api: APIClient, operator: Operator, terms: dict[str, Any], kind: str
) -> None:
    make_rate_card(operator)
    make_rate_card(operator, "dear", weights={"*": ("2",) * 5})
    subscriber = make_subscriber(operator)
    for n in range(3):
        gateway.charge(record(f"before-{n}", input_tokens=1, output_tokens=0))
    terms = {"allowance": 100 * T, "cap": None, "rate_card": "dear", **terms}
    subscribe(subscriber, blocks_plan(operator, **terms), starts_at=NOW)
    set_clock(operator, NOW + HOUR)

    answer = gateway.charge(
        record("before", occurred_at=NOW - US, input_tokens=1, output_tokens=0),
        record("after", occurred_at=NOW + US, input_tokens=50, output_tokens=0),
    )

    assert answer["units"] == "101.000"
    drawn = {item["id"]: item["receipt"]["buckets"] for item in records_of(api)}
    assert [b["kind"] for b in drawn["before"]] == ["uncovered"]
    assert [b["kind"] for b in drawn["after"]] == [kind]
    assert drawn["before"][0]["id"] != drawn["after"][0]["id"]
    assert_books_agree()


def test_a_plan_sold_ahead_counts_from_its_first_instant_for_a_subject_well_known(
    gateway: Gateway, operator: Operator
) -> None:
    make_rate_card(operator)
    make_rate_card(operator, "dear", weights={"*": ("2",) * 5})
    subscriber = make_subscriber(operator)
    plan = blocks_plan(operator, allowance=0, rate_card="dear", cap=None)
    subscribe(subscriber, plan, starts_at=NOW + HOUR)
    for n in range(3):
        gateway.charge(record(f"before-{n}"))
    set_clock(operator, NOW + 2 * HOUR)

    at_once = gateway.charge(record("at", occurred_at=NOW + HOUR))
    before = gateway.charge(record("just before", occurred_at=NOW + HOUR - US))

    assert (at_once["units"], before["units"]) == ("240.000", "120.000")
    assert used(subscriber) == {"uncovered": 480, "overage": 240}
    assert_books_agree()


def test_without_a_plan_usage_is_uncovered(gateway: Gateway, operator: Operator) -> None:
    subscriber = bare(operator)

    gateway.charge(record())

    [bucket] = buckets_of(subscriber)
    assert (bucket.kind, bucket.granted, bucket.used) == ("uncovered", None, 120 * T)
    assert (bucket.valid_from, bucket.valid_until) == (local(2026, 6, 1), local(2026, 7, 1))


def test_while_suspended_usage_is_uncovered_and_nothing_else_is_drawn(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    gateway.charge(record("before"))
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=NOW + HOUR)
    set_clock(operator, NOW + 2 * HOUR)
    lifecycle.restore(subscriber.pk, at=NOW + 2 * HOUR)
    set_clock(operator, NOW + 3 * HOUR)

    gateway.charge(
        record("just before", occurred_at=NOW + HOUR - US),
        record("first", occurred_at=NOW + HOUR),
        record("last", occurred_at=NOW + 2 * HOUR - US),
        record("after", occurred_at=NOW + 2 * HOUR),
    )

    assert used(subscriber) == {"allowance": 360, "uncovered": 240}
    assert_books_agree()


def test_a_booster_never_pays_for_usage_before_its_purchase(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = bare(operator)
    set_clock(operator, NOW + HOUR)
    put(api, "boosters/b", {"name": "B", "price": "1", "units": "1000", "valid_days": 1})
    post(api, "subscribers/s-1/boosters", {"booster": "b"})
    set_clock(operator, NOW + 26 * HOUR)

    gateway.charge(
        record("before", occurred_at=NOW + HOUR - US),
        record("first", occurred_at=NOW + HOUR, input_tokens=200),
        record("last", occurred_at=NOW + 25 * HOUR - US, input_tokens=300),
        record("after", occurred_at=NOW + 25 * HOUR),
    )

    assert {i: k for i, [(k, _)] in split_of(api).items()} == {
        "before": "uncovered",
        "first": "booster",
        "last": "booster",
        "after": "uncovered",
    }
    assert used(subscriber) == {"booster": 540, "uncovered": 240}
    assert_books_agree()


def test_late_usage_burns_what_was_to_burn_first_then(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    lifecycle.give(subscriber.pk, units=1000 * T, valid_until=NOW + HOUR, reason="x", at=NOW)
    set_clock(operator, NOW + 2 * HOUR)
    for n in range(3):
        gateway.charge(record(f"now-{n}", occurred_at=NOW + 2 * HOUR))

    gateway.charge(record("late", occurred_at=NOW + HOUR - US))

    assert used(subscriber) == {"allowance": 360, "gift": 120}


def test_late_usage_of_a_plan_that_has_ended_draws_its_buckets(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscription = subscribe(
        subscriber, make_plan(operator, cycle="subscription_day"), starts_at=NOW - 25 * DAY
    )
    lifecycle.change(subscriber.pk, subscription.id, cancel_at_period_end=True, at=NOW)
    end = local(2026, 6, 16)
    set_clock(operator, end + HOUR)
    for n in range(3):
        gateway.charge(record(f"after-{n}", occurred_at=end))

    gateway.charge(record("late", occurred_at=end - US))

    assert used(subscriber) == {"uncovered": 360, "allowance": 120}
    assert_books_agree()


# Notices -----------------------------------------------------------------------------------------


def notices(subscriber: Subscriber) -> list[tuple[str, Any]]:
    rows = OutboxEvent.objects.filter(subscriber_id=subscriber.pk)
    return sorted((row.kind, row.payload.get("percent")) for row in rows)


def test_each_threshold_is_noticed_once_when_it_is_crossed(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100_001))

    def after(tokens: int) -> list[Any]:
        gateway.charge(record(f"{tokens}-{len(seen)}", input_tokens=tokens, output_tokens=0))
        return [percent for _, percent in notices(subscriber)]

    seen: list[Any] = []
    for tokens in (50, 1, 28, 1, 1, 19, 1, 5):
        seen.append(after(tokens))

    assert seen == [
        [],
        [50],
        [50],
        [50],
        [50, 80],
        [50, 80],
        [None, 50, 80, 100],
        [None, 50, 80, 100],
    ]
    assert notices(subscriber)[0] == ("bucket.exhausted", None)
    row = OutboxEvent.objects.get(payload__percent=80)
    assert (row.payload["kind"], row.occurred_at, row.sent_at) == ("allowance", NOW, None)


def test_all_thresholds_crossed_at_once_are_each_noticed(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T))

    gateway.charge(*(record(f"r-{n}") for n in range(10)))
    gateway.charge(*(record(f"r-{n}") for n in range(10)))

    assert notices(subscriber) == [
        ("bucket.exhausted", None),
        *(("bucket.threshold", percent) for percent in (50, 80, 100)),
    ]


def test_exhausted_is_noticed_only_when_nothing_prepaid_is_left(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T))
    put(api, "boosters/b", {"name": "B", "price": "1", "units": "100", "valid_days": 5})
    post(api, "subscribers/s-1/boosters", {"booster": "b"})

    def exhausted() -> int:
        return sum(kind == "bucket.exhausted" for kind, _ in notices(subscriber))

    gateway.charge(record("a"))
    assert exhausted() == 0
    gateway.charge(record("b"))
    assert exhausted() == 1
    gateway.charge(record("c"))
    post(api, "subscribers/s-1/boosters", {"booster": "b"})
    gateway.charge(record("d"))
    assert exhausted() == 2


# Periods -----------------------------------------------------------------------------------------


def test_the_month_turns_at_midnight_in_shanghai_to_the_microsecond(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    edge = local(2026, 7, 1)
    set_clock(operator, edge + MINUTE)

    gateway.charge(
        record("last", occurred_at=edge - US),
        record("first", occurred_at=edge, input_tokens=1000),
    )
    gateway.charge(record("last-2", occurred_at=edge - US), record("first-2", occurred_at=edge))

    june, july = buckets_of(subscriber, "allowance")
    assert (june.valid_until, july.valid_from) == (edge, edge)
    assert (june.used, july.used) == (240 * T, 1140 * T)
    assert balance(api)["available"] == "9998860.000"
    assert_books_agree()


def test_usage_some_minutes_ahead_draws_the_period_it_belongs_to(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    edge = local(2026, 7, 1)
    set_clock(operator, edge - 2 * MINUTE)

    gateway.charge(record("ahead", occurred_at=edge), record("now", occurred_at=edge - MINUTE))

    june, july = buckets_of(subscriber, "allowance")
    assert (june.used, july.used) == (120 * T, 120 * T)


@pytest.mark.parametrize(
    ("after", "month"),
    [(48 * HOUR - US, "June"), (48 * HOUR, "July"), (20 * DAY, "July")],
)
def test_late_usage_draws_its_own_period_within_the_grace_and_the_current_one_later(
    gateway: Gateway, api: APIClient, operator: Operator, after: dt.timedelta, month: str
) -> None:
    subscriber = make_subscriber(operator)
    make_rate_card(operator)
    make_rate_card(operator, effective_from=local(2026, 7, 1), weights={"*": ("5",) * 5})
    subscribe(subscriber, make_plan(operator, allowance=1000 * T))
    edge = local(2026, 7, 1)
    set_clock(operator, edge + after)

    gateway.charge(record(occurred_at=edge - US))

    june, july = buckets_of(subscriber, "allowance")
    assert (june.used, july.used) == ((120 * T, 0) if month == "June" else (0, 120 * T))
    # Reports and weights are those of its own time.
    for _ in range(2):
        assert [
            (i["period"][:7], i["units"])
            for i in usage_by(api, "month", local(2026, 6, 1), local(2026, 8, 1))
        ] == [("2026-06", "120.000")]
        rollups.fold_all(at=NOW)
    assert_books_agree()


def test_late_usage_after_the_grace_overflows_at_its_own_period(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    plan = make_plan(
        operator, allowance=100 * T, on_exhaustion="meter", price_per_million="1.20"
    )
    subscribe(subscriber, plan)
    set_clock(operator, local(2026, 7, 5))

    gateway.charge(record("late", occurred_at=NOW, input_tokens=480))

    drawn = {(b.kind, b.valid_from): b.used // T for b in buckets_of(subscriber) if b.used}
    assert drawn == {("allowance", local(2026, 7, 1)): 100, ("overage", NOW): 400}
    assert_books_agree()


def test_late_usage_draws_first_what_was_rolled_over(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, allowance=100 * T, rollover="one_cycle")
    subscribe(subscriber, plan)
    gateway.charge(record("june", input_tokens=50, output_tokens=0))
    set_clock(operator, local(2026, 7, 1, 5))

    gateway.charge(record("late", occurred_at=NOW + HOUR, input_tokens=30, output_tokens=0))
    gateway.charge(
        record("july", occurred_at=local(2026, 7, 1, 2), input_tokens=30, output_tokens=0)
    )

    drawn = [(b.kind, b.granted, b.used) for b in buckets_of(subscriber) if b.kind == "rollover"]
    assert drawn == [("rollover", 50 * T, 50 * T)]
    # 50 used, 50 moved on; of July's the 10 that the rollover did not cover.
    assert [b.used // T for b in buckets_of(subscriber, "allowance")] == [100, 10]
    assert_books_agree()


def test_a_period_nobody_has_opened_is_opened_by_the_charge(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    gateway.charge(record("june"))
    set_clock(operator, local(2026, 8, 3))

    gateway.charge(record("august", occurred_at=local(2026, 8, 2)))

    assert [b.used // T for b in buckets_of(subscriber, "allowance")] == [120, 0, 120]


def test_a_leap_second_of_a_day_and_a_short_month_anchor_hold(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, cycle="subscription_day")
    subscribe(subscriber, plan, starts_at=local(2026, 5, 31, 10))
    edge = local(2026, 6, 30)
    set_clock(operator, edge + HOUR)

    gateway.charge(record("last", occurred_at=edge - US), record("first", occurred_at=edge))

    may, june = buckets_of(subscriber, "allowance")
    assert (may.valid_until, june.valid_until) == (edge, local(2026, 7, 31))
    assert (may.used, june.used) == (120 * T, 120 * T)


# Rate cards --------------------------------------------------------------------------------------


def test_the_card_version_is_that_of_the_usages_own_time(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    put_card(api, NOW - 40 * DAY, **{"*": "1 1 1 1 1"})
    put_card(api, NOW - HOUR, **{"*": "2 2 2 2 2"})
    make_subscriber(operator)

    answer = gateway.charge(
        record("old", occurred_at=NOW - HOUR - US), record("new", occurred_at=NOW - HOUR)
    )

    assert answer["units"] == "360.000"
    versions = [item["receipt"]["rate_card_version"] for item in records_of(api)]
    assert versions == [1, 2]
    assert_books_agree()


def test_a_version_published_later_weighs_only_what_is_charged_after_it(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    put_card(api, NOW - 40 * DAY, **{"*": "1 1 1 1 1"})
    make_subscriber(operator)
    gateway.charge(record("a"))
    assert put_card(api, NOW + US, **{"*": "2 2 2 2 2"}).status_code == 201

    assert gateway.charge(record("b"))["units"] == "120.000"
    assert gateway.charge(record("c", occurred_at=NOW + US))["units"] == "240.000"


def test_a_version_from_before_usage_already_charged_is_409(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    assert put_card(api, NOW - 40 * DAY, **{"*": "1 1 1 1 1"}).status_code == 201
    make_subscriber(operator)
    gateway.charge(record("a", occurred_at=NOW - HOUR))

    for effective_from in (NOW - 50 * DAY, NOW - 2 * HOUR, NOW - HOUR):
        refused = put_card(api, effective_from, **{"*": "2 2 2 2 2"})
        assert_problem(refused, 409, "usage_already_charged")
    assert put_card(api, NOW - HOUR + US, **{"*": "2 2 2 2 2"}).status_code == 201
    assert gateway.charge(record("b", occurred_at=NOW - HOUR))["units"] == "120.000"
    assert gateway.charge(record("c"))["units"] == "240.000"


def test_another_card_and_another_operator_stand_in_no_versions_way(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    bare(operator)
    gateway.charge(record())
    other = make_operator("other")

    answer = put_card(client_for(make_key(other)), NOW - DAY, **{"*": "2 2 2 2 2"})
    cheap = put(
        api,
        "rate-cards/cheap",
        {"effective_from": "2026-06-01T00:00:00Z", "weights": [{"model": "*", **weights("1 " * 5)}]},
    )

    assert (answer.status_code, cheap.status_code) == (201, 201)


def test_a_plan_is_weighed_by_its_own_card_and_usage_without_one_by_the_default(
    gateway: Gateway, operator: Operator
) -> None:
    make_rate_card(operator)
    make_rate_card(operator, "dear", weights={"*": ("3",) * 5})
    subscribe(make_subscriber(operator), make_plan(operator, rate_card="dear"))
    make_subscriber(operator, "s-2")

    answer = gateway.charge(record("a"), record("b", subject="user-s-2"))

    assert answer["units"] == "480.000"


PATTERNS = {
    "*": 1,
    "deepseek/*": 2,
    "deepseek/chat": 3,
    "deepseek/chat*": 4,
    "*-flash": 5,
    "qwen*max*": 6,
    "a.c": 7,
    "[ab]?": 8,
    "x**y": 9,
    "Deepseek/*": 10,
    r"a\*": 11,
}


@pytest.mark.parametrize(
    ("model", "weight"),
    [
        ("anything", 1),
        ("deepseek/", 2),
        ("deepseek/v3", 2),
        ("deepseek/chat", 4),
        ("deepseek/chat-v2", 4),
        ("deepseek/chat-flash", 4),
        ("DeepSeek/chat", 1),
        ("Deepseek/chat", 10),
        ("glm-flash", 5),
        ("-flash", 5),
        ("flash", 1),
        ("qwenmax", 6),
        ("qwen3-max-thinking", 6),
        ("qwen-xam", 1),
        ("a.c", 7),
        ("abc", 1),
        ("[ab]?", 8),
        ("ax", 1),
        ("xy", 9),
        ("x---y", 9),
        (r"a\b", 11),
        ("模型", 1),
        ("x" * 256, 1),
    ],
)
def test_only_the_star_is_special_and_the_longest_pattern_wins(
    gateway: Gateway, operator: Operator, model: str, weight: int
) -> None:
    make_rate_card(operator, weights={p: (str(w),) * 5 for p, w in PATTERNS.items()})
    make_subscriber(operator)

    answer = gateway.charge(record(model=model, input_tokens=1, output_tokens=0))

    assert answer["units"] == f"{weight}.000"
    assert_books_agree()


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": "-1"},
        {"input": "100.001"},
        {"input": "101"},
        {"output": "0.0001"},
        {"output": "x"},
        {"output": None},
        {"model": ""},
        {"model": 5},
        {"model": "x" * 257},
        {"model": "a\0"},
    ],
)
def test_a_weight_that_is_none_is_422(
    api: APIClient, operator: Operator, wrong: dict[str, Any]
) -> None:
    item = {"model": "*", **weights("1 1 1 1 1"), **wrong}
    body = {"effective_from": "2026-06-01T00:00:00Z", "weights": [item]}

    assert put(api, "rate-cards/standard", body).status_code == 422


def test_a_pattern_named_twice_and_a_card_of_nothing_are_422(api: APIClient) -> None:
    item = {"model": "*", **weights("1 1 1 1 1")}
    for found in ([item, item], []):
        body = {"effective_from": "2026-06-01T00:00:00Z", "weights": found}
        assert put(api, "rate-cards/standard", body).status_code == 422


def test_weights_from_0_to_100_with_three_places_are_taken(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    answer = put_card(api, NOW - DAY, **{"*": "0 0.001 100 99.999 1.5"})
    make_subscriber(operator)

    charged = gateway.charge(
        record(
            input_tokens=30,
            cached_input_tokens=10,
            cache_write_tokens=10,
            output_tokens=20,
            reasoning_tokens=10,
        )
    )

    assert answer.status_code == 201
    # 10 x 0 + 10 x 0.001 + 10 x 100 + 10 x 99.999 + 10 x 1.5
    assert charged["units"] == "2015.000"
