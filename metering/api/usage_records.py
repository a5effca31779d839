"""`POST /api/v1/usage-records`: the hot door. Reads the clock, translates, charges, answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema

from metering import parsing
from metering.api import schema
from metering.api.doors import JSON, GatewayDoor, caller_in, sent, unpacked
from metering.combining import Combiner
from metering.context import Caller
from metering.ingest import Ingested, ingest
from metering.parsing import Parsed, Usage
from subscriptions import clock
from subscriptions.errors import Conflict
from subscriptions.units import to_wire


def _charge_together(caller: Caller, usages: Sequence[Usage]) -> list[Ingested]:
    """Charge single records of one gateway as one batch; one answer each."""
    together = ingest(caller, usages, at=clock.wall())
    answers = [Ingested(together.batch_id) for _ in usages]
    for index, units in zip(together.charged, together.amounts, strict=True):
        answers[index].charged.append(0)
        answers[index].amounts.append(units)
    for index in together.duplicates:
        answers[index].duplicates.append(0)
    for rejection in together.rejected:
        answers[rejection.index].rejected.append(dataclasses.replace(rejection, index=0))
    return answers


_singles: Combiner[Caller, Usage, Ingested] = Combiner(_charge_together)


def charge(caller: Caller, parsed: Parsed) -> Ingested:
    """Charge what a request holds; single records of one moment share a transaction.

    Raises KeyRevoked.
    """
    if len(parsed.usages) == 1 and not parsed.rejected:
        return _singles.submit(caller, parsed.usages[0])
    return ingest(caller, parsed.usages, parsed.rejected, at=clock.wall(), indexes=parsed.indexes)


def answer(ingested: Ingested) -> dict[str, Any]:
    """The body of the 200."""
    return {
        "batch": str(ingested.batch_id),
        "accepted": len(ingested.charged),
        "duplicates": len(ingested.duplicates),
        "rejected": [
            {
                "index": rejection.index,
                "id": rejection.id,
                "cause": rejection.cause,
                "detail": rejection.detail,
                "quarantine_id": str(rejection.quarantine_id),
            }
            for rejection in ingested.rejected
        ],
        "units": to_wire(ingested.units),
    }


def respond(meta: Mapping[str, Any], read: Callable[[], bytes]) -> bytes:
    """The body of the 200 to a POST with these headers and body. Raises what refuses it."""
    caller = caller_in(meta)
    parsed = parsing.parse_native(unpacked(meta, read))
    ingested = charge(caller, parsed)
    if parsed.single and ingested.rejected and ingested.rejected[0].cause == "conflict":
        raise Conflict(ingested.rejected[0].detail)
    return msgspec.json.encode(answer(ingested))


class UsageRecords(GatewayDoor):
    @extend_schema(**schema.USAGE_RECORDS)
    def post(self, request: HttpRequest) -> HttpResponse:
        """Charge usage records. Sending them again charges nothing twice."""
        return HttpResponse(respond(request.META, lambda: sent(request)), content_type=JSON)
