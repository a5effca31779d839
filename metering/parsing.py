"""From the bytes of a request to usage: what cannot be read at all is refused, the rest is kept.

A body is decoded once, by msgspec, into typed records. Only when some record does not fit is each
looked at alone, so that the good ones are charged and the bad ones named.
"""

from __future__ import annotations

import datetime as dt
import functools
import io
import json
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

import msgspec
import zstandard

from subscriptions.errors import DomainError, Invalid

T = TypeVar("T")

MAX_RECORDS = 10_000
MAX_BYTES = 16 * 1024 * 1024
MAX_ATTRIBUTES_BYTES = 4096
# JSON with more values than this takes more memory than anything that is usage; a body that is
# small cannot hold so many.
MAX_CONTAINERS, MAX_COMMAS = 1_000_000, 2_000_000
_SMALL = 1024 * 1024
MAX_DIGITS = 18  # of a gateway's number of a record: such fit the database
# So few that what they unpack to is never much: 32 MiB at the most.
_PACKED_AT_ONCE = 1024
# Keys under which senders put prompts and completions: never stored, not even in quarantine.
PROMPT_KEYS = frozenset(
    {
        *("messages", "prompt", "prompts", "completion", "completions", "choices", "content"),
        *("contents", "text", "input", "inputs", "output", "outputs", "response", "responses"),
        *("request", "body"),
    }
)


# What lies beyond is in no operator's window, and near the calendar's ends zones overflow.
EARLIEST = dt.datetime(1971, 1, 1, tzinfo=dt.UTC)
LATEST = dt.datetime(8999, 1, 1, tzinfo=dt.UTC)

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Malformed(DomainError):
    """The body cannot be read: nothing of it was taken."""

    status = 400
    cause = "malformed"


class TooLarge(DomainError):
    status = 413
    cause = "too_large"


class Usage(msgspec.Struct, gc=False):
    """What one request used: the native record, as `POST /api/v1/usage-records` takes it.

    Totals are inclusive: input holds cached and cache-write tokens, output holds reasoning; what
    has passed `check` can be split into the exclusive classes of `classes`. Every sender's format
    is turned into this. Not frozen: a key's subject replaces the one sent.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    subject: Name
    model: Name
    occurred_at: Annotated[dt.datetime, msgspec.Meta(tz=True)]
    input_tokens: Count
    output_tokens: Count
    cached_input_tokens: Count = 0
    cache_write_tokens: Count = 0
    reasoning_tokens: Count = 0
    outcome: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    # Not `| None`: msgspec takes no raw value for that.
    attributes: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    # The sender's own namespace of ids, empty for native records; never read from the wire.
    source: ClassVar[str] = ""

    def classes(self) -> tuple[int, int, int, int, int]:
        """Tokens by exclusive class: uncached and cached input, cache write, output, reasoning."""
        cached, written, reasoning = (
            self.cached_input_tokens,
            self.cache_write_tokens,
            self.reasoning_tokens,
        )
        uncached = self.input_tokens - cached - written
        return uncached, cached, written, self.output_tokens - reasoning, reasoning


class SourcedUsage(Usage, kw_only=True, gc=False):
    """Usage of a sender that has namespaces of ids: with it, identity is (gateway, source, id)."""

    source: str  # type: ignore[misc]  # an instance's own, where the class has one for all


class Rejected(msgspec.Struct, frozen=True):
    """A record that cannot be charged, and why; goes to the quarantine."""

    index: int
    id: str
    cause: str
    detail: str
    payload: bytes
    source: str = ""
    subject: str = ""


class Parsed(msgspec.Struct, frozen=True):
    """A request's usage; `indexes` are the places in the request. `single`: it was one object."""

    usages: list[Usage]
    indexes: Sequence[int]
    rejected: list[Rejected]
    single: bool = False


class _Envelope(msgspec.Struct):
    records: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_usages = msgspec.json.Decoder(list[Usage], strict=False)
_usage = msgspec.json.Decoder(Usage, strict=False)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_raw = msgspec.json.Decoder(msgspec.Raw)
_envelope = msgspec.json.Decoder(_Envelope)
_anything = msgspec.json.Decoder()


def unpack(body: bytes, encoding: str) -> bytes:
    """The body as sent before `Content-Encoding`; never grows past MAX_BYTES.

    Raises Malformed for a body that is not what it says, TooLarge past the limit.
    """
    match encoding.strip().lower():
        case "" | "identity":
            unpacked = body
        case "gzip" | "x-gzip":
            unpacked = _gunzip(body)
        case "zstd":
            unpacked = _unzstd(body)
        case other:
            raise Malformed(f"Content-Encoding {other!r} is not known; use gzip, zstd or none")
    if len(unpacked) > MAX_BYTES:
        raise _too_many_bytes()
    return unpacked


def _too_many_bytes() -> TooLarge:
    return TooLarge(f"a body has at most {MAX_BYTES} bytes unpacked; send several")


class _Member(Protocol):
    """A gzip member or zstd frame that is being unpacked."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _gunzip(body: bytes) -> bytes:
    try:
        return _unpack_members(body, lambda: zlib.decompressobj(wbits=31), "gzip")
    except zlib.error as error:
        raise Malformed("the body is not gzip, though Content-Encoding says so") from error


def _unzstd(body: bytes) -> bytes:
    frames = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    try:
        return _unpack_members(body, frames.decompressobj, "zstd")
    except zstandard.ZstdError as error:
        raise Malformed("the body is not zstd, though Content-Encoding says so") from error


def _unpack_members(body: bytes, begin: Callable[[], _Member], name: str) -> bytes:
    """All members of a body, each whole: a body cut short must not pass for a shorter one."""
    parts: list[bytes] = []
    size = place = members = 0
    while place < len(body):
        if members == MAX_RECORDS:
            raise TooLarge(f"a body has at most {MAX_RECORDS} {name} members; send several")
        member = begin()
        members += 1
        while not member.eof:
            chunk = body[place : place + _PACKED_AT_ONCE]
            if not chunk:
                raise Malformed(f"the {name} body ends too early")
            part = member.decompress(chunk)
            place += len(chunk) - len(member.unused_data)
            size += len(part)
            if size > MAX_BYTES:
                raise _too_many_bytes()
            parts.append(part)
    if not members:
        raise Malformed(f"the {name} body is empty")
    return b"".join(parts)


def parse_object(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A body that is one JSON object.

    Raises Malformed for what cannot be read, a number beyond every float among it, and Invalid for
    what breaks a rule.
    """
    try:
        body.decode()  # msgspec looks only at the text that it hands out
        if not body.lstrip().startswith(b"{"):
            raise Malformed("send one JSON object")
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            _raw.decode(body)  # what comes after the value that breaks a rule is JSON too
            if "Number out of range" in str(error):
                raise Malformed(f"the body holds a number that no reader holds: {error}") from error
            raise Invalid(str(error)) from error
    except UnicodeDecodeError as error:
        raise Malformed(f"the body is not UTF-8 (byte {error.start})") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {error}") from error


def parse_native(body: bytes) -> Parsed:
    """One object, an array, `{"records": […]}` or NDJSON of native records.

    Raises Malformed where the JSON cannot be read, TooLarge for more than MAX_RECORDS, and for what
    would take too much memory to be taken apart.
    """
    try:
        body.decode()  # msgspec looks only at the text that it hands out
    except UnicodeDecodeError as error:
        raise Malformed(f"the body is not UTF-8 (byte {error.start})") from error
    text = body.strip()
    if text.startswith(b"["):
        return _parse_array(text)
    if not text.startswith(b"{"):
        raise Malformed("send a JSON object, an array of them, or one a line (NDJSON)")
    try:
        envelope = _envelope.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return _parse_unreadable(text, error)
    if envelope.records is not msgspec.UNSET:
        return _parse_array(bytes(envelope.records))
    require_bounded(text)
    return _one_by_one([text], single=True)


def _parse_unreadable(text: bytes, error: Exception) -> Parsed:
    """What begins like an object and is not one to msgspec: lines, or one with half a character."""
    if isinstance(error, msgspec.ValidationError):
        raise Malformed(f"the body is not JSON: {error}") from error
    require_bounded(text)
    whole = read_halves(text)
    if isinstance(whole, dict):
        if "records" in whole:
            return _one_by_one(_split_list(whole["records"]))
        return _one_by_one([text], single=True)
    if b"\n" not in text:
        raise Malformed(f"the body is not JSON: {error}") from error
    return _one_by_one(lines_of(text))


def _parse_array(text: bytes) -> Parsed:
    try:
        usages = _usages.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return _one_by_one(_split_array(text))
    if len(usages) > MAX_RECORDS:
        raise too_many()
    # A NUL can only come escaped or bare; where the whole body has none, no record has.
    nul = b"\0" in text or (b"\\" in text and b"\\u0000" in text)
    for usage in usages:
        if check(usage, nul=nul) is not None:
            # Rare: then what was sent is wanted too, and the array is taken apart for it.
            return _one_by_one(_split_array(text))
    return Parsed(usages, range(len(usages)), [])


def too_many(named: str = "records") -> TooLarge:
    return TooLarge(f"a request has at most {MAX_RECORDS} {named}; send several")


def require_bounded(text: bytes) -> None:
    """Before JSON becomes values in memory, of which each takes fifty bytes. Raises TooLarge."""
    if len(text) > _SMALL and (
        text.count(b"{") + text.count(b"[") > MAX_CONTAINERS or text.count(b",") > MAX_COMMAS
    ):
        raise TooLarge("the body holds too many values; send several")


@functools.cache
def _places() -> msgspec.json.Decoder[Any]:
    """For an array of at most MAX_RECORDS values; it stops at one more, where a list would not."""
    places = [(f"_{n}", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for n in range(MAX_RECORDS)]
    return msgspec.json.Decoder(
        msgspec.defstruct("Places", places, array_like=True, forbid_unknown_fields=True)
    )


def split(text: bytes, named: str = "records") -> list[bytes]:
    """The values of a JSON array, each as it was sent.

    Raises TooLarge for more than MAX_RECORDS, which are not read; else what msgspec raises.
    """
    if text.count(b",") < MAX_RECORDS:
        return [bytes(raw) for raw in _raws.decode(text)]
    try:
        places = _places().decode(text)
    except msgspec.ValidationError as error:
        if text.startswith(b"["):
            raise too_many(named) from error
        raise
    return [bytes(raw) for raw in msgspec.structs.astuple(places) if raw is not msgspec.UNSET]


def lines_of(text: bytes, named: str = "records") -> list[bytes]:
    """The lines of NDJSON that hold something. Raises TooLarge for more than MAX_RECORDS."""
    lines: list[bytes] = []
    for line in io.BytesIO(text):
        if line.strip():
            lines.append(line.strip())
            if len(lines) > MAX_RECORDS:
                raise too_many(named)
    return lines


def _split_array(text: bytes) -> list[bytes]:
    require_bounded(text)
    try:
        return split(text)
    except msgspec.ValidationError as error:
        raise Malformed('"records" must be an array of objects') from error
    except (msgspec.DecodeError, RecursionError) as error:
        whole = read_halves(text)
        if whole is None:
            raise Malformed(f"the body is not JSON: {error}") from error
        return _split_list(whole)


def _split_list(whole: Any) -> list[bytes]:
    """The records of an array that `read_halves` has read, each as JSON again."""
    if not isinstance(whole, list):
        raise Malformed('"records" must be an array of objects')
    if len(whole) > MAX_RECORDS:
        raise too_many()
    return [json.dumps(item).encode() for item in whole]


_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def read_halves(text: bytes) -> Any:
    """JSON that msgspec refuses for a string with half of a surrogate pair; None if it is none."""
    if not _HALF.search(text):
        return None
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _one_by_one(raws: list[bytes], *, single: bool = False) -> Parsed:
    """Each record alone: good ones become usage, bad ones are named. Unreadable JSON: Malformed."""
    usages: list[Usage] = []
    indexes: list[int] = []
    rejected: list[Rejected] = []
    for index, raw in enumerate(raws):
        item = parse_one(index, raw)
        if isinstance(item, Rejected):
            rejected.append(item)
        else:
            usages.append(item)
            indexes.append(index)
    return Parsed(usages, indexes, rejected, single)


def parse_one(index: int, raw: bytes, *, empty: bool = False) -> Usage | Rejected:
    """One native record as usage, or the reason why not. Raises Malformed where it is no JSON.

    `empty`: it may hold no tokens.
    """
    try:
        usage = _usage.decode(raw)
    except msgspec.ValidationError as error:
        return reject(index, raw, cause_of(raw), str(error))
    except (msgspec.DecodeError, RecursionError) as error:
        if read_halves(raw) is None:
            raise Malformed(f"record {index} is not JSON: {error}") from error
        return reject(index, raw, "invalid_record", "a string holds half of a surrogate pair")
    problem = check(usage, empty=empty)
    return usage if problem is None else reject(index, raw, *problem)


def check(usage: Usage, *, nul: bool = True, empty: bool = False) -> tuple[str, str] | None:
    """Why a typed record cannot be taken, as (cause, detail), or None. Cleans its attributes.

    `nul` False: the caller knows that there is no NUL character. `empty`: it may hold no tokens.
    """
    if usage.cached_input_tokens + usage.cache_write_tokens > usage.input_tokens:
        return (
            "invalid_record",
            "cached_input_tokens + cache_write_tokens exceed input_tokens, which holds both",
        )
    if usage.reasoning_tokens > usage.output_tokens:
        return "invalid_record", "reasoning_tokens exceed output_tokens, which holds them"
    if not EARLIEST <= usage.occurred_at < LATEST:
        return "out_of_window", "occurred_at lies outside of every clock's window"
    if not empty and not usage.input_tokens and not usage.output_tokens:
        return "no_usage", "all token counts are zero"
    if nul and any(
        "\0" in text for text in (usage.id, usage.subject, usage.model, usage.outcome or "")
    ):
        return "invalid_record", "id, subject, model and outcome cannot hold a NUL character"
    if usage.attributes is not msgspec.UNSET:
        usage.attributes, problem = _clean_attributes(bytes(usage.attributes))
        if problem:
            return "invalid_record", problem
    return None


def _clean_attributes(raw: bytes) -> tuple[msgspec.Raw | msgspec.UnsetType, str]:
    """(JSON that PostgreSQL takes, or unset; the problem, or "")."""
    if len(raw) > MAX_ATTRIBUTES_BYTES:
        return msgspec.UNSET, f"attributes are at most {MAX_ATTRIBUTES_BYTES} bytes of JSON"
    try:
        value = _anything.decode(raw)
        if value is None:
            return msgspec.UNSET, ""
        if not isinstance(value, dict):
            return msgspec.UNSET, "attributes must be a JSON object"
        drop_prompts(value)
        clean = msgspec.json.encode(value)
    except (RecursionError, ValueError) as error:
        return msgspec.UNSET, f"attributes cannot be read: {error}"
    if b"\\u0000" in clean:
        return msgspec.UNSET, "attributes cannot contain a NUL character"
    return msgspec.Raw(clean), ""


def cause_of(raw: bytes) -> str:
    """`no_usage` for an object that names no token count at all, else `invalid_record`."""
    value = read_any(raw)
    if (
        isinstance(value, dict)
        and {"id", "subject", "model", "occurred_at"} <= value.keys()
        and value.get("input_tokens") is None
        and value.get("output_tokens") is None
    ):
        return "no_usage"
    return "invalid_record"


def reject(index: int, raw: bytes, cause: str, detail: str, source: str = "") -> Rejected:
    """A rejection of a record as it was sent, with what can be read of its names."""
    value = read_any(raw)
    named = value if isinstance(value, dict) else {}
    return Rejected(
        index,
        _text(named.get("id"), 512),
        cause,
        detail,
        json.dumps(value).encode() if drop_prompts(value) else raw,
        source,
        _text(named.get("subject"), 256),
    )


def read_any(raw: bytes) -> Any:
    """The JSON value, also one with numbers or characters that msgspec does not take."""
    try:
        return _anything.decode(raw)
    except msgspec.DecodeError:
        # A number too large for either stays as it was written.
        return json.loads(raw, parse_int=str, parse_float=str)


def drop_prompts(value: Any) -> bool:
    """Take the keys that carry prompts out of a JSON value, however deep; were there any?"""
    dropped = False
    inside = [value]
    while inside:
        one = inside.pop()
        if isinstance(one, dict):
            for key in PROMPT_KEYS & one.keys():
                del one[key]
                dropped = True
            inside.extend(one.values())
        elif isinstance(one, list):
            inside.extend(one)
    return dropped


def _text(value: Any, length: int) -> str:
    """A name fit for a text column, whatever was sent in its place."""
    if not isinstance(value, str | int | float):
        return ""
    return str(value).encode("utf-8", "replace").decode().replace("\0", "")[:length]


def native_json(usage: Usage) -> bytes:
    """The usage as a native record, to be charged again from the quarantine."""
    record = {field: getattr(usage, field) for field in Usage.__struct_fields__}
    return msgspec.json.encode(
        {k: v for k, v in record.items() if v is not None and v is not msgspec.UNSET}
    )
