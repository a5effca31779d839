"""What a row of each kind of file says, and what becomes of rows: by the same fields and functions
as the doors for single ones. The same row again changes nothing."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.db import transaction
from django.db.models import Q
from rest_framework import serializers

from billing.models import Voucher, VoucherBatch
from billing.vouchers import keeping
from subscriptions import coupons, registry
from subscriptions.api import problems
from subscriptions.api.coupons import CouponBody
from subscriptions.api.fields import Code
from subscriptions.api.subscribers import BatchItem, draft_of
from subscriptions.errors import DomainError
from subscriptions.models import Coupon, Operator
from subscriptions.registry import CREATED, REJECTED, UNCHANGED, UPDATED

Row = dict[str, str]
_SEVERAL = re.compile(r"[;；|\n]")
_KINDS = {"个人": "person", "企业": "organisation", "单位": "organisation", "集团": "organisation"}
_FLAGS = {
    **dict.fromkeys(("true", "yes", "y", "1", "是"), True),
    **dict.fromkeys(("false", "no", "n", "0", "否"), False),
}
_STATES = {"激活": "activated", "已激活": "activated", "作废": "void", "已作废": "void"}
_DAY = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[ T](\d{1,2}):(\d{2})(?::(\d{2}))?)?")


class Outcome(NamedTuple):
    """What became of a row: `cause` and `detail` say why it was rejected."""

    status: str
    cause: str = ""
    detail: str = ""


def rejected(error: Exception) -> Outcome:
    problem = problems.describe(error)
    said = "; ".join(f"{one['field']}: {one['detail']}" for one in problem.errors)
    return Outcome(REJECTED, problem.cause, (said or problem.detail)[:500])


def key_of(kind: str, row: Row) -> str:
    """By what the result file names a row."""
    return row.get(
        {"subscribers": "external_id", "coupons": "code", "vouchers": "serial"}[kind], ""
    )


def apply(
    kind: str, operator: Operator, rows: Sequence[Row], *, by: str, at: dt.datetime
) -> list[Outcome]:
    """Do what rows say, up to 1,000, each whole or not at all; in the caller's transaction."""
    return _APPLY[kind](operator, rows, by, at)


# Subscribers -------------------------------------------------------------------------------------


def _subscribers(
    operator: Operator, rows: Sequence[Row], by: str, at: dt.datetime
) -> list[Outcome]:
    read = BatchItem()
    outcomes: dict[int, Outcome] = {}
    drafts: dict[int, registry.Draft] = {}
    for index, row in enumerate(rows):
        item: dict[str, Any] = {field: text for field, text in row.items() if text}
        if "subjects" in item:
            item["subjects"] = _several(item["subjects"])
        if "kind" in item:
            item["kind"] = _KINDS.get(item["kind"], item["kind"])
        try:
            said = read.run_validation(item)
        except serializers.ValidationError as error:
            outcomes[index] = rejected(error)
            continue
        drafts[index] = draft_of(said["external_id"], said)
    done = registry.upsert(operator, list(drafts.values()), at=at)
    for index, one in zip(drafts, done, strict=True):
        outcomes[index] = Outcome(one.status) if one.error is None else rejected(one.error)
    return [outcomes[index] for index in range(len(rows))]


def _several(text: str) -> list[str]:
    return [one.strip() for one in _SEVERAL.split(text) if one.strip()]


# Coupons -----------------------------------------------------------------------------------------


def _coupons(operator: Operator, rows: Sequence[Row], by: str, at: dt.datetime) -> list[Outcome]:
    return [_coupon(operator, row, at) for row in rows]


def _coupon(operator: Operator, row: Row, at: dt.datetime) -> Outcome:
    item: dict[str, Any] = {field: text for field, text in row.items() if text}
    for field in ("periods", "max_redemptions"):
        if item.get(field, "").isdecimal() and len(item[field]) < 19:
            item[field] = int(item[field])
    for field in ("redeemable_from", "redeemable_until"):
        if field in item:
            item[field] = _instant(item[field], operator)
    if "plans" in item:
        item["plans"] = _several(item["plans"])
    if "first_subscription" in item:
        item["first_subscription"] = _FLAGS.get(item["first_subscription"].lower(), "")
    try:
        code = Code().run_validation(item.pop("code", ""))
        body = CouponBody(data=item, context={"operator": operator})
        body.is_valid(raise_exception=True)
        said = body.validated_data
        terms = coupons.CouponTerms(**{**said, "plans": tuple(said.get("plans") or ())})
        with transaction.atomic():
            known = Coupon.objects.filter(operator=operator, code=code).exists()
            coupons.publish(operator, code, terms, at=at)
    except (serializers.ValidationError, DomainError) as error:
        return rejected(error)
    return Outcome(UNCHANGED if known else CREATED)


def _instant(text: str, operator: Operator) -> str:
    """A day, or a time without its offset, is the operator's own; all else stays as it is."""
    said = _DAY.fullmatch(text)
    if said is None:
        return text
    try:
        numbers = [int(part or 0) for part in said.groups()]
        local = dt.datetime(*numbers, tzinfo=ZoneInfo(operator.time_zone))  # type: ignore[arg-type,misc]
    except ValueError:
        return text
    return local.isoformat()


# Vouchers ----------------------------------------------------------------------------------------


def _vouchers(operator: Operator, rows: Sequence[Row], by: str, at: dt.datetime) -> list[Outcome]:
    """Activates or voids cards; runs of numbers at once, for each is a posting."""
    known = _known_vouchers(operator, rows)
    outcomes: dict[int, Outcome] = {}
    wanted: list[tuple[str, str, str, int, int]] = []  # state, reason, batch, number, row
    seen: set[str] = set()
    for index, row in enumerate(rows):
        serial, state = row.get("serial", ""), row.get("state", "")
        state = _STATES.get(state, state)
        voucher = known.get(serial)
        if serial in seen:
            outcomes[index] = Outcome(REJECTED, "repeated", "named before, close by")
        elif voucher is not None and voucher.state == state:
            outcomes[index] = Outcome(UNCHANGED)
        elif state not in ("activated", "void"):
            outcomes[index] = Outcome(REJECTED, "invalid", "state: activated or void")
        elif state == "void" and not row.get("reason"):
            outcomes[index] = Outcome(REJECTED, "invalid", "reason: a voucher is void for a reason")
        elif voucher is None:
            outcomes[index] = Outcome(REJECTED, "not_found", "there is no such voucher")
        elif (state, voucher.state) == ("activated", "redeemed"):
            outcomes[index] = Outcome(UNCHANGED)
        elif voucher.state != "made" and (state, voucher.state) != ("void", "activated"):
            outcomes[index] = Outcome(REJECTED, "not_voidable", f"it is {voucher.state}")
        else:
            reason = row.get("reason", "")[:200]
            wanted.append((state, reason, voucher.batch.code, voucher.nr, index))
        seen.add(serial)
    for run in _runs(sorted(wanted)):
        state, reason, batch, first, _ = run[0]
        last = run[-1][3]
        try:
            with transaction.atomic():
                if state == "activated":
                    keeping.activate(operator, batch, first, last, by=by, at=at)
                else:
                    keeping.void(operator, batch, first, last, reason=reason, by=by, at=at)
        except DomainError as error:
            outcomes |= {one[4]: rejected(error) for one in run}
            continue
        outcomes |= {one[4]: Outcome(UPDATED) for one in run}
    return [outcomes[index] for index in range(len(rows))]


def _runs(
    wanted: list[tuple[str, str, str, int, int]],
) -> Iterator[list[tuple[str, str, str, int, int]]]:
    """Those alike whose numbers follow each other."""
    placed = enumerate(wanted)
    for _, run in groupby(placed, key=lambda one: (one[1][:3], one[1][3] - one[0])):
        yield [one for _, one in run]


def _known_vouchers(operator: Operator, rows: Sequence[Row]) -> dict[str, Voucher]:
    """The vouchers that rows name, by serial number."""
    numbers: dict[str, set[int]] = {}
    for row in rows:
        code, _, nr = row.get("serial", "").rpartition("-")
        if len(nr) == 7 and nr.isascii() and nr.isdecimal() and "\0" not in code:
            numbers.setdefault(code, set()).add(int(nr))
    found: dict[str, Voucher] = {}
    for batch in VoucherBatch.objects.filter(operator=operator, code__in=numbers):
        of_batch = Q(batch=batch, nr__in=numbers[batch.code])
        for voucher in Voucher.objects.filter(of_batch):
            voucher.batch = batch
            found[keeping.serial_of(batch, voucher.nr)] = voucher
    return found


_APPLY: dict[str, Callable[[Operator, Sequence[Row], str, dt.datetime], list[Outcome]]] = {
    "subscribers": _subscribers,
    "coupons": _coupons,
    "vouchers": _vouchers,
}
