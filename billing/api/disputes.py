"""Doors for disputes: what is disputed, the evidence, and handing it in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import disputes, evidence
from billing.api.corrections import person_of
from billing.api.invoices import MoneyBody
from billing.models import Dispute, Order
from subscriptions import clock
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant, Text, money_to_wire, to_wire_time
from subscriptions.api.schema import CURSOR, LIMIT, refusals
from subscriptions.models import Operator, Subscriber

DISPUTE_NUMBER = OpenApiParameter(
    "number",
    {"type": "string", "pattern": "^[A-Z0-9-]+$", "maxLength": 40},
    OpenApiParameter.PATH,
)
STATE = OpenApiParameter(
    "state",
    {"type": "string", "enum": Dispute.State.values},
    OpenApiParameter.QUERY,
    description="Only disputes in this state.",
)


class DisputeStepBody(serializers.Serializer[Any]):
    state = serializers.ChoiceField(choices=Dispute.State.values)
    at = Instant()
    reason = serializers.CharField()


class EvidenceBody(serializers.Serializer[Any]):
    """Texts by the names that Stripe gives them. An empty one is taken out again."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {
            name: Text(required=False, allow_blank=True, max_length=disputes.LONGEST)
            for name in disputes.EVIDENCE
        }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(self.initial_data) - set(disputes.EVIDENCE))
        if unknown:
            raise serializers.ValidationError(dict.fromkeys(unknown, "is no evidence"))
        return attrs


class DisputeBody(serializers.Serializer[Any]):
    """A payment that its payer's bank takes back. What the order granted is frozen meanwhile."""

    number = serializers.CharField()
    order = serializers.CharField()
    subscriber = serializers.CharField()
    state = serializers.ChoiceField(choices=Dispute.State.values)
    amount = MoneyBody()
    fee = MoneyBody(help_text="what the provider takes for it")
    way = serializers.CharField()
    reference = serializers.CharField(help_text="the provider's own name for it")
    reason = serializers.CharField(help_text="in the provider's words")
    due_by = Instant(allow_null=True, help_text="evidence counts until then")
    opened_at = Instant()
    submitted_at = Instant(allow_null=True)
    sent_at = Instant(allow_null=True, help_text="the provider has the evidence since")
    closed_at = Instant(allow_null=True)
    evidence = EvidenceBody()
    history = DisputeStepBody(many=True)


class DisputeDetailBody(DisputeBody):
    """`suggested` is what our own books say, for who fills in the evidence."""

    suggested = EvidenceBody()


class DisputePage(serializers.Serializer[Any]):
    items = DisputeBody(many=True)
    next = serializers.URLField(allow_null=True)


# Showing -----------------------------------------------------------------------------------------


def show(rows: Sequence[Dispute]) -> list[dict[str, Any]]:
    """Disputes as they travel, with their history."""
    steps = disputes.steps_of(rows)
    whose = {row.subscriber_id for row in rows}
    names = dict(Subscriber.objects.filter(pk__in=whose).values_list("pk", "external_id"))
    orders = dict(
        Order.objects.filter(
            subscriber_id__in=whose, id__in={row.order_id for row in rows}
        ).values_list("id", "number")
    )

    def when(instant: Any) -> str | None:
        return None if instant is None else to_wire_time(instant)

    return [
        {
            "number": row.number,
            "order": orders[row.order_id],
            "subscriber": names[row.subscriber_id],
            "state": row.state,
            "amount": money_to_wire(Money(row.amount, row.currency)),
            "fee": money_to_wire(Money(row.fee, row.currency)),
            "way": row.way,
            "reference": row.reference,
            "reason": row.reason,
            "due_by": when(row.due_by),
            "opened_at": when(row.opened_at),
            "submitted_at": when(row.submitted_at),
            "sent_at": when(row.sent_at),
            "closed_at": when(row.closed_at),
            "evidence": row.evidence,
            "history": [
                {"state": step.state, "at": when(step.at), "reason": step.reason}
                for step in steps[row.id]
            ],
        }
        for row in rows
    ]


def _detail(operator: Operator, number: str) -> dict[str, Any]:
    dispute = disputes.find(operator, number)
    [shown] = show([dispute])
    return shown | {"suggested": evidence.drafted(operator, dispute)}


# Doors -------------------------------------------------------------------------------------------


class DisputesDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_disputes",
        parameters=[STATE, LIMIT, CURSOR],
        responses={200: DisputePage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All disputes, in the order they were opened."""
        rows = Dispute.objects.filter(operator=operator_of(request))
        state = request.query_params.get("state")
        if state is not None:
            if state not in Dispute.State.values:
                raise pagination.BadQuery(f"state is one of {', '.join(Dispute.State.values)}")
            rows = rows.filter(state=state)
        return Response(
            pagination.page(request, rows.order_by("id"), by="id", of_type=int, show=show)
        )


class DisputeDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_dispute",
        parameters=[DISPUTE_NUMBER],
        responses={200: DisputeDetailBody, **refusals(404)},
    )
    def get(self, request: Request, number: str) -> Response:
        """One dispute, with what our own books say for it."""
        return Response(_detail(operator_of(request), number))


class DisputeEvidenceDoor(OperatorDoor):
    @extend_schema(
        operation_id="put_dispute_evidence",
        parameters=[DISPUTE_NUMBER],
        request=EvidenceBody,
        responses={200: DisputeDetailBody, **refusals(404, 409, 413, 415, 422)},
    )
    def put(self, request: Request, number: str) -> Response:
        """Fill in evidence, beside what is there. Nobody is told of it before it is submitted."""
        operator = operator_of(request)
        said = EvidenceBody(data=request.data)
        said.is_valid(raise_exception=True)
        disputes.put_evidence(operator, number, said.validated_data)
        return Response(_detail(operator, number))


class DisputeSubmitDoor(OperatorDoor):
    # A provider is called after the commit.
    @extend_schema(
        operation_id="submit_dispute",
        parameters=[DISPUTE_NUMBER],
        request=None,
        responses={200: DisputeDetailBody, **refusals(404, 409, 422)},
    )
    def post(self, request: Request, number: str) -> Response:
        """Hand in the evidence that is there. Again hands in what is there by then; where the
        provider does not answer (`sent_at` is null), it is told later."""
        operator = operator_of(request)
        disputes.submit(operator, number, by=person_of(request), at=clock.now(operator))
        return Response(_detail(operator, number))
