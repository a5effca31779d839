"""`PUT /api/v1/rate-cards/{code}`: here and not in subscriptions, for it asks what was charged."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from subscriptions import catalog
from subscriptions.api.fields import Code, Count, Instant, Text, UnitsPerToken
from subscriptions.models import RateCard

MAX_WEIGHTS = 5000


class WeightBody(serializers.Serializer[Any]):
    """Units per token of each class, for the models that the pattern matches."""

    model = Text(max_length=256, help_text="only `*` is special; the longest match wins")
    input = UnitsPerToken()
    cached_input = UnitsPerToken()
    cache_write = UnitsPerToken()
    output = UnitsPerToken()
    reasoning = UnitsPerToken()


class RateCardBody(serializers.Serializer[Any]):
    """A rate card version, effective until the next one is."""

    code = Code(read_only=True)
    version = Count(read_only=True)
    effective_from = Instant()
    weights = serializers.ListField(child=WeightBody(), min_length=1, max_length=MAX_WEIGHTS)
    created_at = Instant(read_only=True)


def show_rate_card(card: RateCard) -> dict[str, Any]:
    """A rate card version as it travels, its weights by pattern."""
    return RateCardBody(
        {
            "code": card.code,
            "version": card.version,
            "effective_from": card.effective_from,
            "weights": catalog.weights_of(card),
            "created_at": card.created_at,
        }
    ).data
