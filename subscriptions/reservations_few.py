"""Holding for few asks, and settling few reservations, as one statement each: reservations.py's
work where one bucket covers each ask and nothing is in its way.

The statements are functions of the database, which go out in one message (pipeline.py) and check
all that was not looked at under a lock; what is not as they take for granted, reservations.py does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from subscriptions import pipeline
from subscriptions.pgarrays import (
    BYTEA,
    INT4,
    INT8,
    TEXT,
    array_header,
    pack_int4,
    pack_int8,
    pack_row,
    unpack_int8s,
)
from subscriptions.pipeline import Statement

# SQLSTATE of these functions: not as they take for granted. Nothing was done.
UNSTEADY = "TB003"

_GIVEN = ", ".join(f"${nr}" for nr in range(1, 11))
_RESERVE = Statement("subscriptions_reserve_few", f"SELECT subscriptions_reserve_few({_GIVEN})")


class Ask(NamedTuple):
    """Units to hold of one bucket, in thousandths, while that is of this generation.

    `head` is the answer as it travels, up to the number of what is available after it, `tail` the
    rest. `ttl` in seconds; the fingerprint is a SHA-256.
    """

    subscriber_id: int
    bucket_id: int
    generation: int
    units: int
    ttl: int
    name: str
    fingerprint: bytes
    head: bytes
    tail: bytes


class Commit(NamedTuple):
    """A reservation to settle: it has to hold units of this bucket alone; `units` are charged.

    `head` and `tail` are the answer before and after the number of what is given back.
    """

    subscriber_id: int
    bucket_id: int
    units: int
    name: str
    fingerprint: bytes
    head: bytes
    tail: bytes


def reserve(given: Sequence[bytes | None], asks: Sequence[Ask]) -> list[int]:
    """Hold what these ask for, of different subscribers and names, and keep their answers.

    `given` are the terms that the asks go by, which are compared (SQLSTATE TB001). Answers what
    each subscriber has available after it. All or nothing, in a transaction of its own: raises
    DatabaseError with TB002 where a bucket was emptied or overtaken, UNSTEADY where a name is
    taken or a hold has outlived its time.
    """
    ordered = sorted(range(len(asks)), key=lambda nr: asks[nr][:2])  # the order of locks
    rows = _array("subscriptions_ask", (_ask_row(asks[nr]) for nr in ordered), len(asks))
    row = pipeline.run([(_RESERVE, [*given, rows])])[0]
    assert row is not None
    assert row[0] is not None
    available = dict(zip(ordered, unpack_int8s(row[0]), strict=True))
    return [available[nr] for nr in range(len(asks))]


def pack_commits(commits: Sequence[Commit]) -> bytes:
    """The commits, which come in the order of locks, as the parameter of `metering_commit_few`."""
    return _array("subscriptions_commit", map(_commit_row, commits), len(commits))


def _array(type_name: str, rows: Iterable[bytes], count: int) -> bytes:
    return array_header(pipeline.oid_of(type_name), count) + b"".join(rows)


def _ask_row(ask: Ask) -> bytes:
    return pack_row(
        (INT8, pack_int8(ask.subscriber_id)),
        (INT8, pack_int8(ask.bucket_id)),
        (INT8, pack_int8(ask.generation)),
        (INT8, pack_int8(ask.units)),
        (INT4, pack_int4(ask.ttl)),
        (TEXT, ask.name.encode()),
        (BYTEA, ask.fingerprint),
        (TEXT, ask.head),
        (TEXT, ask.tail),
    )


def _commit_row(commit: Commit) -> bytes:
    return pack_row(
        (INT8, pack_int8(commit.subscriber_id)),
        (INT8, pack_int8(commit.bucket_id)),
        (INT8, pack_int8(commit.units)),
        (TEXT, commit.name.encode()),
        (BYTEA, commit.fingerprint),
        (TEXT, commit.head),
        (TEXT, commit.tail),
    )
