"""A gateway's own totals of a window, and what the platform answers to them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx

from token_billing_client.errors import Refused
from token_billing_client.usage import Usage


@dataclass(frozen=True, slots=True)
class Totals:
    """What the records of `[start, end)` hold, counted by the gateway itself.

    `numbers` are the first and the last `sequence` of the window, where it numbers its records.
    """

    start: dt.datetime
    end: dt.datetime
    requests: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    numbers: tuple[int, int] | None = None

    @classmethod
    def of(cls, usages: Iterable[Usage], *, start: dt.datetime, end: dt.datetime) -> Self:
        """The totals of those that happened in the window."""
        inside = [usage for usage in usages if start <= usage.occurred_at < end]
        numbers = [usage.sequence for usage in inside if usage.sequence is not None]
        return cls(
            start,
            end,
            len(inside),
            sum(usage.input_tokens for usage in inside),
            sum(usage.output_tokens for usage in inside),
            sum(usage.cached_input_tokens for usage in inside),
            sum(usage.cache_write_tokens for usage in inside),
            sum(usage.reasoning_tokens for usage in inside),
            (min(numbers), max(numbers)) if numbers else None,
        )

    def to_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "window_start": self.start.isoformat(),
            "window_end": self.end.isoformat(),
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            # The spool sends native records.
            "source": "",
        }
        for name in ("cached_input_tokens", "cache_write_tokens", "reasoning_tokens"):
            if (count := getattr(self, name)) is not None:
                said[name] = count
        if self.numbers is not None:
            said["sequences"] = [{"first": self.numbers[0], "last": self.numbers[1]}]
        return said


@dataclass(frozen=True, slots=True)
class Window:
    """What the platform knows of a window: `open` (being compared), `differs` or `closed`.

    `difference` is what the gateway counted less what was charged. `said` is the whole answer.
    """

    start: dt.datetime
    end: dt.datetime
    state: str
    difference: Mapping[str, int | None]
    missing: tuple[tuple[int, int], ...]
    wants_all: bool
    said: Mapping[str, Any]

    def wants(self, usage: Usage) -> bool:
        """Whether the platform asks for this record again; `record` it then, with the same id."""
        return self._wants(usage.occurred_at, usage.sequence)

    def wants_sent(self, record: Mapping[str, Any]) -> bool:
        """The same of a record as it travelled."""
        number = (record.get("attributes") or {}).get("sequence")
        return self._wants(dt.datetime.fromisoformat(record["occurred_at"]), number)

    def _wants(self, occurred_at: dt.datetime, number: int | None) -> bool:
        if self.wants_all:
            return self.start <= occurred_at < self.end
        return number is not None and any(a <= number <= b for a, b in self.missing)

    @classmethod
    def read(cls, response: httpx.Response) -> Self:
        """Raises Refused where it is not the platform that answered."""
        try:
            said = response.json()
            resend = said["resend"] or {"whole_window": False, "ranges": []}
            return cls(
                dt.datetime.fromisoformat(said["window_start"]),
                dt.datetime.fromisoformat(said["window_end"]),
                said["state"],
                said["difference"] or {},
                tuple((int(one["first"]), int(one["last"])) for one in resend["ranges"]),
                bool(resend["whole_window"]),
                said,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(
                f"{response.url} does not answer like the platform: {response.text[:200]!r}",
                status=response.status_code,
            ) from error
