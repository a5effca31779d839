"""Doors for complaints: what subscribers are not content with, answering and closing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import complaints
from billing.api.corrections import person_of
from billing.models import Complaint, ComplaintMessage, Invoice
from billing.models.complaints import LONGEST
from subscriptions import clock, registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Code, Count, Instant, Text, to_wire_time
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, EXTERNAL_ID, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.models import Subscriber

COMPLAINT_NUMBER = OpenApiParameter(
    "number",
    {"type": "string", "pattern": "^[A-Z0-9-]+$", "maxLength": 40},
    OpenApiParameter.PATH,
)
STATE = OpenApiParameter(
    "state",
    {"type": "string", "enum": Complaint.State.values},
    OpenApiParameter.QUERY,
    description="Only complaints in this state.",
)


class NewComplaint(serializers.Serializer[Any]):
    """A complaint that a subscriber makes elsewhere: at a counter, on the phone."""

    kind = serializers.ChoiceField(choices=Complaint.Kind.values)
    text = Text(max_length=LONGEST)
    channel = Code(max_length=32, help_text="by which it came, as in `hotline`")
    invoice = Text(required=False, max_length=40, help_text="of a `charge`: the invoice's number")
    line = Count(required=False, min_value=1, max_value=32_767, help_text="its line, from 1")


class ComplaintAnswer(serializers.Serializer[Any]):
    text = Text(max_length=LONGEST)


class ComplaintClosing(serializers.Serializer[Any]):
    text = Text(
        required=False,
        allow_blank=True,
        max_length=LONGEST,
        help_text="a last word; wanted where nobody has answered",
    )


class ComplaintMessageBody(serializers.Serializer[Any]):
    by = serializers.ChoiceField(choices=ComplaintMessage.By.values)
    author = serializers.CharField(help_text="of staff who; of the subscriber, by which channel")
    text = serializers.CharField()
    at = Instant()


class ComplaintBody(serializers.Serializer[Any]):
    """What a subscriber is not content with. `due_at`: when the answer is due, while it is open."""

    number = serializers.CharField()
    subscriber = serializers.CharField()
    kind = serializers.ChoiceField(choices=Complaint.Kind.values)
    state = serializers.ChoiceField(choices=Complaint.State.values)
    invoice = serializers.CharField(allow_null=True)
    line = serializers.IntegerField(allow_null=True)
    stops_dunning = serializers.BooleanField(
        help_text="nothing is done about the invoice meanwhile"
    )
    opened_at = Instant()
    due_at = Instant()
    closed_at = Instant(allow_null=True)
    messages = ComplaintMessageBody(many=True)


class ComplaintPage(serializers.Serializer[Any]):
    items = ComplaintBody(many=True)
    next = serializers.URLField(allow_null=True)


class ComplaintPolicyBody(serializers.Serializer[Any]):
    reply_days = Count(min_value=1, max_value=60, help_text="within how many days is answered")


def show_complaints(rows: Sequence[Complaint]) -> list[dict[str, Any]]:
    """Complaints as they travel, with all that was said."""
    said = complaints.messages_of(rows)
    whose = {row.subscriber_id for row in rows}
    names = dict(Subscriber.objects.filter(pk__in=whose).values_list("pk", "external_id"))
    named = {row.invoice_id for row in rows if row.invoice_id is not None}
    numbers = dict(
        Invoice.objects.filter(subscriber_id__in=whose, id__in=named).values_list("id", "number")
    )
    return [
        {
            "number": row.number,
            "subscriber": names[row.subscriber_id],
            "kind": row.kind,
            "state": row.state,
            "invoice": None if row.invoice_id is None else numbers[row.invoice_id],
            "line": row.line,
            "stops_dunning": row.stops_dunning,
            "opened_at": to_wire_time(row.opened_at),
            "due_at": to_wire_time(row.due_at),
            "closed_at": None if row.closed_at is None else to_wire_time(row.closed_at),
            "messages": [
                {"by": m.by, "author": m.author, "text": m.text, "at": to_wire_time(m.at)}
                for m in said[row.id]
            ],
        }
        for row in rows
    ]


def _one(complaint: Complaint) -> dict[str, Any]:
    [shown] = show_complaints([complaint])
    return shown


class ComplaintsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_complaints",
        parameters=[STATE, LIMIT, CURSOR],
        responses={200: ComplaintPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All complaints, in the order they were made."""
        rows = Complaint.objects.filter(operator=operator_of(request))
        state = request.query_params.get("state")
        if state is not None:
            if state not in Complaint.State.values:
                raise pagination.BadQuery(f"state is one of {', '.join(Complaint.State.values)}")
            rows = rows.filter(state=state)
        return Response(
            pagination.page(
                request, rows.order_by("id"), by="id", of_type=int, show=show_complaints
            )
        )


class SubscriberComplaintsDoor(OperatorDoor):
    @extend_schema(
        operation_id="lodge_complaint",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=NewComplaint,
        responses={201: ComplaintBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, external_id: str) -> Response:
        """Take a complaint. One about a charge that is still to be paid stops dunning until it is
        answered. 409 `line_disputed`: each line is disputed once."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        wanted = NewComplaint(data=request.data)
        wanted.is_valid(raise_exception=True)
        said = wanted.validated_data
        made = complaints.lodge(
            operator,
            subscriber.pk,
            kind=said["kind"],
            text=said["text"],
            key=f"api:{complaints.fresh_key()}",
            channel=said["channel"],
            at=clock.now(operator),
            invoice=said.get("invoice", ""),
            line=said.get("line"),
        )
        return Response(_one(made), status=201)


class ComplaintDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_complaint",
        parameters=[COMPLAINT_NUMBER],
        responses={200: ComplaintBody, **refusals(404)},
    )
    def get(self, request: Request, number: str) -> Response:
        """One complaint with all that was said."""
        return Response(_one(complaints.find(operator_of(request), number)))


class ComplaintAnswerDoor(OperatorDoor):
    @extend_schema(
        operation_id="answer_complaint",
        parameters=[COMPLAINT_NUMBER, IDEMPOTENCY_KEY],
        request=ComplaintAnswer,
        responses={200: ComplaintBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, number: str) -> Response:
        """Answer: the subscriber is told, and may write once more. 409 `complaint_closed`."""
        operator = operator_of(request)
        said = ComplaintAnswer(data=request.data)
        said.is_valid(raise_exception=True)
        text, by = said.validated_data["text"], person_of(request)
        return Response(
            _one(complaints.answer(operator, number, text, by=by, at=clock.now(operator)))
        )


class ComplaintCloseDoor(OperatorDoor):
    @extend_schema(
        operation_id="close_complaint",
        parameters=[COMPLAINT_NUMBER, IDEMPOTENCY_KEY],
        request=ComplaintClosing,
        responses={200: ComplaintBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, number: str) -> Response:
        """Close for good. Again is harmless."""
        operator = operator_of(request)
        said = ComplaintClosing(data=request.data)
        said.is_valid(raise_exception=True)
        text, by = said.validated_data.get("text", ""), person_of(request)
        return Response(
            _one(complaints.close(operator, number, by=by, at=clock.now(operator), text=text))
        )


class ComplaintPolicyDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_complaint_policy", responses={200: ComplaintPolicyBody, **refusals()}
    )
    def get(self, request: Request) -> Response:
        """Within how many days complaints are answered."""
        return Response({"reply_days": complaints.reply_days(operator_of(request))})

    @extend_schema(
        operation_id="set_complaint_policy",
        request=ComplaintPolicyBody,
        responses={200: ComplaintPolicyBody, **refusals(413, 415, 422)},
    )
    def put(self, request: Request) -> Response:
        """For complaints made from now on."""
        said = ComplaintPolicyBody(data=request.data)
        said.is_valid(raise_exception=True)
        days = complaints.set_reply_days(operator_of(request), said.validated_data["reply_days"])
        return Response({"reply_days": days})
