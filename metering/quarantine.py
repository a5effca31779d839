"""What a gateway sent and could not be charged: kept with its reason, charged once it can be."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from django.db import connection, transaction

from metering.models import QuarantinedRecord
from metering.parsing import EARLIEST, LATEST, MAX_DIGITS, Rejected


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that was not charged, by its index in the request."""

    index: int
    id: str
    cause: str
    detail: str
    quarantine_id: int


_KEEP_SQL = """
INSERT INTO metering_quarantinedrecord
    (operator_id, gateway_id, source, record_id, subject, cause, detail, payload, digest,
     received_at, attempts, resolution, occurred_at, sequence)
SELECT %(operator)s, %(gateway)s, q.source, q.record_id, q.subject, q.cause, q.detail, q.payload,
       q.digest, %(at)s, 1, '', q.occurred_at, q.sequence
FROM unnest(%(source)s::text[], %(record_id)s::text[], %(subject)s::text[], %(cause)s::text[],
            %(detail)s::text[], %(payload)s::text[], %(digest)s::bytea[],
            %(occurred_at)s::timestamptz[], %(sequence)s::bigint[])
     AS q (source, record_id, subject, cause, detail, payload, digest, occurred_at, sequence)
ORDER BY q.digest
ON CONFLICT (gateway_id, digest) WHERE resolved_at IS NULL
DO UPDATE SET attempts = metering_quarantinedrecord.attempts + 1,
              cause = EXCLUDED.cause, detail = EXCLUDED.detail
RETURNING digest, id
"""


def keep(
    operator_id: int,
    gateway_id: int,
    refused: Sequence[tuple[Rejected, bytes]],
    *,
    at: dt.datetime,
) -> list[Rejection]:
    """Store refused records with what was sent; the same one sent again is the same row.

    Joins the caller's transaction; answers one rejection each, in the order given.
    """
    digests = [
        hashlib.sha256(rejected.source.encode() + b"\0" + payload).digest()
        for rejected, payload in refused
    ]
    once = dict(zip(digests, refused, strict=True))
    placed = [_place(payload) for _, payload in once.values()]
    with connection.cursor() as cursor:
        cursor.execute(
            _KEEP_SQL,
            {
                "operator": operator_id,
                "gateway": gateway_id,
                "at": at,
                "source": [r.source for r, _ in once.values()],
                "record_id": [r.id for r, _ in once.values()],
                "subject": [r.subject for r, _ in once.values()],
                "cause": [r.cause for r, _ in once.values()],
                "detail": [_plain(r.detail.encode()) for r, _ in once.values()],
                "payload": [_plain(payload) for _, payload in once.values()],
                "digest": list(once),
                "occurred_at": [place.occurred_at for place in placed],
                "sequence": [place.sequence for place in placed],
            },
        )
        ids = {bytes(digest): row_id for digest, row_id in cursor.fetchall()}
    return [
        Rejection(r.index, r.id, r.cause, r.detail, ids[digest])
        for digest, (r, _) in zip(digests, refused, strict=True)
    ]


class _Placed(msgspec.Struct):
    occurred_at: Any = None
    attributes: Any = None


class _Place(NamedTuple):
    """Where a record belongs, by what it says: its time, and the gateway's number of it."""

    occurred_at: dt.datetime | None = None
    sequence: int | None = None


_placed = msgspec.json.Decoder(_Placed)


def _place(payload: bytes) -> _Place:
    """Whatever cannot be read of a record that was refused stays unknown."""
    try:
        said = _placed.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return _Place()
    sequence = said.attributes.get("sequence") if isinstance(said.attributes, dict) else None
    digits = str(sequence) if isinstance(sequence, int | str) else ""
    numbered = digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS
    return _Place(_instant(said.occurred_at), int(digits) if numbered else None)


def _instant(said: Any) -> dt.datetime | None:
    if not isinstance(said, str):
        return None
    try:
        instant = msgspec.convert(said, dt.datetime, strict=False)
    except msgspec.ValidationError:
        return None
    if instant.tzinfo is None or not EARLIEST <= instant < LATEST:
        return None
    return instant.astimezone(dt.UTC)  # PostgreSQL takes offsets of less than 16 hours


def _plain(text: bytes) -> str:
    """Text that PostgreSQL can hold: a NUL byte stands as its JSON escape."""
    return text.decode("utf-8", "replace").replace("\0", "\\u0000")


# Further ones of a cause are not counted: a page opens as fast with a million of them.
MOST_COUNTED = 10_000

_WAITING_SQL = """
WITH RECURSIVE causes AS (
    (SELECT q.cause FROM metering_quarantinedrecord q
     WHERE q.operator_id = %(operator)s AND q.resolved_at IS NULL ORDER BY q.cause LIMIT 1)
    UNION ALL
    SELECT (SELECT q.cause FROM metering_quarantinedrecord q
            WHERE q.operator_id = %(operator)s AND q.resolved_at IS NULL AND q.cause > causes.cause
            ORDER BY q.cause LIMIT 1)
    FROM causes WHERE causes.cause IS NOT NULL
)
SELECT causes.cause, few.number
FROM causes CROSS JOIN LATERAL (
    SELECT count(*) AS number FROM (
        SELECT FROM metering_quarantinedrecord q
        WHERE q.operator_id = %(operator)s AND q.resolved_at IS NULL AND q.cause = causes.cause
        LIMIT %(most)s
    ) found
) few
WHERE causes.cause IS NOT NULL
ORDER BY few.number DESC, causes.cause
"""


def waiting(operator_id: int) -> dict[str, int]:
    """How many records wait, by cause, the most first; counted up to MOST_COUNTED of each."""
    with connection.cursor() as cursor:
        cursor.execute(_WAITING_SQL, {"operator": operator_id, "most": MOST_COUNTED})
        return dict(cursor.fetchall())


@transaction.atomic
def resolve(row: QuarantinedRecord, resolution: str, *, at: dt.datetime) -> None:
    """Mark an open row as dealt with; one that somebody else resolved stays as it is."""
    QuarantinedRecord.objects.filter(pk=row.pk, resolved_at__isnull=True).update(
        resolution=resolution, resolved_at=at
    )


def as_json(row: QuarantinedRecord) -> dict[str, object]:
    """The row for the API; `record` is what was sent."""
    try:
        record = msgspec.json.decode(row.payload)
    except (msgspec.DecodeError, RecursionError):
        record = row.payload
    return {
        "id": str(row.pk),
        "gateway": row.gateway.name,
        "record_id": row.record_id,
        "subject": row.subject,
        "cause": row.cause,
        "detail": row.detail,
        "record": record,
        "received_at": row.received_at,
        "attempts": row.attempts,
        "resolution": row.resolution or None,
        "resolved_at": row.resolved_at,
    }
