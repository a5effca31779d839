"""`PUT /api/v1/rate-cards/{code}`: here and not in subscriptions, for it asks what was charged."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from django.db import connection
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import catalog, clock
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Code, Count, Instant, Text, UnitsPerToken
from subscriptions.api.offerings import read_code
from subscriptions.api.schema import CODE, refusals
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


class RateCardDoor(OperatorDoor):
    @extend_schema(
        operation_id="publish_rate_card",
        parameters=[CODE],
        request=RateCardBody,
        responses={
            200: OpenApiResponse(RateCardBody, description="The newest version says just that."),
            201: OpenApiResponse(RateCardBody, description="A new version was made."),
            **refusals(409, 413, 415, 422),
        },
    )
    def put(self, request: Request, code: str) -> Response:
        """Publish a rate card version. One that usage already charged would fall under is 409."""
        operator = operator_of(request)
        code = read_code(code)
        body = RateCardBody(data=request.data)
        body.is_valid(raise_exception=True)
        said = body.validated_data
        card, made = catalog.publish_rate_card(
            operator,
            code,
            effective_from=said["effective_from"],
            weights=[catalog.Weight(**weight) for weight in said["weights"]],
            charged_since=charged_since,
            at=clock.now(operator),
        )
        return Response(show_rate_card(card), status=201 if made else 200)


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


# Partitions of days before the instant are not looked at, and the first record found ends it. The
# batches of the operator say within milliseconds that there is none, which is the usual case:
# a version begins now or later.
_CHARGED_SQL = """
SELECT EXISTS (
    SELECT FROM metering_usagebatch b
    WHERE b.operator_id = (SELECT operator_id FROM subscriptions_ratecard WHERE id = %(card)s)
      AND b.occurred_to >= %(instant)s
) AND EXISTS (
    SELECT FROM metering_usagerecord r
    WHERE r.occurred_at >= %(instant)s
      AND r.weight_id = ANY (ARRAY(
          SELECT w.id FROM subscriptions_ratecardweight w WHERE w.rate_card_id = ANY (%(cards)s)
      ))
    UNION ALL
    SELECT FROM metering_adjustedrecord r
    WHERE r.occurred_at >= %(instant)s
      AND r.weight_id = ANY (ARRAY(
          SELECT w.id FROM subscriptions_ratecardweight w WHERE w.rate_card_id = ANY (%(cards)s)
      ))
)
"""


def charged_since(card_ids: Sequence[int], instant: dt.datetime) -> bool:
    """Whether usage of `instant` or later was charged by one of these card versions."""
    with connection.cursor() as cursor:
        cursor.execute(
            _CHARGED_SQL, {"card": card_ids[0], "cards": list(card_ids), "instant": instant}
        )
        found: bool = cursor.fetchone()[0]
    return found
