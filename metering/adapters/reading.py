"""From the items of a body to native records: all at once, and one by one where some do not fit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect

from metering import parsing
from metering.adapters.items import Arrival, Unfit
from metering.parsing import MAX_RECORDS, Malformed, Parsed, Rejected, Usage, too_many

MAX_KEPT_TEXT = 512
_anything = msgspec.json.Decoder()
# The one message of a number that no float holds: RFC 8259 lets us refuse it, and we do.
_BEYOND = "Number out of range"


@dataclass(frozen=True, slots=True)
class Format:
    """A sender: what is read of one event, and what is made of it.

    `usage_of` raises Unfit. `together`, where a sender splits a request over several events, takes
    all events of a body (None for those that cannot be read) and answers in their order. `id_at`
    and `subject_at` are the paths of the names that a quarantined event is listed under.
    """

    name: str
    source: str
    event: type[msgspec.Struct]
    usage_of: Callable[[Any, Arrival], Usage]
    id_at: tuple[str, ...]
    subject_at: tuple[str, ...]
    together: Callable[[Sequence[Any], Arrival], list[Usage | Unfit | None]] | None = None
    unfold: Callable[[bytes], bytes] | None = None


def read_array(format: Format, text: bytes, arrival: Arrival) -> Parsed:
    """The usage of a JSON array of events. Raises Malformed, TooLarge."""
    if format.together is None and format.unfold is None:
        try:
            events = _decoder(list[format.event]).decode(text)  # type: ignore[name-defined]
            if len(events) <= MAX_RECORDS:
                usage_of = format.usage_of
                usages = [usage_of(event, arrival) for event in events]
                return Parsed(usages, range(len(usages)), [])
        except (msgspec.ValidationError, Unfit):
            pass  # Rare: what was sent is wanted then, and the array is taken apart for it.
    return read(format, split(text), arrival)


def read(format: Format, raws: Sequence[bytes], arrival: Arrival) -> Parsed:
    """The usage of single events: good ones become usage, others are named."""
    if len(raws) > MAX_RECORDS:
        raise too_many("events")
    if format.unfold is not None:
        raws = [format.unfold(raw) for raw in raws]
    decode = _decoder(format.event).decode
    events: list[Any] = []
    found: list[Usage | Unfit | None] = []
    for index, raw in enumerate(raws):
        event = None
        unfit: Unfit | None = None
        try:
            event = decode(raw)
        except msgspec.ValidationError as error:
            if _BEYOND in str(error):
                raise Malformed(f"event {index} holds a number out of range") from error
            unfit = Unfit("invalid_record", str(error))
        events.append(event)
        found.append(unfit or (None if format.together else _try(format, event, arrival)))
    if format.together is not None:
        together = format.together(events, arrival)
        found = [old or new for old, new in zip(found, together, strict=True)]
    usages: list[Usage] = []
    indexes: list[int] = []
    rejected: list[Rejected] = []
    for index, item in enumerate(found):
        assert item is not None
        if isinstance(item, Unfit):
            rejected.append(_reject(format, index, raws[index], item))
        else:
            usages.append(item)
            indexes.append(index)
    return Parsed(usages, indexes, rejected)


def _try(format: Format, event: Any, arrival: Arrival) -> Usage | Unfit:
    try:
        return format.usage_of(event, arrival)
    except Unfit as unfit:
        return unfit


def split(text: bytes) -> list[bytes]:
    """The items of a JSON array. Raises Malformed, TooLarge."""
    try:
        return parsing.split(text, "events")
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"the events are not a JSON array: {error}") from error


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, strict=False)


def whole(raw: bytes) -> Any:
    """An event with all its fields, for an answer that shows them. Raises Malformed.

    To be read before the event is charged: a field that nobody looks at may hold a number that no
    reader holds.
    """
    try:
        return _anything.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"the event cannot be read: {error}") from error


# What is kept of an event that cannot be charged -----------------------------------------------


def _reject(format: Format, index: int, raw: bytes, unfit: Unfit) -> Rejected:
    kept = named_fields(raw, format.event)
    return Rejected(
        index,
        _at(kept, format.id_at, 512),
        unfit.cause,
        unfit.detail,
        msgspec.json.encode(kept),
        format.source,
        _at(kept, format.subject_at, 256),
    )


def named_fields(raw: bytes, event: type[msgspec.Struct]) -> Any:
    """Of an event, the fields that its adapter names, where they hold no more than a short value.

    So no prompt is kept, wherever a sender may have put it.
    """
    try:
        value = parsing.read_any(raw)
    except (ValueError, RecursionError):
        return None
    return _keep(value, _info(event))


@functools.cache
def _info(event: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(event)


def _keep(value: Any, info: inspect.Type) -> Any:
    if isinstance(info, inspect.UnionType):
        for part in info.types:
            if isinstance(part, inspect.StructType | inspect.ListType):
                info = part
    if isinstance(info, inspect.StructType) and isinstance(value, dict):
        return {
            field.encode_name: _keep(value[field.encode_name], field.type)
            for field in info.fields
            if field.encode_name in value
        }
    if isinstance(info, inspect.ListType) and isinstance(value, list):
        return [_keep(item, info.item_type) for item in value]
    if isinstance(info, inspect.StructType | inspect.ListType) or isinstance(value, dict | list):
        return None
    return value[:MAX_KEPT_TEXT] if isinstance(value, str) else value


def _at(kept: Any, path: tuple[str, ...], length: int) -> str:
    for name in path:
        kept = kept.get(name) if isinstance(kept, dict) else None
    if not isinstance(kept, str | int):
        return ""
    return str(kept).replace("\0", "")[:length]
