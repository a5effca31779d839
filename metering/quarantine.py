"""What a gateway sent and could not be charged: kept with its reason, charged once it can be."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from django.db import connection, transaction

from metering.models import QuarantinedRecord
from metering.parsing import Rejected


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
     received_at, attempts, resolution)
SELECT %(operator)s, %(gateway)s, q.source, q.record_id, q.subject, q.cause, q.detail, q.payload,
       q.digest, %(at)s, 1, ''
FROM unnest(%(source)s::text[], %(record_id)s::text[], %(subject)s::text[], %(cause)s::text[],
            %(detail)s::text[], %(payload)s::text[], %(digest)s::bytea[])
     AS q (source, record_id, subject, cause, detail, payload, digest)
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
            },
        )
        ids = {bytes(digest): row_id for digest, row_id in cursor.fetchall()}
    return [
        Rejection(r.index, r.id, r.cause, r.detail, ids[digest])
        for digest, (r, _) in zip(digests, refused, strict=True)
    ]


def _plain(text: bytes) -> str:
    """Text that PostgreSQL can hold: a NUL byte stands as its JSON escape."""
    return text.decode("utf-8", "replace").replace("\0", "\\u0000")


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
