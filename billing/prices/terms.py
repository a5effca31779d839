"""What a draft says, as JSON that reads back as the same."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
from djmoney.money import Money

from subscriptions.catalog import PlanTerms, Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class CardTerms:
    """All that a rate card version says, but from when on."""

    weights: tuple[Weight, ...]


Terms = PlanTerms | CardTerms


def to_json(terms: Terms) -> dict[str, Any]:
    """Terms as they are kept."""
    kept: dict[str, Any] = msgspec.to_builtins(terms, enc_hook=_encode)
    return kept


def plan_terms(kept: dict[str, Any]) -> PlanTerms:
    return msgspec.convert(kept, PlanTerms, dec_hook=_decode)


def card_terms(kept: dict[str, Any]) -> CardTerms:
    return msgspec.convert(kept, CardTerms, dec_hook=_decode)


def _encode(value: Any) -> Any:
    if isinstance(value, Money):
        return {"amount": str(value.amount), "currency": value.currency.code}
    raise NotImplementedError(type(value))


def _decode(kind: type[Any], kept: Any) -> Any:
    if kind is Money:
        return Money(Decimal(kept["amount"]), kept["currency"])
    raise NotImplementedError(kind)
