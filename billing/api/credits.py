"""The door for credit notes: issued at once, or asked for where they are above the limit."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from billing import credit_notes, invoicing
from billing.api.approvals import ApprovalBody, show_approval
from billing.api.corrections import person_of
from billing.api.invoices import NUMBER, InvoiceBody, Reason, show
from billing.models import Approval
from subscriptions import clock
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Flag, Price
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import IDEMPOTENCY_KEY, refusals
from subscriptions.errors import Invalid


class CreditOrder(Reason):
    """`amount` (tax included) where it is not all that is left of the invoice."""

    amount = Price(required=False)
    over_charge = Flag(
        default=False,
        help_text="it was charged by the operator's own fault: repaid as often as the policy says",
    )


class CreditDoor(OperatorDoor):
    @extend_schema(
        operation_id="credit_invoice",
        parameters=[NUMBER, IDEMPOTENCY_KEY],
        request=CreditOrder,
        responses={
            201: OpenApiResponse(InvoiceBody, description="The credit note."),
            202: OpenApiResponse(ApprovalBody, description="Above the limit: nothing is posted."),
            **refusals(404, 409, 413, 415, 422),
        },
    )
    @idempotent
    def post(self, request: Request, number: str) -> Response:
        """Issue a credit note; it first lowers what is due on the invoice. One above the operator's
        limit waits until another person approves it."""
        operator = operator_of(request)
        order = CreditOrder(data=request.data, context={"operator": operator})
        order.is_valid(raise_exception=True)
        amount = order.validated_data.get("amount")
        if amount is not None:
            currency = invoicing.find(operator, number).currency
            if amount.currency.code != currency:
                raise Invalid(f"the invoice is in {currency}")
        made = credit_notes.credit(
            operator,
            number,
            reason=order.validated_data["reason"],
            amount=None if amount is None else amount.amount,
            over_charge=order.validated_data["over_charge"],
            by=person_of(request),
            at=clock.now(operator),
        )
        if isinstance(made, Approval):
            return Response(show_approval(made), status=202)
        [shown] = show([made])
        return Response(shown, status=201)
