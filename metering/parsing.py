"""From the bytes of a request to usage: what cannot be read at all is refused, the rest is kept.

A body is decoded once, by msgspec, into typed records. Only when some record does not fit is each
looked at alone, so that the good ones are charged and the bad ones named.
"""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import zstandard

from subscriptions.errors import DomainError

MAX_RECORDS = 10_000
MAX_BYTES = 16 * 1024 * 1024
MAX_ATTRIBUTES_BYTES = 4096
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
    attributes: msgspec.Raw | None = None
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


def _gunzip(body: bytes) -> bytes:
    parts: list[bytes] = []
    size = 0
    rest = body
    try:
        while rest:  # a gzip file may have several members
            member = zlib.decompressobj(wbits=31)
            part = member.decompress(rest, MAX_BYTES + 1 - size)
            size += len(part)
            if size > MAX_BYTES:
                raise _too_many_bytes()
            if not member.eof:
                raise Malformed("the gzip body ends too early")
            parts.append(part)
            rest = member.unused_data
    except zlib.error as error:
        raise Malformed("the body is not gzip, though Content-Encoding says so") from error
    if not parts:
        raise Malformed("the gzip body is empty")
    return b"".join(parts)


def _unzstd(body: bytes) -> bytes:
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
            body, read_across_frames=True
        ) as reader:
            unpacked: bytes = reader.read(MAX_BYTES + 1)
    except zstandard.ZstdError as error:
        raise Malformed("the body is not zstd, though Content-Encoding says so") from error
    if not unpacked:
        raise Malformed("the zstd body is empty or ends too early")
    return unpacked


def parse_native(body: bytes) -> Parsed:
    """One object, an array, `{"records": […]}` or NDJSON of native records.

    Raises Malformed where the JSON cannot be read, TooLarge for more than MAX_RECORDS.
    """
    text = body.lstrip()
    if text.startswith(b"["):
        return _parse_array(text)
    if not text.startswith(b"{"):
        raise Malformed("send a JSON object, an array of them, or one a line (NDJSON)")
    try:
        envelope = _envelope.decode(text)
    except UnicodeDecodeError as error:
        raise _not_utf8() from error
    except (msgspec.DecodeError, RecursionError) as error:
        if isinstance(error, msgspec.ValidationError) or b"\n" not in text.strip():
            raise Malformed(f"the body is not JSON: {error}") from error
        return _parse_lines(text)
    if envelope.records is not msgspec.UNSET:
        return _parse_array(bytes(envelope.records))
    return _one_by_one([text.rstrip()], single=True)


def _not_utf8() -> Malformed:
    return Malformed("the body is not UTF-8")


def _parse_array(text: bytes) -> Parsed:
    try:
        usages = _usages.decode(text)
    except UnicodeDecodeError as error:
        raise _not_utf8() from error
    except (msgspec.DecodeError, RecursionError):
        return _one_by_one(_split_array(text))
    if len(usages) > MAX_RECORDS:
        raise _too_many()
    # A NUL can only come escaped or bare; where the whole body has none, no record has.
    nul = b"\\u0000" in text or b"\0" in text
    for usage in usages:
        if check(usage, nul=nul) is not None:
            # Rare: then what was sent is wanted too, and the array is taken apart for it.
            return _one_by_one(_split_array(text))
    return Parsed(usages, range(len(usages)), [])


def _too_many() -> TooLarge:
    return TooLarge(f"a request has at most {MAX_RECORDS} records; send several")


def _split_array(text: bytes) -> list[bytes]:
    try:
        return [bytes(raw) for raw in _raws.decode(text)]
    except UnicodeDecodeError as error:
        raise _not_utf8() from error
    except msgspec.ValidationError as error:
        raise Malformed('"records" must be an array of objects') from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {error}") from error


def _parse_lines(text: bytes) -> Parsed:
    lines = [line for line in text.split(b"\n") if line.strip()]
    return _one_by_one(lines)


def _one_by_one(raws: list[bytes], *, single: bool = False) -> Parsed:
    """Each record alone: good ones become usage, bad ones are named. Unreadable JSON: Malformed."""
    if len(raws) > MAX_RECORDS:
        raise _too_many()
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


def parse_one(index: int, raw: bytes) -> Usage | Rejected:
    """One native record as usage, or the reason why not. Raises Malformed where it is no JSON."""
    try:
        usage = _usage.decode(raw)
    except UnicodeDecodeError as error:
        raise _not_utf8() from error
    except msgspec.ValidationError as error:
        return reject(index, raw, cause_of(raw), str(error))
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"record {index} is not JSON: {error}") from error
    problem = check(usage)
    return usage if problem is None else reject(index, raw, *problem)


def check(usage: Usage, *, nul: bool = True) -> tuple[str, str] | None:
    """Why a typed record cannot be taken, as (cause, detail), or None. Cleans its attributes.

    `nul` False: the caller knows that there is no NUL character.
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
    if not usage.input_tokens and not usage.output_tokens:
        return "no_usage", "all token counts are zero"
    if nul and any(
        "\0" in text for text in (usage.id, usage.subject, usage.model, usage.outcome or "")
    ):
        return "invalid_record", "id, subject, model and outcome cannot hold a NUL character"
    if usage.attributes is not None:
        attributes, problem = _clean_attributes(bytes(usage.attributes))
        if problem:
            return "invalid_record", problem
        usage.attributes = attributes
    return None


def _clean_attributes(raw: bytes) -> tuple[msgspec.Raw | None, str]:
    """(JSON that PostgreSQL takes, or None; the problem, or "")."""
    if len(raw) > MAX_ATTRIBUTES_BYTES:
        return None, f"attributes are at most {MAX_ATTRIBUTES_BYTES} bytes of JSON"
    try:
        value = _anything.decode(raw)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        return None, f"attributes cannot be read: {error}"
    if value is None:
        return None, ""
    if not isinstance(value, dict):
        return None, "attributes must be a JSON object"
    clean = msgspec.json.encode({k: v for k, v in value.items() if k not in PROMPT_KEYS})
    if b"\\u0000" in clean:
        return None, "attributes cannot contain a NUL character"
    return msgspec.Raw(clean), ""


def cause_of(raw: bytes) -> str:
    """`no_usage` for an object that names no token count at all, else `invalid_record`."""
    try:
        value = _anything.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return "invalid_record"
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
    try:
        value = _anything.decode(raw)
    except (msgspec.DecodeError, RecursionError, ValueError):
        value = None
    named = value if isinstance(value, dict) else {}
    return Rejected(
        index,
        _text(named.get("id"), 512),
        cause,
        detail,
        without_prompts(value, raw),
        source,
        _text(named.get("subject"), 256),
    )


def without_prompts(value: Any, raw: bytes) -> bytes:
    """The JSON as it was sent; taken apart only where it holds a key that carries prompts."""
    if isinstance(value, dict) and PROMPT_KEYS & value.keys():
        return msgspec.json.encode({k: v for k, v in value.items() if k not in PROMPT_KEYS})
    return raw


def _text(value: Any, length: int) -> str:
    """A name fit for a text column, whatever was sent in its place."""
    if not isinstance(value, str | int | float):
        return ""
    return str(value).replace("\0", "")[:length]


def native_json(usage: Usage) -> bytes:
    """The usage as a native record, to be charged again from the quarantine."""
    record = {field: getattr(usage, field) for field in Usage.__struct_fields__}
    return msgspec.json.encode({k: v for k, v in record.items() if v is not None})
