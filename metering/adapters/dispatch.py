"""Whose format a body is: told by its Content-Type and top-level keys, never guessed.

Known on one address are those whose keys are their own. A body with the keys of two is refused,
one with those of none is of a format that is not known.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence, Set
from typing import NamedTuple, TypeVar

import msgspec

from metering.adapters import apisix, higress, kong, lago, litellm, openmeter, portkey
from metering.adapters.items import Arrival
from metering.adapters.reading import Format, read, read_array, split
from metering.parsing import Malformed, Parsed, lines_of, read_halves, require_bounded
from subscriptions.errors import DomainError

KNOWN = (
    "OpenMeter (a CloudEvent with `specversion`, or an array of them)",
    'Lago (`{"event": …}` or `{"events": […]}`)',
    "LiteLLM generic_api (StandardLoggingPayload with `call_type`: one, an array, or one a line)",
    "Kong http-log (with `ai`), APISIX http-logger (with `llm_summary`), Higress (with `ai_log`),"
    " Portkey (with `provider`, `request` and `response.json`)",
)
CLOUD_EVENTS = frozenset({"application/cloudevents+json", "application/cloudevents-batch+json"})
JSON_TYPES = frozenset(
    {
        *("", "application/json", "text/json", "text/plain"),
        *("application/x-ndjson", "application/ndjson", "application/jsonl"),
        *("application/json-lines", "application/x-jsonlines"),
        *CLOUD_EVENTS,
    }
)


class UnknownFormat(DomainError):
    status = 415
    cause = "unknown_format"


class Ambiguous(DomainError):
    """A body that fits two formats: which one is meant must not be guessed."""

    status = 400
    cause = "ambiguous_format"


class Letter(NamedTuple):
    """A body whose format is known: its events, as an array's text or one by one.

    `single`: it was one object and not a list of them.
    """

    format: Format
    array: bytes | None
    items: Sequence[bytes] = ()
    single: bool = False

    def read(self, arrival: Arrival) -> Parsed:
        """The usage of its events. Raises Malformed, TooLarge."""
        if self.array is not None:
            return read_array(self.format, self.array, arrival)
        return read(self.format, self.items, arrival)

    def raws(self) -> Sequence[bytes]:
        """Its events as they came."""
        return self.items if self.array is None else split(self.array)


def media_type_of(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def require(content_type: str, types: Set[str], known: Iterable[str] = KNOWN) -> str:
    """The media type, where it is one of these. Raises UnknownFormat."""
    media_type = media_type_of(content_type)
    if media_type not in types:
        raise unknown(known, f"{media_type or 'no media type'} is not taken here")
    return media_type


def unknown(
    known: Iterable[str], why: str = "the body is of no format known here"
) -> UnknownFormat:
    return UnknownFormat(f"{why}; known here: {'; '.join(known)}")


def text_of(body: bytes) -> bytes:
    """The body's text, if it is UTF-8 and of bounded size in memory. Raises Malformed, TooLarge."""
    try:
        body.decode()  # msgspec looks only at the text that it hands out
    except UnicodeDecodeError as error:
        raise Malformed(f"the body is not UTF-8 (byte {error.start})") from error
    require_bounded(body)
    return body.strip()


def open_letter(body: bytes, content_type: str) -> Letter:
    """Whose body it is, and its events.

    Raises Malformed, Ambiguous, UnknownFormat, TooLarge.
    """
    cloud_event = require(content_type, JSON_TYPES) in CLOUD_EVENTS
    text = text_of(body)
    if not text.startswith((b"{", b"[")):
        raise Malformed("send a JSON object, an array of them, or one a line (NDJSON)")
    return reading(text, lambda text: _open(text, cloud_event=cloud_event))


def letter_of(format: Format, body: bytes, content_type: str, *, within: str = "") -> Letter:
    """The events of a body at an address that has one format.

    `within` is the key of the object that holds an array of them; without it the body is one event.
    Raises Malformed, UnknownFormat, TooLarge.
    """
    require(content_type, JSON_TYPES, [f"{format.name} in JSON"])
    return reading(text_of(body), lambda text: _letter_of(format, text, within))


def _letter_of(format: Format, text: bytes, within: str) -> Letter:
    members = _members.decode(text)
    if not within:
        return Letter(format, None, [text], single=True)
    array = bytes(members.get(within, b""))
    if not array.startswith(b"["):
        raise Malformed(f'"{within}" must be an array of events')
    return Letter(format, array)


def array_of(format: Format, body: bytes, content_type: str) -> Letter:
    """The events of a body that is an array of them, at an address that has one format.

    Raises Malformed, UnknownFormat, TooLarge.
    """
    require(content_type, JSON_TYPES, [f"{format.name} in JSON"])
    return reading(text_of(body), lambda text: _array_of(format, text))


def _array_of(format: Format, text: bytes) -> Letter:
    _items.decode(text)
    return Letter(format, text)


Read = TypeVar("Read")


def reading(text: bytes, read: Callable[[bytes], Read]) -> Read:
    """What `read` makes of JSON text, also of such as holds halves of characters.

    Raises Malformed where msgspec cannot read it.
    """
    try:
        return read(text)
    except msgspec.ValidationError as error:
        raise Malformed(f"the body is not of this format: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        mended = _mend(text)
        if mended is None:
            raise Malformed(f"the body is not JSON: {error}") from error
    try:
        return read(mended)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {error}") from error


def _mend(text: bytes) -> bytes | None:
    """JSON in which strings held halves of surrogate pairs, with a `?` in the place of each.

    A prompt that was cut in the middle of a character must not hold up the usage beside it.
    """
    whole = read_halves(text)
    if whole is not None:
        return _dump(whole)
    mended = bytearray()
    found = False
    for line in io.BytesIO(text):
        whole = read_halves(line)
        found = found or whole is not None
        mended += line if whole is None else _dump(whole) + b"\n"
    return bytes(mended) if found else None


def _dump(whole: object) -> bytes:
    return json.dumps(whole, ensure_ascii=False).encode("utf-8", "replace")


# Top-level keys -----------------------------------------------------------------------------------

Maybe = msgspec.Raw | msgspec.UnsetType


class _Keys(msgspec.Struct, gc=False):
    """The keys that tell formats apart."""

    specversion: Maybe = msgspec.UNSET
    event: Maybe = msgspec.UNSET
    events: Maybe = msgspec.UNSET
    call_type: Maybe = msgspec.UNSET
    ai: Maybe = msgspec.UNSET
    llm_summary: Maybe = msgspec.UNSET
    ai_log: Maybe = msgspec.UNSET
    provider: Maybe = msgspec.UNSET
    request: Maybe = msgspec.UNSET
    response: Maybe = msgspec.UNSET


class _Response(msgspec.Struct, gc=False):
    json: Maybe = msgspec.UNSET


_keys = msgspec.json.Decoder(_Keys)
_all_keys = msgspec.json.Decoder(list[_Keys])
_response = msgspec.json.Decoder(_Response)
_items = msgspec.json.Decoder(list[msgspec.Raw])
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw = msgspec.json.Decoder(msgspec.Raw)


def _formats_of(keys: _Keys) -> list[Format]:
    """The formats of which an object has the keys."""
    found = []
    if keys.specversion is not msgspec.UNSET:
        found.append(openmeter.FORMAT)
    if keys.call_type is not msgspec.UNSET:
        found.append(litellm.FORMAT)
    if _begins(keys.event, b"{") or _begins(keys.events, b"["):
        found.append(lago.FORMAT)
    if _begins(keys.ai, b"{"):
        found.append(kong.FORMAT)
    if _begins(keys.llm_summary, b"{"):
        found.append(apisix.FORMAT)
    if _begins(keys.ai_log, b"{") or _begins(keys.ai_log, b'"'):
        found.append(higress.FORMAT)
    if (
        keys.provider is not msgspec.UNSET
        and keys.request is not msgspec.UNSET
        and _begins(keys.response, b"{")
        and _response.decode(keys.response).json is not msgspec.UNSET  # type: ignore[arg-type]
    ):
        found.append(portkey.FORMAT)
    return found


def _begins(raw: Maybe, sign: bytes) -> bool:
    return raw is not msgspec.UNSET and bytes(raw).startswith(sign)


def _open(text: bytes, *, cloud_event: bool) -> Letter:
    found = {openmeter.FORMAT.name: openmeter.FORMAT} if cloud_event else {}
    items: Sequence[bytes] = ()
    if text.startswith(b"["):
        array = True
        every = _keys_of_array(text)
    else:
        array = False
        items, every = _keys_of_objects(text)
    for keys in every:
        for format in _formats_of(keys):
            found[format.name] = format
    if len(found) > 1:
        raise Ambiguous(f"the body fits {' and '.join(sorted(found))}; send one format at a time")
    if not found:
        raise unknown(KNOWN)
    [format] = found.values()
    if format is not lago.FORMAT:
        single = not array and len(items) == 1
        return Letter(format, text if array else None, items, single)
    if array or len(every) != 1:
        raise unknown(KNOWN, "Lago's events come in one object")
    [keys] = every
    if keys.event is not msgspec.UNSET and keys.events is not msgspec.UNSET:
        raise Ambiguous("the body has both `event` and `events`; send one of them")
    if keys.event is not msgspec.UNSET:
        return Letter(format, None, [bytes(keys.event)], single=True)
    assert keys.events is not msgspec.UNSET
    return Letter(format, bytes(keys.events))


def _keys_of_array(text: bytes) -> list[_Keys]:
    try:
        return _all_keys.decode(text)
    except msgspec.ValidationError:  # Not all are objects.
        return [_keys.decode(raw) for raw in split(text) if raw.startswith(b"{")]


def _keys_of_objects(text: bytes) -> tuple[list[bytes], list[_Keys]]:
    """One object, or one a line; and the keys of each."""
    try:
        return [text], [_keys.decode(text)]
    except msgspec.DecodeError:
        if b"\n" not in text:
            raise
    lines = lines_of(text, "events")
    for line in lines:
        if not line.startswith(b"{"):
            _raw.decode(line)
    return lines, [_keys.decode(line) for line in lines if line.startswith(b"{")]
