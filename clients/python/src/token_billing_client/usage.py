"""A usage record, and what the platform answers to a batch of them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Self
from uuid import uuid4

import httpx

from token_billing_client.errors import Refused

# What the platform takes at once, unpacked.
MAX_RECORDS = 10_000
MAX_BYTES = 16 * 1024 * 1024


def _new_id() -> str:
    return uuid4().hex


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One request to a model. Its `id` makes it chargeable once, however often it is sent.

    `input_tokens` includes cached and cache-write tokens, `output_tokens` reasoning. Without an
    `id` of the gateway's own it gets a new one, without `occurred_at` it is of now. Prompts and
    completions have no place in `attributes`. `sequence` is the gateway's own number of it: a gap
    in these names what was lost; it travels among the attributes.
    """

    subject: str
    model: str
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    id: str = field(default_factory=_new_id)
    occurred_at: dt.datetime = field(default_factory=_now)
    outcome: str | None = None
    attributes: Mapping[str, Any] | None = None
    sequence: int | None = None

    def __post_init__(self) -> None:
        if self.occurred_at.tzinfo is None:
            raise ValueError("occurred_at needs an offset: datetime.now(UTC), not datetime.now()")

    def to_json(self) -> bytes:
        """The record as it travels, on one line. Raises ValueError, TypeError for attributes that
        JSON cannot hold."""
        record: dict[str, Any] = {
            "id": self.id,
            "subject": self.subject,
            "model": self.model,
            "occurred_at": self.occurred_at.isoformat(),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
        }
        for name in ("cached_input_tokens", "cache_write_tokens", "reasoning_tokens"):
            if count := getattr(self, name):
                record[name] = count
        if self.outcome is not None:
            record["outcome"] = self.outcome
        if self.attributes is not None:
            record["attributes"] = dict(self.attributes)
        if self.sequence is not None:
            record["attributes"] = {**record.get("attributes", {}), "sequence": self.sequence}
        return json.dumps(record, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that was not charged, and why. The platform keeps it under `quarantine_id`, to be
    charged when the cause is mended: it need not be sent again."""

    index: int
    id: str
    cause: str
    detail: str = ""
    quarantine_id: str = ""


@dataclass(frozen=True, slots=True)
class Charged:
    """What the platform answered to a batch, after its commit.

    `duplicates` were charged before: by a try whose answer was lost, or by another sender.
    """

    accepted: int
    duplicates: int
    rejected: tuple[Rejection, ...]
    units: Decimal
    batch: str = ""

    @classmethod
    def read(cls, response: httpx.Response) -> Self:
        """Raises Refused where it is not the platform that answered."""
        try:
            said = response.json()
            return cls(
                accepted=int(said["accepted"]),
                duplicates=int(said["duplicates"]),
                rejected=tuple(
                    Rejection(
                        int(one.get("index", 0)),
                        str(one["id"]),
                        str(one["cause"]),
                        str(one.get("detail", "")),
                        str(one.get("quarantine_id", "")),
                    )
                    for one in said["rejected"]
                ),
                units=Decimal(said["units"]),
                batch=str(said.get("batch", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError, InvalidOperation) as error:
            raise Refused(
                f"{response.url} does not answer like the platform: {response.text[:200]!r}",
                status=response.status_code,
            ) from error
