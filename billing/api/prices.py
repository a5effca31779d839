"""Doors to publish versions of plans and rate cards: here, for where two persons decide on prices
a version waits for approval."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from billing.api.approvals import ApprovalBody, show_approval
from billing.api.corrections import person_of
from billing.models import Approval
from billing.prices import drafting
from billing.prices.terms import CardTerms
from metering.api.rate_cards import RateCardBody, show_rate_card
from metering.charged import charged_since
from subscriptions import catalog, clock
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.offerings import PlanBody, read_code, show_plan, terms_from
from subscriptions.api.schema import CODE, refusals


def _answers(body: Any, *causes: int) -> dict[Any, Any]:
    return {
        200: OpenApiResponse(body, description="The newest version says just that."),
        201: OpenApiResponse(body, description="A new version was made."),
        202: OpenApiResponse(
            ApprovalBody, description="Two persons decide on prices: it waits for the other."
        ),
        **refusals(*causes),
    }


class PlanDoor(OperatorDoor):
    @extend_schema(
        operation_id="publish_plan",
        parameters=[CODE],
        request=PlanBody,
        responses=_answers(PlanBody, 413, 415, 422),
    )
    def put(self, request: Request, code: str) -> Response:
        """Publish a plan version. Subscriptions keep the version they were sold."""
        operator = operator_of(request)
        code = read_code(code)
        body = PlanBody(data=request.data, context={"operator": operator})
        body.is_valid(raise_exception=True)
        terms, at = terms_from(body.validated_data), clock.now(operator)
        made = drafting.publish(
            operator,
            code,
            terms,
            by=person_of(request),
            at=at,
            publish_now=lambda: catalog.publish_plan(operator, code, terms, at=at),
            on_sale_at=at,
        )
        if isinstance(made, Approval):
            return Response(show_approval(made), status=202)
        return Response(show_plan(made[0]), status=201 if made[1] else 200)


class RateCardDoor(OperatorDoor):
    @extend_schema(
        operation_id="publish_rate_card",
        parameters=[CODE],
        request=RateCardBody,
        responses=_answers(RateCardBody, 409, 413, 415, 422),
    )
    def put(self, request: Request, code: str) -> Response:
        """Publish a rate card version. One that usage already charged would fall under is 409."""
        operator = operator_of(request)
        code = read_code(code)
        body = RateCardBody(data=request.data)
        body.is_valid(raise_exception=True)
        said, at = body.validated_data, clock.now(operator)
        weights = [catalog.Weight(**weight) for weight in said["weights"]]
        made = drafting.publish(
            operator,
            code,
            CardTerms(weights=tuple(sorted(weights))),
            by=person_of(request),
            at=at,
            publish_now=lambda: catalog.publish_rate_card(
                operator,
                code,
                effective_from=said["effective_from"],
                weights=weights,
                charged_since=charged_since,
                at=at,
            ),
            on_sale_at=said["effective_from"],
        )
        if isinstance(made, Approval):
            return Response(show_approval(made), status=202)
        return Response(show_rate_card(made[0]), status=201 if made[1] else 200)
