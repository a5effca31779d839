"""Usage in other senders' formats, answered as each expects. The charge is that of usage-records.

What can be read is charged or quarantined, and the answer is a success: most of these senders
never send again. Which events were not charged stands in the header Usage-Rejected.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema

from metering import parsing, repeats
from metering.adapters import autumn, dispatch, lago, openmeter, otlp, polar, stripe
from metering.adapters.dispatch import Letter
from metering.adapters.items import Arrival, RandomlyNamed
from metering.adapters.reading import Format, read, whole
from metering.api import schema
from metering.api.doors import JSON, GatewayDoor, body_of, caller_of
from metering.api.usage_records import answer, charge
from metering.context import Caller
from metering.ingest import Ingested
from metering.parsing import Parsed
from subscriptions import clock
from subscriptions.models import Operator

MAX_IDEMPOTENCY_KEY = 255
_MAX_NAMED = 100
FORM = "application/x-www-form-urlencoded"


def _arrival(request: HttpRequest, caller: Caller) -> Arrival:
    """What the request says beside its body; its time is asked for only where it is needed."""
    return Arrival(
        lambda: clock.now(Operator.objects.get(pk=caller.operator_id)),
        subject=caller.subject,
        key=request.META.get("HTTP_IDEMPOTENCY_KEY", "")[:MAX_IDEMPOTENCY_KEY],
    )


def _settle(caller: Caller, parsed: Parsed, arrival: Arrival) -> Ingested:
    """Charge, and flag what may be told twice."""
    ingested = charge(caller, parsed)
    refused = {rejection.index for rejection in ingested.rejected}
    doubtful = [
        usage
        for index, usage in zip(parsed.indexes, parsed.usages, strict=True)
        if type(usage) is RandomlyNamed and index not in refused
    ]
    if doubtful:
        repeats.flag(caller, doubtful, at=arrival.received_at)
    return ingested


def _answer(body: Any, ingested: Ingested, *, status: int = 200) -> HttpResponse:
    response = HttpResponse(msgspec.json.encode(body), status=status, content_type=JSON)
    return _name_rejected(response, ingested)


def _name_rejected(response: HttpResponse, ingested: Ingested) -> HttpResponse:
    """`Usage-Rejected: 3=unknown_subject, 7=no_usage`, for answers whose bodies have no place."""
    named = [f"{r.index}={r.cause}" for r in ingested.rejected[:_MAX_NAMED]]
    if len(ingested.rejected) > _MAX_NAMED:
        named.append(f"{len(ingested.rejected) - _MAX_NAMED} more")
    if named:
        response["Usage-Rejected"] = ", ".join(named)
    return response


# /api/v1/events -----------------------------------------------------------------------------------


class Events(GatewayDoor):
    """Usage as clients of OpenMeter, Lago and LiteLLM `generic_api` send it, and gateways' logs."""

    @extend_schema(**schema.events("send_events"))
    def post(self, request: HttpRequest) -> HttpResponse:
        caller = caller_of(request)
        letter = dispatch.open_letter(body_of(request), request.META.get("CONTENT_TYPE", ""))
        arrival = _arrival(request, caller)
        if letter.format is lago.FORMAT:
            return _answer_lago(caller, letter, arrival)
        ingested = _settle(caller, letter.read(arrival), arrival)
        if letter.format is openmeter.FORMAT:
            response = HttpResponse(status=204)
            del response["Content-Type"]
            return _name_rejected(response, ingested)
        return _answer(answer(ingested), ingested)


class EventBatches(Events):
    """The same: clients of Lago send batches here."""

    @extend_schema(**schema.events("send_event_batch"))
    def post(self, request: HttpRequest) -> HttpResponse:
        return super().post(request)


def _answer_lago(caller: Caller, letter: Letter, arrival: Arrival) -> HttpResponse:
    """The events as Lago shows them; for ids charged before, Lago's 422 that names them."""
    raws = letter.raws()
    if not raws:
        return _refuse_like_lago({"events": ["no_events"]}, Ingested())
    said = [whole(raw) for raw in raws]
    parsed = read(letter.format, raws, arrival)
    ingested = _settle(caller, parsed, arrival)
    if ingested.duplicates:
        seen = {"transaction_id": ["value_already_exist"]}
        named = {str(index): seen for index in sorted(ingested.duplicates)}
        return _refuse_like_lago(seen if letter.single else named, ingested)
    times = {
        index: usage.occurred_at for index, usage in zip(parsed.indexes, parsed.usages, strict=True)
    }
    shown = [
        _shown_by_lago(caller, event, times.get(index, arrival.received_at), arrival.received_at)
        for index, event in enumerate(said)
    ]
    return _answer({"event": shown[0]} if letter.single else {"events": shown}, ingested)


def _refuse_like_lago(details: dict[str, Any], ingested: Ingested) -> HttpResponse:
    body = {
        "status": 422,
        "error": "Unprocessable Entity",
        "code": "validation_errors",
        "error_details": details,
    }
    return _answer(body, ingested, status=422)


def _shown_by_lago(
    caller: Caller, said: Any, at: dt.datetime, received_at: dt.datetime
) -> dict[str, Any]:
    event = said if isinstance(said, dict) else {}
    transaction_id = event.get("transaction_id")
    properties = event.get("properties")
    parsing.drop_prompts(properties)
    return {
        "lago_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{caller.gateway_id}/{transaction_id}")),
        "transaction_id": transaction_id,
        "lago_customer_id": None,
        "external_customer_id": event.get("external_customer_id"),
        "code": event.get("code"),
        "timestamp": _iso(at),
        "properties": properties if isinstance(properties, dict) else {},
        "lago_subscription_id": None,
        "external_subscription_id": event.get("external_subscription_id"),
        "created_at": _iso(received_at),
    }


def _iso(instant: dt.datetime) -> str:
    return f"{instant.astimezone(dt.UTC).isoformat(timespec='milliseconds')[:-6]}Z"


# Addresses of one format --------------------------------------------------------------------------


def _letter_of(request: HttpRequest, format: Format, within: str = "") -> Letter:
    content_type = request.META.get("CONTENT_TYPE", "")
    return dispatch.letter_of(format, body_of(request), content_type, within=within)


class StripeForms(GatewayDoor):
    """A meter event as Stripe's v1 API takes it: a form."""

    @extend_schema(**schema.STRIPE_V1)
    def post(self, request: HttpRequest) -> HttpResponse:
        caller = caller_of(request)
        dispatch.require(request.META.get("CONTENT_TYPE", ""), {FORM}, [f"a form ({FORM})"])
        raw = stripe.of_form(body_of(request))
        return _answer_stripe(request, caller, raw, "billing.meter_event", _unix)


class StripeEvents(GatewayDoor):
    """A meter event as Stripe's v2 API takes it: JSON."""

    @extend_schema(**schema.STRIPE_V2)
    def post(self, request: HttpRequest) -> HttpResponse:
        caller = caller_of(request)
        [raw] = _letter_of(request, stripe.FORMAT).items
        return _answer_stripe(request, caller, raw, "v2.billing.meter_event", _iso)


def _unix(instant: dt.datetime) -> int:
    return int(instant.timestamp())


def _answer_stripe(
    request: HttpRequest,
    caller: Caller,
    raw: bytes,
    object: str,
    shown: Callable[[dt.datetime], Any],
) -> HttpResponse:
    """The event as Stripe shows it, with the identifier that it is now known by."""
    event = whole(raw)
    arrival = _arrival(request, caller)
    parsed = read(stripe.FORMAT, [raw], arrival)
    ingested = _settle(caller, parsed, arrival)
    usage = parsed.usages[0] if parsed.usages else None
    body = {
        "object": object,
        "created": shown(arrival.received_at),
        "event_name": event.get("event_name"),
        "identifier": usage.id if usage else event.get("identifier"),
        "livemode": True,
        "payload": event.get("payload"),
        "timestamp": shown(usage.occurred_at if usage else arrival.received_at),
    }
    return _answer(body, ingested)


class PolarEvents(GatewayDoor):
    """Events as Polar takes them."""

    @extend_schema(**schema.POLAR)
    def post(self, request: HttpRequest) -> HttpResponse:
        caller = caller_of(request)
        letter = _letter_of(request, polar.FORMAT, "events")
        arrival = _arrival(request, caller)
        ingested = _settle(caller, letter.read(arrival), arrival)
        body = {"inserted": len(ingested.charged), "duplicates": len(ingested.duplicates)}
        return _answer(body, ingested)


class AutumnTrack(GatewayDoor):
    """Usage as Autumn takes it."""

    @extend_schema(**schema.AUTUMN)
    def post(self, request: HttpRequest) -> HttpResponse:
        caller = caller_of(request)
        letter = _letter_of(request, autumn.FORMAT)
        event = whole(letter.items[0])
        arrival = _arrival(request, caller)
        parsed = letter.read(arrival)
        ingested = _settle(caller, parsed, arrival)
        usage = parsed.usages[0] if parsed.usages else None
        body = {
            "customer_id": event.get("customer_id"),
            "value": usage.input_tokens + usage.output_tokens if usage else 0,
            "balance": None,
        }
        for name in ("entity_id", "event_name"):
            if event.get(name) is not None:
                body[name] = event[name]
        return _answer(body, ingested)


class AutumnBalancesTrack(AutumnTrack):
    """The same, at the address of Autumn's newer clients."""

    @extend_schema(**schema.AUTUMN_BALANCES)
    def post(self, request: HttpRequest) -> HttpResponse:
        return super().post(request)


class AutumnTokens(AutumnTrack):
    """The same: what Autumn's gateway wrappers tell of one call of a model."""

    @extend_schema(**schema.AUTUMN_TOKENS)
    def post(self, request: HttpRequest) -> HttpResponse:
        return super().post(request)


class AutumnTokenBatches(GatewayDoor):
    """Many of these. Each has its own key, or none: the header's cannot be that of them all."""

    @extend_schema(**schema.AUTUMN_TOKEN_BATCHES)
    def post(self, request: HttpRequest) -> HttpResponse:
        caller = caller_of(request)
        content_type = request.META.get("CONTENT_TYPE", "")
        letter = dispatch.array_of(autumn.FORMAT, body_of(request), content_type)
        arrival = _arrival(request, caller)
        arrival.key = ""
        return _answer({"success": True}, _settle(caller, letter.read(arrival), arrival))


class Traces(GatewayDoor):
    """Spans of OpenTelemetry with GenAI attributes, as OTLP/HTTP sends them in JSON."""

    rejected = "rejectedSpans"
    logs = False

    @extend_schema(**schema.TRACES)
    def post(self, request: HttpRequest) -> HttpResponse:
        caller = caller_of(request)
        dispatch.require(
            request.META.get("CONTENT_TYPE", ""), dispatch.JSON_TYPES, ["OTLP in JSON"]
        )
        text = dispatch.text_of(body_of(request))
        calls = dispatch.reading(text, lambda text: otlp.calls_of(text, logs=self.logs))
        arrival = _arrival(request, caller)
        ingested = _settle(caller, read(otlp.FORMAT, calls, arrival), arrival)
        if not ingested.rejected:
            return _answer({}, ingested)
        partial = {
            self.rejected: str(len(ingested.rejected)),
            "errorMessage": "kept in quarantine: "
            + ", ".join(sorted({rejection.cause for rejection in ingested.rejected})),
        }
        return _answer({"partialSuccess": partial}, ingested)


class Logs(Traces):
    """Log records of OpenTelemetry with GenAI attributes, as OTLP/HTTP sends them in JSON."""

    rejected = "rejectedLogRecords"
    logs = True

    @extend_schema(**schema.LOGS)
    def post(self, request: HttpRequest) -> HttpResponse:
        return super().post(request)
