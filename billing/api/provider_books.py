"""Doors for providers' files, the days that they were compared for, and what differs."""

from __future__ import annotations

import datetime as dt
import io
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from djmoney.money import Money
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from billing import approvals, approving
from billing.api.corrections import person_of
from billing.api.invoices import MoneyBody
from billing.api.wallets import days_of
from billing.models import Approval, PaymentDifference, ProviderFile
from billing.provider_books import differing, importing, reporting
from billing.provider_books.layouts import LAYOUTS
from billing.provider_books.reporting import Day
from subscriptions import clock
from subscriptions.api import pagination
from subscriptions.api.doors import JsonOnly, OperatorDoor, operator_of
from subscriptions.api.fields import Instant, Text, money_to_wire, to_wire_time
from subscriptions.api.idempotency import idempotent
from subscriptions.api.parsers import TooLarge
from subscriptions.api.schema import CURSOR, IDEMPOTENCY_KEY, LIMIT, refusals

# More is for the command, on the machine itself.
MOST_BYTES = 32 * 1024 * 1024
_IN_MEMORY = 1024 * 1024


class CsvParser(BaseParser):
    """A file as the body, kept on disk where it is large."""

    media_type = "text/csv"

    def parse(
        self,
        stream: Any,
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  # the door closes it
        size = 0
        while chunk := stream.read(1 << 16):
            size += len(chunk)
            if size > MOST_BYTES:
                file.close()
                raise TooLarge(
                    f"a file sent here has at most {MOST_BYTES // 1024**2} MiB: import a larger"
                    " one with manage.py provider_books import"
                )
            file.write(chunk)
        return file


class _CsvIn(JsonOnly):
    """CSV in, JSON out."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        media_type = request.content_type.partition(";")[0].strip().lower()
        return next(iter(parsers)) if media_type == "text/csv" else None


class FileBody(serializers.Serializer[Any]):
    """A provider's file: of its `rows` those that no other file had brought are `lines`."""

    id = serializers.IntegerField()
    layout = serializers.ChoiceField(choices=sorted(LAYOUTS))
    account = serializers.CharField()
    name = serializers.CharField()
    sha256 = serializers.CharField()
    rows = serializers.IntegerField()
    lines = serializers.IntegerField()
    first_day = serializers.DateField()
    last_day = serializers.DateField()
    imported_by = serializers.CharField()
    imported_at = Instant()


class FilePage(serializers.Serializer[Any]):
    items = FileBody(many=True)
    next = serializers.URLField(allow_null=True)


def show_files(found: Sequence[ProviderFile]) -> list[dict[str, Any]]:
    """Files as they travel."""
    return [
        {
            **{name: getattr(one, name) for name in ("id", "layout", "account", "name")},
            "sha256": one.digest,
            **{name: getattr(one, name) for name in ("rows", "lines")},
            "first_day": one.first_day.isoformat(),
            "last_day": one.last_day.isoformat(),
            "imported_by": one.imported_by,
            "imported_at": to_wire_time(one.imported_at),
        }
        for one in found
    ]


LAYOUT = OpenApiParameter(
    "layout", {"type": "string", "enum": sorted(LAYOUTS)}, OpenApiParameter.QUERY, required=True
)
ACCOUNT = OpenApiParameter(
    "account",
    str,
    OpenApiParameter.QUERY,
    description="The word of the ledger's account cash:… ; default: the layout's name.",
)
NAME = OpenApiParameter("name", str, OpenApiParameter.QUERY, description="The file's, for people.")


class ProviderFilesDoor(OperatorDoor):
    parser_classes = (CsvParser,)  # type: ignore[assignment]
    content_negotiation_class = _CsvIn

    @extend_schema(
        operation_id="import_provider_file",
        parameters=[LAYOUT, ACCOUNT, NAME],
        request={"text/csv": OpenApiTypes.BINARY},
        responses={201: FileBody, 200: FileBody, **refusals(409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Import a provider's file, whole or not at all, and compare its days. The same file again
        is harmless: 200."""
        operator = operator_of(request)
        file: Any = request.data
        if not hasattr(file, "seek"):  # there was no body
            file = io.BytesIO()
        with file:
            loaded = importing.load(
                operator,
                file,
                layout=_word(request, "layout"),
                account=_word(request, "account"),
                name=_word(request, "name"),
                by=person_of(request),
                at=clock.now(operator),
            )
        [shown] = show_files([loaded.file])
        return Response(shown, status=201 if loaded.new else 200)

    @extend_schema(
        operation_id="list_provider_files",
        parameters=[LIMIT, CURSOR],
        responses={200: FilePage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All files that were imported, the earliest first."""
        rows = ProviderFile.objects.filter(operator=operator_of(request)).order_by("id")
        return Response(pagination.page(request, rows, by="id", of_type=int, show=show_files))


def _word(request: Request, name: str) -> str:
    """A query parameter of printable text. Raises BadQuery."""
    given = request.query_params.get(name, "")
    if len(given) > 200 or not given.isprintable():
        raise pagination.BadQuery(f"{name} is up to 200 printable characters")
    return given


class DayBody(serializers.Serializer[Any]):
    """`total` = `matched` + `missing_here` + `amount_differs` + `fees` + `payouts`, as the provider
    says; `ours` = `matched` + `amount_differs_ours` + `missing_there`, as our books do."""

    account = serializers.CharField()
    day = serializers.DateField()
    lines = serializers.IntegerField()
    total = MoneyBody()
    matched = MoneyBody()
    missing_here = MoneyBody()
    amount_differs = MoneyBody()
    fees = MoneyBody()
    payouts = MoneyBody()
    ours = MoneyBody()
    amount_differs_ours = MoneyBody()
    missing_there = MoneyBody()
    open = serializers.IntegerField(help_text="differences that nobody has resolved")
    open_amount = MoneyBody()


class DaysBody(serializers.Serializer[Any]):
    items = DayBody(many=True)


def show_day(one: Day, currency: str) -> dict[str, Any]:
    """A day as it travels."""
    return {
        name: money_to_wire(Money(value, currency))
        if isinstance(value, Decimal)
        else value.isoformat()
        if isinstance(value, dt.date)
        else value
        for name, value in one._asdict().items()
    }


_FROM, _TO = (
    OpenApiParameter(
        name, OpenApiTypes.DATE, description=f"The {which} day; default: of the last 31."
    )
    for name, which in (("from", "first"), ("to", "last"))
)


class ProviderDaysDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_provider_days",
        parameters=[_FROM, _TO],
        responses={200: DaysBody, **refusals(422)},
    )
    def get(self, request: Request) -> Response:
        """What providers say they moved, day by day, and how much of it is in our books; where no
        days are asked for, the last 31."""
        operator = operator_of(request)
        found = reporting.days(operator, *days_of(request, last_days_of=operator))
        return Response({"items": [show_day(one, operator.currency) for one in found]})


# Differences --------------------------------------------------------------------------------------

DIFFERENCE = OpenApiParameter("difference_id", int, OpenApiParameter.PATH)
STATE = OpenApiParameter("state", {"type": "string", "enum": PaymentDifference.State.values})


class DifferenceBody(serializers.Serializer[Any]):
    """What a provider and our books do not say alike: `amount` = `theirs` - `ours_amount`."""

    id = serializers.IntegerField()
    account = serializers.CharField()
    day = serializers.DateField()
    age_days = serializers.IntegerField(help_text="since that day")
    kind = serializers.ChoiceField(choices=PaymentDifference.Kind.values)
    line = serializers.CharField(allow_null=True, help_text="the provider's id of it")
    ours = serializers.CharField(allow_null=True, help_text="the key of our posting")
    theirs = MoneyBody()
    ours_amount = MoneyBody()
    amount = MoneyBody()
    owner = serializers.CharField()
    note = serializers.CharField()
    state = serializers.ChoiceField(choices=PaymentDifference.State.values)
    resolution = serializers.ChoiceField(
        choices=PaymentDifference.Resolution.values, allow_null=True
    )
    asked_by = serializers.CharField(allow_null=True)
    resolved_by = serializers.CharField(allow_null=True)
    resolved_at = Instant(allow_null=True)


class DifferencePage(serializers.Serializer[Any]):
    items = DifferenceBody(many=True)
    next = serializers.URLField(allow_null=True)


class AssignBody(serializers.Serializer[Any]):
    owner = Text(max_length=100, allow_blank=True)
    note = Text(max_length=300, allow_blank=True)


class ResolveBody(serializers.Serializer[Any]):
    """`fee` books it as the provider's fee, `arrived` a payout into the bank, `written_off` onto
    the account payment_differences; `unclear_payment` hands it to the payment tasks, `known` books
    nothing."""

    resolution = serializers.ChoiceField(choices=list(differing.BY_STAFF))
    note = Text(max_length=300)


class WhyBody(serializers.Serializer[Any]):
    note = Text(max_length=150)


def show_differences(rows: Sequence[PaymentDifference], *, at: dt.datetime) -> list[dict[str, Any]]:
    """Differences as they travel, with who asked for a write-off that waits or was approved."""
    asked = {
        about: one.asked_by
        for about, one in approvals.about(
            Approval.Kind.DIFFERENCE, [row.pk for row in rows]
        ).items()
        if one.state in (Approval.State.PENDING, Approval.State.APPROVED)
    }
    return [_show_difference(row, asked.get(row.pk), at=at) for row in rows]


def _show_difference(
    one: PaymentDifference, asked_by: str | None, *, at: dt.datetime
) -> dict[str, Any]:

    def money(amount: Decimal) -> dict[str, str]:
        return money_to_wire(Money(amount, one.currency))

    return {
        "id": one.pk,
        "account": one.account,
        "day": one.day.isoformat(),
        "age_days": max((at.date() - one.day).days, 0),
        "kind": one.kind,
        "line": one.line_id or None,
        "ours": one.ours or None,
        "theirs": money(one.theirs),
        "ours_amount": money(one.our_amount),
        "amount": money(one.amount),
        **{name: getattr(one, name) for name in ("owner", "note", "state")},
        "resolution": one.resolution or None,
        "asked_by": asked_by,
        "resolved_by": one.resolved_by or None,
        "resolved_at": one.resolved_at and to_wire_time(one.resolved_at),
    }


class DifferencesDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_payment_differences",
        parameters=[STATE, LIMIT, CURSOR],
        responses={200: DifferencePage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All that differs, or that did, in the order it was found."""
        operator = operator_of(request)
        at = clock.now(operator)
        rows = PaymentDifference.objects.filter(operator=operator).order_by("id")
        state = request.query_params.get("state")
        if state is not None:
            if state not in PaymentDifference.State.values:
                raise pagination.BadQuery(
                    f"state is one of {', '.join(PaymentDifference.State.values)}"
                )
            rows = rows.filter(state=state)
        return Response(
            pagination.page(
                request,
                rows,
                by="id",
                of_type=int,
                show=lambda some: show_differences(some, at=at),
            )
        )


class _DifferenceDoor(OperatorDoor):
    """What one of them is answered with."""

    body: type[serializers.Serializer[Any]] = WhyBody

    def said(self, request: Request) -> dict[str, Any]:
        body = self.body(data=request.data)
        body.is_valid(raise_exception=True)
        return dict(body.validated_data)

    def decide(
        self, request: Request, difference_id: int, decision: Callable[..., Approval]
    ) -> Response:
        operator = operator_of(request)
        said = self.said(request)
        decision(
            operator,
            differing.waiting_for(operator, difference_id).pk,
            by=person_of(request),
            reason=said["note"],
            at=clock.now(operator),
        )
        return self.shown(request, differing.find(operator, difference_id))

    def shown(self, request: Request, one: PaymentDifference) -> Response:
        [shown] = show_differences([one], at=clock.now(operator_of(request)))
        return Response(shown)


_ANSWERS: dict[Any, Any] = {200: DifferenceBody, **refusals(404, 409, 413, 415, 422)}


class DifferenceAssignDoor(_DifferenceDoor):
    body = AssignBody

    @extend_schema(
        operation_id="assign_payment_difference",
        parameters=[DIFFERENCE, IDEMPOTENCY_KEY],
        request=AssignBody,
        responses=_ANSWERS,
    )
    @idempotent
    def post(self, request: Request, difference_id: int) -> Response:
        """Say who looks after it, and what is known of it."""
        operator = operator_of(request)
        said = self.said(request)
        return self.shown(request, differing.assign(operator, difference_id, **said))


class DifferenceResolveDoor(_DifferenceDoor):
    body = ResolveBody

    @extend_schema(
        operation_id="resolve_payment_difference",
        parameters=[DIFFERENCE, IDEMPOTENCY_KEY],
        request=ResolveBody,
        responses=_ANSWERS,
    )
    @idempotent
    def post(self, request: Request, difference_id: int) -> Response:
        """Say what it is, and book it; a write-off above the limit is `waiting` then."""
        operator = operator_of(request)
        said = self.said(request)
        return self.shown(
            request,
            differing.resolve(
                operator,
                difference_id,
                said["resolution"],
                note=said["note"],
                by=person_of(request),
                at=clock.now(operator),
            ),
        )


class DifferenceApproveDoor(_DifferenceDoor):
    @extend_schema(
        operation_id="approve_payment_difference",
        parameters=[DIFFERENCE, IDEMPOTENCY_KEY],
        request=WhyBody,
        responses=_ANSWERS,
    )
    @idempotent
    def post(self, request: Request, difference_id: int) -> Response:
        """Let it be written off: another key than that which asked."""
        return self.decide(request, difference_id, approving.approve)


class DifferenceRejectDoor(_DifferenceDoor):
    @extend_schema(
        operation_id="reject_payment_difference",
        parameters=[DIFFERENCE, IDEMPOTENCY_KEY],
        request=WhyBody,
        responses=_ANSWERS,
    )
    @idempotent
    def post(self, request: Request, difference_id: int) -> Response:
        """Let it not be written off: it is open again."""
        return self.decide(request, difference_id, approving.reject)
