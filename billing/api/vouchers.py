"""Doors for batches of vouchers, single vouchers, and redeeming one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.http import StreamingHttpResponse
from djmoney.money import Money
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.api.corrections import person_of
from billing.api.invoices import MoneyBody
from billing.exports import cells
from billing.models import Voucher, VoucherBatch
from billing.vouchers import keeping, redeeming
from billing.vouchers.keeping import Terms
from subscriptions import clock, registry
from subscriptions.api import pagination, problems
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import (
    Code,
    Count,
    Instant,
    Price,
    Text,
    Units,
    money_to_wire,
    to_wire_time,
)
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, EXTERNAL_ID, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.errors import DomainError
from subscriptions.models import Operator
from subscriptions.units import to_wire

CODE = OpenApiParameter(
    "batch",
    {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._]{0,31}$"},
    OpenApiParameter.PATH,
)
SERIAL = OpenApiParameter(
    "serial", {"type": "string", "maxLength": 40}, OpenApiParameter.PATH, description="As printed."
)
_CSV = "text/csv"


class VoucherBatchTerms(serializers.Serializer[Any]):
    """What a batch is to be: one of `amount`, `booster` and `units` is what a code gives."""

    name = Text(max_length=200)
    count = Count(min_value=1, max_value=keeping.MOST)
    amount = Price(required=False, help_text="into the wallet")
    booster = Code(required=False, help_text="in the version on sale now")
    units = Units(required=False, help_text="as a gift")
    valid_days = Count(
        min_value=1, max_value=3660, required=False, help_text="of units, from the redeeming on"
    )
    valid_from = Instant()
    valid_until = Instant(help_text="exclusive: what is not redeemed by then never is")


class VoucherBatchBody(serializers.Serializer[Any]):
    """A batch: how far it is made, and how many of its vouchers are in which state."""

    code = serializers.CharField()
    name = serializers.CharField()
    count = serializers.IntegerField()
    made = serializers.IntegerField(help_text="it is ready when this is `count`")
    gives = serializers.ChoiceField(choices=VoucherBatch.Gives.values)
    amount = MoneyBody(required=False)
    booster = serializers.CharField(required=False)
    units = serializers.CharField(required=False)
    valid_days = serializers.IntegerField(required=False)
    valid_from = Instant()
    valid_until = Instant()
    created_at = Instant()
    codes_shown_at = Instant(allow_null=True)
    states = serializers.DictField(
        child=serializers.IntegerField(), required=False, help_text="of one batch, not in the list"
    )
    codes_key = serializers.CharField(
        required=False, help_text="opens the codes; told once, when the batch is ordered"
    )


class VoucherBatchPage(serializers.Serializer[Any]):
    items = VoucherBatchBody(many=True)
    next = serializers.URLField(allow_null=True)


class CodesKey(serializers.Serializer[Any]):
    key = Text(max_length=100, help_text="`codes_key`, as it came when the batch was ordered")


class Range(serializers.Serializer[Any]):
    """Numbers within the batch, both included."""

    first = Count(min_value=1, max_value=keeping.MOST)
    last = Count(min_value=1, max_value=keeping.MOST)


class RangeToVoid(Range):
    reason = Text(max_length=200)


class Changed(serializers.Serializer[Any]):
    changed = serializers.IntegerField(help_text="how many vouchers were not so before")


class VoucherBody(serializers.Serializer[Any]):
    """A voucher by its serial number. Its code is known to nobody but its holder."""

    serial = serializers.CharField()
    batch = serializers.CharField()
    state = serializers.ChoiceField(choices=Voucher.State.values)
    changed_at = Instant()
    subscriber = serializers.CharField(required=False, help_text="who redeemed it")
    gives = serializers.ChoiceField(choices=VoucherBatch.Gives.values)
    amount = MoneyBody(required=False)
    units = serializers.CharField(required=False)
    booster = serializers.CharField(required=False)
    valid_from = Instant()
    valid_until = Instant()


class VoidReason(serializers.Serializer[Any]):
    reason = Text(max_length=200)


class VoucherRedemption(serializers.Serializer[Any]):
    code = Text(max_length=64, help_text="blanks, hyphens and small letters do not matter")
    origin = Text(
        max_length=100,
        required=False,
        allow_blank=True,
        help_text="where the subscriber asks from, such as its address: tries are counted by it",
    )


def _worth(batch: VoucherBatch) -> dict[str, Any]:
    said: dict[str, Any] = {"gives": batch.gives}
    if batch.amount:
        said["amount"] = money_to_wire(Money(batch.amount, batch.currency))
    if batch.booster is not None:
        said["booster"] = batch.booster.code
    if batch.units is not None:
        said["units"] = to_wire(batch.units)
    return said | {
        "valid_from": to_wire_time(batch.valid_from),
        "valid_until": to_wire_time(batch.valid_until),
    }


def show_batch(batch: VoucherBatch) -> dict[str, Any]:
    days = {} if batch.valid_days is None else {"valid_days": batch.valid_days}
    return {
        "code": batch.code,
        "name": batch.name,
        "count": batch.count,
        "made": batch.made,
        **_worth(batch),
        **days,
        "created_at": to_wire_time(batch.created_at),
        "codes_shown_at": None if batch.shown_at is None else to_wire_time(batch.shown_at),
    }


def show_voucher(voucher: Voucher) -> dict[str, Any]:
    holder = voucher.subscriber
    return {
        "serial": keeping.serial_of(voucher.batch, voucher.nr),
        "batch": voucher.batch.code,
        "state": voucher.state,
        "changed_at": to_wire_time(voucher.changed_at),
        **({} if holder is None else {"subscriber": holder.external_id}),
        **_worth(voucher.batch),
    }


class VoucherBatchDoor(OperatorDoor):
    # Not by an idempotency key: its answer would be kept, with the key that opens the codes.
    @extend_schema(
        operation_id="order_voucher_batch",
        parameters=[CODE],
        request=VoucherBatchTerms,
        responses={
            200: OpenApiResponse(VoucherBatchBody, description="It says just that already."),
            201: VoucherBatchBody,
            **refusals(409, 413, 415, 422),
        },
    )
    def put(self, request: Request, batch: str) -> Response:
        """Order a batch of vouchers; workers make them. `codes_key` is told only now: without it
        nobody can ever read the codes."""
        operator = operator_of(request)
        body = VoucherBatchTerms(data=request.data, context={"operator": operator})
        body.is_valid(raise_exception=True)
        said = body.validated_data
        amount: Money | None = said.pop("amount", None)
        terms = Terms(
            **said,
            amount=None if amount is None else amount.amount,
            currency="" if amount is None else amount.currency.code,
        )
        made, key = keeping.order(
            operator, batch, terms, by=person_of(request), at=clock.now(operator)
        )
        told = {} if key is None else {"codes_key": key}
        return Response(
            show_batch(made) | told,
            status=200 if key is None else 201,
            headers={"Cache-Control": "no-store"},
        )

    @extend_schema(
        operation_id="get_voucher_batch",
        parameters=[CODE],
        responses={200: VoucherBatchBody, **refusals(404)},
    )
    def get(self, request: Request, batch: str) -> Response:
        """A batch, with how many of its vouchers are in which state."""
        found = keeping.find_batch(operator_of(request), batch)
        return Response(show_batch(found) | {"states": keeping.counts(found)})


class VoucherBatchesDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_voucher_batches",
        parameters=[LIMIT, CURSOR],
        responses={200: VoucherBatchPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All batches, by code."""
        rows = VoucherBatch.objects.filter(operator=operator_of(request)).select_related("booster")
        return Response(
            pagination.page(
                request,
                rows.order_by("code"),
                by="code",
                of_type=str,
                show=lambda some: [show_batch(one) for one in some],
            )
        )


class VoucherCodesDoor(OperatorDoor):
    @extend_schema(
        operation_id="show_voucher_codes",
        parameters=[CODE],
        request=CodesKey,
        responses={
            (200, _CSV): OpenApiResponse(OpenApiTypes.STR, description="`serial,code` by line."),
            **refusals(404, 409, 413, 415, 422),
        },
    )
    def post(self, request: Request, batch: str) -> StreamingHttpResponse:
        """The codes of a batch as a CSV file, once and never again: keep it like money."""
        operator = operator_of(request)
        body = CodesKey(data=request.data)
        body.is_valid(raise_exception=True)
        rows = keeping.show(operator, batch, body.validated_data["key"], at=clock.now(operator))
        answer = StreamingHttpResponse(cells.encode(_with_header(rows)), content_type=_CSV)
        answer["Content-Disposition"] = f'attachment; filename="{batch}.csv"'
        answer["Cache-Control"] = "no-store, private"
        return answer


def _with_header(rows: Iterator[Sequence[str]]) -> Iterator[Sequence[str]]:
    yield "serial", "code"
    yield from rows


class ActivateVouchersDoor(OperatorDoor):
    @extend_schema(
        operation_id="activate_vouchers",
        parameters=[CODE],
        request=Range,
        responses={200: Changed, **refusals(404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, batch: str) -> Response:
        """Let a range of vouchers be redeemed: they are sold, and owed from now on. Again changes
        nothing. At most 100,000 at once."""
        operator = operator_of(request)
        body = Range(data=request.data)
        body.is_valid(raise_exception=True)
        said = body.validated_data
        done = keeping.activate(
            operator,
            batch,
            said["first"],
            said["last"],
            by=person_of(request),
            at=clock.now(operator),
        )
        return Response({"changed": done.changed})


class VoidVouchersDoor(OperatorDoor):
    @extend_schema(
        operation_id="void_vouchers",
        parameters=[CODE],
        request=RangeToVoid,
        responses={200: Changed, **refusals(404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, batch: str) -> Response:
        """Let a range of vouchers never be redeemed. What is redeemed stays so."""
        operator = operator_of(request)
        body = RangeToVoid(data=request.data)
        body.is_valid(raise_exception=True)
        said = body.validated_data
        done = _void(request, operator, batch, said["first"], said["last"], said["reason"])
        return Response({"changed": done.changed})


def _void(
    request: Request, operator: Operator, batch: str, first: int, last: int, reason: str
) -> keeping.Done:
    at = clock.now(operator)
    return keeping.void(operator, batch, first, last, reason=reason, by=person_of(request), at=at)


class VoucherDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_voucher",
        parameters=[SERIAL],
        responses={200: VoucherBody, **refusals(404)},
    )
    def get(self, request: Request, serial: str) -> Response:
        """A voucher by the serial number that is printed on it."""
        return Response(show_voucher(keeping.find(operator_of(request), serial)))


class VoidVoucherDoor(OperatorDoor):
    @extend_schema(
        operation_id="void_voucher",
        parameters=[SERIAL],
        request=VoidReason,
        responses={200: VoucherBody, **refusals(404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, serial: str) -> Response:
        """Let a voucher never be redeemed: 409 `not_voidable` where it is redeemed or expired."""
        operator = operator_of(request)
        body = VoidReason(data=request.data)
        body.is_valid(raise_exception=True)
        found = keeping.find(operator, serial)
        reason = body.validated_data["reason"]
        _void(request, operator, found.batch.code, found.nr, found.nr, reason)
        found = keeping.find(operator, serial)
        if found.state != Voucher.State.VOID:
            raise keeping.NotVoidable(f"it is {found.state}")
        return Response(show_voucher(found))


class RedeemVoucherDoor(OperatorDoor):
    @extend_schema(
        operation_id="redeem_voucher",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=VoucherRedemption,
        responses={200: VoucherBody, **refusals(404, 409, 413, 415, 422, 429)},
    )
    @idempotent
    def post(self, request: Request, external_id: str) -> Response:
        """Redeem a voucher by its code, once; its subscriber may send it again. After five codes in
        an hour that are none nobody listens for an hour (429 `voucher_locked_out`)."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        body = VoucherRedemption(data=request.data)
        body.is_valid(raise_exception=True)
        done = redeeming.redeem(
            operator,
            subscriber.pk,
            body.validated_data["code"],
            at=clock.now(operator),
            source=body.validated_data.get("origin", ""),
        )
        # What was counted stays, hence it is answered and not raised.
        if isinstance(done, DomainError):
            return problems.exception_handler(done, {})
        done.subscriber = subscriber
        return Response(show_voucher(done))
