"""Charging what waits in the quarantine, once its cause is mended."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

import msgspec

from metering import quarantine
from metering.context import Caller
from metering.ingest import ingest
from metering.models import QuarantinedRecord
from metering.parsing import Malformed, Rejected, SourcedUsage, Usage, parse_one
from metering.terms import KeyRevoked
from subscriptions.models import ApiKey


class Outcome(NamedTuple):
    """`charged`, `duplicate` or `rejected`; units (thousandths) where charged."""

    status: str
    cause: str | None = None
    detail: str | None = None
    units: int | None = None


def retry(row: QuarantinedRecord, *, wall: dt.datetime, at: dt.datetime) -> Outcome:
    """Charge a quarantined record now; its window is judged by when it was received.

    Repeatable: the charge knows the record by its id, and a resolved row only answers.
    """
    if row.resolution:
        return Outcome(row.resolution)
    try:
        # What an adapter let pass without tokens (a failed call) may have none now.
        item = parse_one(0, row.payload.encode(), empty=bool(row.source))
    except Malformed as error:
        return Outcome("rejected", row.cause, error.detail)
    if isinstance(item, Rejected):
        return Outcome("rejected", item.cause, item.detail)
    caller = _caller(row)
    if caller is None:
        return Outcome("rejected", row.cause, "the gateway has no key any more; issue one first")
    try:
        done = ingest(
            caller,
            [_sourced(item, row.source)],
            at=wall,
            received_at=row.received_at,
        )
    except KeyRevoked:
        return Outcome("rejected", row.cause, "the gateway's key was just revoked; try again")
    if done.rejected:
        return Outcome("rejected", done.rejected[0].cause, done.rejected[0].detail)
    charged = bool(done.charged)
    resolution = (
        QuarantinedRecord.Resolution.CHARGED if charged else QuarantinedRecord.Resolution.DUPLICATE
    )
    quarantine.resolve(row, resolution, at=at)
    return Outcome(resolution, units=done.units if charged else None)


def _sourced(usage: Usage, source: str) -> Usage:
    return SourcedUsage(**msgspec.structs.asdict(usage), source=source) if source else usage


def _caller(row: QuarantinedRecord) -> Caller | None:
    """The row's gateway, speaking with any of its live keys; its subject is in the record."""
    key = ApiKey.objects.filter(gateway=row.gateway, revoked_at__isnull=True).first()
    return Caller(row.operator_id, row.gateway_id, key.pk) if key else None
