"""Autumn: one call in exclusive pools, at the top or in `properties`.

`input_tokens` hold no cached ones and `output_tokens` no reasoning; audio has pools of its own and
counts as input and output. `timestamp` is in milliseconds. Without an `idempotency_key`, in the
body or as header, the id is made up.
"""

from __future__ import annotations

import msgspec

from metering.adapters.items import (
    Arrival,
    Counts,
    MaybeCount,
    MaybeId,
    Milliseconds,
    Unfit,
    first,
    instant_of,
    usage,
)
from metering.adapters.reading import Format
from metering.parsing import Usage

SOURCE = "autumn"


class Pools(msgspec.Struct, gc=False):
    model_id: str | None = None
    model: str | None = None
    input_tokens: MaybeCount = None
    output_tokens: MaybeCount = None
    cache_read_tokens: MaybeCount = None
    cache_write_tokens: MaybeCount = None
    reasoning_tokens: MaybeCount = None
    audio_input_tokens: MaybeCount = None
    audio_output_tokens: MaybeCount = None

    def there(self) -> bool:
        return any(
            count is not None
            for count in (
                self.input_tokens,
                self.output_tokens,
                self.cache_read_tokens,
                self.cache_write_tokens,
                self.reasoning_tokens,
                self.audio_input_tokens,
                self.audio_output_tokens,
            )
        )


class Event(Pools, gc=False):
    customer_id: MaybeId = None
    entity_id: MaybeId = None
    feature_id: str | None = None
    event_name: str | None = None
    idempotency_key: MaybeId = None
    timestamp: Milliseconds | None = None
    properties: Pools | None = None


def usage_of(event: Event, arrival: Arrival) -> Usage:
    pools: Pools = event
    if event.properties is not None and event.properties.there():
        if event.there():
            raise Unfit("invalid_record", "tokens are counted at the top and in properties")
        pools = event.properties
    if not pools.there():
        raise Unfit("no_usage", "the event counts no tokens")
    return usage(
        arrival,
        _counts(pools),
        source=SOURCE,
        id=first(event.idempotency_key, arrival.key) or arrival.new_id(),
        subject=event.customer_id,
        model=first(event.model_id, event.model, pools.model_id, pools.model),
        at=instant_of(event.timestamp),
        random=not first(event.idempotency_key, arrival.key),
    )


def _counts(pools: Pools) -> Counts:
    cached, written = pools.cache_read_tokens or 0, pools.cache_write_tokens or 0
    reasoning = pools.reasoning_tokens or 0
    return Counts(
        (pools.input_tokens or 0) + cached + written + (pools.audio_input_tokens or 0),
        (pools.output_tokens or 0) + reasoning + (pools.audio_output_tokens or 0),
        cached,
        written,
        reasoning,
    )


FORMAT = Format("Autumn", SOURCE, Event, usage_of, ("idempotency_key",), ("customer_id",))
