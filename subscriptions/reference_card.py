"""Weights for a rate card, from the prices that model vendors publish.

A unit is worth one uncached input token of the reference model; every other weight is a price
relative to that one. The reference is `deepseek/deepseek-v3.2`: an open model that carriers run
themselves, priced near the middle of the list for input, and one of those whose vendor publishes
a flat price for each class, so that nothing about the unit itself is guessed. (qwen-plus, the
other candidate, has no published price for cached input.) An allowance of 10 million units is
then 10 million input tokens of an everyday model; a dear model burns it faster, a small one
slower.

    class         weight = price / reference input price
    input         published
    cached input  published, else a tenth of input, which is what most vendors ask
    cache write   1.25 x input: no vendor here publishes one, that is the common surcharge
    output        published; several times the input almost everywhere
    reasoning     as output: that is how vendors bill it

Of tiered prices the first tier counts: a weight does not know how long its request is. A free
model weighs the least a weight can, so that its usage stays visible; a model whose price is
unknown, or that nobody here knows, weighs as the reference. Rounded half up to three places.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from subscriptions.catalog import Weight

REFERENCE = "deepseek/deepseek-v3.2"
PRICES = Path(__file__).parent / "data" / "model_prices.json"

_LEAST, _MOST = Decimal("0.001"), Decimal(100)
_CACHED_SHARE = Decimal("0.1")
_CACHE_WRITE_SURCHARGE = Decimal("1.25")


def weights() -> list[Weight]:
    """A weight for each priced model, with and without its vendor's prefix, and one for `*`.

    Gateways name a model either way (`deepseek/deepseek-chat`, `deepseek-chat`).
    """
    prices = {
        model: _first_tier(entry)
        for model, entry in json.loads(PRICES.read_text(encoding="utf-8"))["models"].items()
    }
    unit = Decimal(prices[REFERENCE]["input"])
    card = {"*": _weight("*", prices[REFERENCE], unit)}
    for model, price in prices.items():
        known = price if "input" in price and "output" in price else prices[REFERENCE]
        for pattern in (model, model.partition("/")[2]):
            card[pattern] = _weight(pattern, known, unit)
    return sorted(card.values())


def _first_tier(entry: Mapping[str, Any]) -> dict[str, str]:
    first = entry["tiers"][0] if "tiers" in entry else entry
    return {name: first[name] for name in ("input", "cached_input", "output") if name in first}


def _weight(pattern: str, price: Mapping[str, str], unit: Decimal) -> Weight:
    each = Decimal(price["input"])
    cached = Decimal(price["cached_input"]) if "cached_input" in price else each * _CACHED_SHARE
    output = _relative(Decimal(price["output"]), unit)
    return Weight(
        model=pattern,
        input=_relative(each, unit),
        cached_input=_relative(cached, unit),
        cache_write=_relative(each * _CACHE_WRITE_SURCHARGE, unit),
        output=output,
        reasoning=output,
    )


def _relative(price: Decimal, unit: Decimal) -> Decimal:
    weight = (price / unit).quantize(Decimal("0.001"), ROUND_HALF_UP)
    return min(max(weight, _LEAST), _MOST)
