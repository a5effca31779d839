"""Stripe meter events: v1 as a form, v2 as JSON, one event a request.

Stripe's token meters send two events for a call, one for input and one for output
(`payload.token_type`), each of which is a record. An `identifier` is the id; without one the
request's Idempotency-Key is (Stripe's clients repeat it when they send again), and without that the
id is made up. A plain meter names neither model nor type: then its `event_name` stands for the
model, to be weighed on the rate card, and its value counts as input.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

import msgspec

from metering.adapters.items import (
    Arrival,
    Counts,
    MaybeCount,
    MaybeId,
    MaybeTime,
    Unfit,
    first,
    usage,
)
from metering.adapters.reading import Format
from metering.parsing import Malformed, Usage

SOURCE = "stripe"
_MAX_FIELDS = 200


class Payload(msgspec.Struct, gc=False):
    stripe_customer_id: MaybeId = None
    value: MaybeCount = None
    model: str | None = None
    token_type: str | None = None


class Event(msgspec.Struct, gc=False):
    event_name: str | None = None
    identifier: MaybeId = None
    timestamp: MaybeTime = None
    payload: Payload | None = None


def usage_of(event: Event, arrival: Arrival) -> Usage:
    payload = event.payload or Payload()
    if payload.value is None:
        raise Unfit("no_usage", "payload.value counts the tokens; the event has none")
    return usage(
        arrival,
        _counts(payload.value, payload.token_type),
        source=SOURCE,
        id=first(event.identifier, arrival.key) or arrival.new_id(),
        subject=payload.stripe_customer_id,
        model=payload.model or event.event_name,
        at=event.timestamp,
        random=not event.identifier,
    )


def _counts(value: int, side: str | None) -> Counts:
    if side in (None, "", "input"):
        return Counts(value, 0)
    if side == "output":
        return Counts(0, value)
    raise Unfit("invalid_record", "payload.token_type is input or output")


_FIELD = re.compile(r"(\w+)(?:\[(\w+)\])?")


def of_form(body: bytes) -> bytes:
    """A v1 form as the JSON of a v2 event: `payload[value]=5` is `{"payload": {"value": "5"}}`.

    Raises Malformed for what is no form, and for a field that comes twice.
    """
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError as error:
        raise Malformed("the body is not a form (application/x-www-form-urlencoded)") from error
    if not pairs:
        raise Malformed("the form is empty")
    event: dict[str, str | dict[str, str]] = {}
    for name, value in pairs:
        field = _FIELD.fullmatch(name)
        if field is None:
            raise Malformed("a field is called like `event_name` or `payload[value]`")
        outer, inner = field.groups()
        into = event if inner is None else event.setdefault(outer, {})
        key = outer if inner is None else inner
        if not isinstance(into, dict) or key in into:
            raise Malformed("a field of the form comes twice")
        into[key] = value
    return msgspec.json.encode(event)


FORMAT = Format(
    "Stripe meter events",
    SOURCE,
    Event,
    usage_of,
    ("identifier",),
    ("payload", "stripe_customer_id"),
)
