"""Doors for invoices: a subscriber's, and one by its number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.db.models import Q
from djmoney.money import Money
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import invoicing
from billing.models import Invoice, InvoiceLine
from subscriptions import clock, registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant, Text, money_to_wire, plain, to_wire_time
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, EXTERNAL_ID, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.units import to_wire

NUMBER = OpenApiParameter(
    "number",
    {"type": "string", "pattern": "^[A-Z0-9-]+$", "maxLength": 32},
    OpenApiParameter.PATH,
)


class MoneyBody(serializers.Serializer[Any]):
    """Two decimals; below zero where the subscriber gets it."""

    amount = serializers.CharField()
    currency = serializers.CharField()


class LineBody(serializers.Serializer[Any]):
    """One line; gross = net + tax. `units` where it is for units."""

    kind = serializers.ChoiceField(choices=InvoiceLine.Kind.values)
    description = serializers.CharField()
    units = serializers.CharField(required=False)
    net = MoneyBody()
    tax_rate = serializers.CharField()
    tax = MoneyBody()
    gross = MoneyBody()


class InvoiceBody(serializers.Serializer[Any]):
    """An invoice of one period, a `final` one of what came after the last, or a credit note against
    `credits`; totals are sums of lines."""

    number = serializers.CharField(allow_null=True, help_text="null while it is a draft")
    kind = serializers.ChoiceField(choices=Invoice.Kind.values)
    credits = serializers.CharField(required=False, help_text="the number of the original")
    state = serializers.ChoiceField(choices=Invoice.State.values)
    subscription = serializers.CharField(
        allow_null=True, help_text="null for a last bill of who never held a plan"
    )
    period_start = Instant()
    period_end = Instant()
    issued_at = Instant(allow_null=True)
    due_at = Instant(allow_null=True)
    lines = LineBody(many=True)
    net = MoneyBody()
    tax = MoneyBody()
    gross = MoneyBody()
    amount_due = MoneyBody(help_text="gross less what was paid")


class InvoicePage(serializers.Serializer[Any]):
    items = InvoiceBody(many=True)
    next = serializers.URLField(allow_null=True)


def show(invoices: Sequence[Invoice]) -> list[dict[str, Any]]:
    """Invoices as they travel, with their lines."""
    lines: dict[tuple[int, int], list[InvoiceLine]] = defaultdict(list)
    subscriber_ids = {invoice.subscriber_id for invoice in invoices}
    rows = InvoiceLine.objects.filter(
        subscriber_id__in=subscriber_ids, invoice_id__in=[invoice.id for invoice in invoices]
    )
    for row in rows.order_by("subscriber_id", "invoice_id", "nr"):
        lines[row.subscriber_id, row.invoice_id].append(row)
    originals = dict(
        Invoice.objects.filter(
            subscriber_id__in=subscriber_ids, id__in=[i.original_id for i in invoices]
        ).values_list("id", "number")
    )
    return [_show(i, lines[i.subscriber_id, i.id], originals) for i in invoices]


def _show(
    invoice: Invoice, lines: Sequence[InvoiceLine], originals: dict[int, str | None]
) -> dict[str, Any]:
    def money(amount: Decimal) -> dict[str, str]:
        return money_to_wire(Money(amount, invoice.currency))

    shown = {
        "number": invoice.number,
        "kind": invoice.kind,
        "state": invoice.state,
        "subscription": None if invoice.subscription_id is None else str(invoice.subscription_id),
        "period_start": to_wire_time(invoice.period_start),
        "period_end": to_wire_time(invoice.period_end),
        "issued_at": to_wire_time(invoice.issued_at) if invoice.issued_at else None,
        "due_at": to_wire_time(invoice.due_at) if invoice.due_at else None,
        "lines": [
            {
                "kind": line.kind,
                "description": line.description,
                **({} if line.units is None else {"units": to_wire(line.units)}),
                "net": money(line.net),
                "tax_rate": plain(line.tax_rate),
                "tax": money(line.tax),
                "gross": money(line.gross),
            }
            for line in lines
        ],
        "net": money(invoice.net),
        "tax": money(invoice.tax),
        "gross": money(invoice.gross),
        "amount_due": money(invoicing.amount_due(invoice)),
    }
    if invoice.original_id is not None:
        shown["credits"] = originals[invoice.original_id]
    return shown


class SubscriberInvoicesDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_invoices",
        parameters=[EXTERNAL_ID, LIMIT, CURSOR],
        responses={200: InvoicePage, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """A subscriber's invoices, the latest first."""
        subscriber = registry.find(operator_of(request), external_id)
        limit = pagination.limit_of(request)
        after = pagination.cursor_of(request, int)
        rows = Invoice.objects.filter(subscriber_id=subscriber.pk)
        if after is not None:
            rows = rows.filter(Q(id__lt=after[0]))
        found = list(rows.order_by("-id")[: limit + 1])
        shown = found[:limit]
        more = pagination.next_url(request, [shown[-1].id]) if len(found) > limit else None
        return Response({"items": show(shown), "next": more})


class Reason(serializers.Serializer[Any]):
    """Why it is taken back."""

    reason = Text(max_length=200)


class VoidDoor(OperatorDoor):
    @extend_schema(
        operation_id="void_invoice",
        parameters=[NUMBER, IDEMPOTENCY_KEY],
        request=Reason,
        responses={200: InvoiceBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, number: str) -> Response:
        """Make an invoice void of which nothing is paid or credited. Again is harmless."""
        operator = operator_of(request)
        order = Reason(data=request.data)
        order.is_valid(raise_exception=True)
        reason = order.validated_data["reason"]
        [shown] = show([invoicing.void(operator, number, reason=reason, at=clock.now(operator))])
        return Response(shown)


class InvoiceDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_invoice",
        parameters=[NUMBER],
        responses={200: InvoiceBody, **refusals(404)},
    )
    def get(self, request: Request, number: str) -> Response:
        """One invoice with its lines."""
        [shown] = show([invoicing.find(operator_of(request), number)])
        return Response(shown)
