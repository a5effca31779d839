"""Doors for anomalies: the queue, what is done with a case, and from what on there is one."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.anomalies import cases
from billing.anomalies.finding import Thresholds
from billing.api.corrections import person_of
from billing.models import AnomalyCase, AnomalyStep
from subscriptions import clock
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Count, Instant, Text, Units, plain, to_wire_time
from subscriptions.api.schema import CURSOR, LIMIT, refusals
from subscriptions.models import Operator

CASE = OpenApiParameter("case_id", {"type": "integer"}, OpenApiParameter.PATH)
STATE = OpenApiParameter(
    "state",
    {"type": "string", "enum": AnomalyCase.State.values},
    OpenApiParameter.QUERY,
    description="Only cases in this state.",
)


class AnomalyStepBody(serializers.Serializer[Any]):
    state = serializers.ChoiceField(choices=AnomalyCase.State.values)
    by = serializers.CharField()
    reason = serializers.CharField()
    at = Instant()


class AnomalyBody(serializers.Serializer[Any]):
    """A case: what was seen, how often, and what people did with it."""

    id = serializers.CharField()
    subscriber = serializers.CharField()
    kind = serializers.ChoiceField(choices=AnomalyCase.Kind.values)
    state = serializers.ChoiceField(choices=AnomalyCase.State.values)
    evidence = serializers.DictField()
    seen = serializers.IntegerField()
    found_at = Instant()
    seen_at = Instant()
    steps = AnomalyStepBody(many=True, required=False, help_text="of one case, not in the list")


class AnomalyPage(serializers.Serializer[Any]):
    items = AnomalyBody(many=True)
    next = serializers.URLField(allow_null=True)


class AnomalyDecision(serializers.Serializer[Any]):
    reason = Text(max_length=200)


class Times(serializers.DecimalField):
    """How many times, as a decimal string."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            max_digits=5,
            decimal_places=2,
            min_value=Decimal("1.01"),
            max_value=Decimal(999),
            **kwargs,
        )

    def to_internal_value(self, data: Any) -> Decimal:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)

    def to_representation(self, value: Decimal) -> str:
        return plain(value)


class AnomalyPolicyBody(serializers.Serializer[Any]):
    """From what on there is a case."""

    bill_factor = Times(help_text="a bill above so many times the mean of three months")
    velocity_factor = Times(help_text="an hour above so many times the usual hour")
    velocity_units = Units(help_text="and above this")
    networks = Count(min_value=2, max_value=999_999, help_text="of one subject in a day")
    end_users = Count(min_value=2, max_value=999_999, help_text="of one subject in a day")
    busy_hours = Count(min_value=1, max_value=24, help_text="with usage, on each of")
    busy_days = Count(min_value=1, max_value=31)


def show(row: AnomalyCase, steps: list[AnomalyStep] | None = None) -> dict[str, Any]:
    said: dict[str, Any] = {
        "id": str(row.pk),
        "subscriber": row.subscriber.external_id,
        "kind": row.kind,
        "state": row.state,
        "evidence": {name: value for name, value in row.evidence.items() if name != "last"},
        "seen": row.seen,
        "found_at": to_wire_time(row.found_at),
        "seen_at": to_wire_time(row.seen_at),
    }
    if steps is not None:
        said["steps"] = [
            {"state": one.state, "by": one.by, "reason": one.reason, "at": to_wire_time(one.at)}
            for one in steps
        ]
    return said


class AnomaliesDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_anomalies",
        parameters=[STATE, LIMIT, CURSOR],
        responses={200: AnomalyPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """The queue, in the order cases were found."""
        rows = AnomalyCase.objects.filter(operator=operator_of(request))
        state = request.query_params.get("state")
        if state is not None:
            if state not in AnomalyCase.State.values:
                raise pagination.BadQuery(f"state is one of {', '.join(AnomalyCase.State.values)}")
            rows = rows.filter(state=state)
        return Response(
            pagination.page(
                request,
                rows.select_related("subscriber").order_by("id"),
                by="id",
                of_type=int,
                show=lambda some: [show(one) for one in some],
            )
        )


class AnomalyDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_anomaly", parameters=[CASE], responses={200: AnomalyBody, **refusals(404)}
    )
    def get(self, request: Request, case_id: int) -> Response:
        """One case, with what was done with it."""
        case = cases.find(operator_of(request), case_id)
        return Response(show(case, cases.steps_of(case)))


class _DecisionDoor(OperatorDoor):
    state: str

    def decide(self, request: Request, case_id: int) -> Response:
        operator = operator_of(request)
        cases.find(operator, case_id)
        body = AnomalyDecision(data=request.data)
        body.is_valid(raise_exception=True)
        case = cases.decide(
            operator,
            case_id,
            self.state,
            by=person_of(request),
            reason=body.validated_data["reason"],
            at=clock.now(operator),
        )
        return Response(show(case, cases.steps_of(case)))


_ANSWERS: dict[Any, Any] = {200: AnomalyBody, **refusals(404, 409, 413, 415, 422)}


class FreezeDoor(_DecisionDoor):
    state = AnomalyCase.State.FROZEN

    @extend_schema(
        operation_id="freeze_anomaly",
        parameters=[CASE],
        request=AnomalyDecision,
        responses=_ANSWERS,
    )
    def post(self, request: Request, case_id: int) -> Response:
        """Stop the line to protect it: gateways hear `frozen`, usage draws nothing of its own."""
        return self.decide(request, case_id)


class ReleaseDoor(_DecisionDoor):
    state = AnomalyCase.State.RELEASED

    @extend_schema(
        operation_id="release_anomaly",
        parameters=[CASE],
        request=AnomalyDecision,
        responses=_ANSWERS,
    )
    def post(self, request: Request, case_id: int) -> Response:
        """Let a frozen line go on."""
        return self.decide(request, case_id)


class ConfirmDoor(_DecisionDoor):
    state = AnomalyCase.State.CONFIRMED

    @extend_schema(
        operation_id="confirm_anomaly",
        parameters=[CASE],
        request=AnomalyDecision,
        responses=_ANSWERS,
    )
    def post(self, request: Request, case_id: int) -> Response:
        """It is what it looked like. A frozen line stays frozen."""
        return self.decide(request, case_id)


class DismissDoor(_DecisionDoor):
    state = AnomalyCase.State.DISMISSED

    @extend_schema(
        operation_id="dismiss_anomaly",
        parameters=[CASE],
        request=AnomalyDecision,
        responses=_ANSWERS,
    )
    def post(self, request: Request, case_id: int) -> Response:
        """It is nothing. What was seen does not come again."""
        return self.decide(request, case_id)


def show_policy(operator: Operator) -> dict[str, Any]:
    found = cases.thresholds_of(operator.pk)
    return AnomalyPolicyBody(found._asdict()).data


class AnomalyPolicyDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_anomaly_policy", responses={200: AnomalyPolicyBody, **refusals()}
    )
    def get(self, request: Request) -> Response:
        """From what on there is a case."""
        return Response(show_policy(operator_of(request)))

    @extend_schema(
        operation_id="set_anomaly_policy",
        request=AnomalyPolicyBody,
        responses={200: AnomalyPolicyBody, **refusals(413, 415, 422)},
    )
    def put(self, request: Request) -> Response:
        """For what is looked at from now on."""
        operator = operator_of(request)
        body = AnomalyPolicyBody(data=request.data)
        body.is_valid(raise_exception=True)
        thresholds = Thresholds(**body.validated_data)
        cases.set_thresholds(operator, thresholds, by=person_of(request), at=clock.now(operator))
        return Response(show_policy(operator))
