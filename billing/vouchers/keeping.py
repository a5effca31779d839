"""Batches of vouchers and what becomes of each, from making to expiry: the only writer of
VoucherBatch, Voucher, VoucherSet and VoucherStep.

A voucher is owed from its activation, when a distributor has paid for it: `cash:voucher` against
`voucher`. Redeemed, what is owed goes to the wallet; void, the distributor gets it back; expired,
it is `voucher_breakage`. Posted in the transaction of each, by step or voucher.

Locks: the batch, then its vouchers by number; a single voucher is locked without its batch.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from django.db import connection, transaction
from django.db.models import Count, F

from billing import ledger, rating
from billing.ledger import Side
from billing.models import Voucher, VoucherBatch, VoucherSet, VoucherStep
from billing.vouchers import codes
from subscriptions import catalog
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Booster, Operator

State, Gives = Voucher.State, VoucherBatch.Gives
MOST = 1_000_000
# So many are made by one transaction, and changed by one request.
SET = 5_000
AT_ONCE = 100_000
LONGEST = dt.timedelta(days=3660)
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]{0,31}", re.ASCII)
_SERIAL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._]{0,31})-([0-9]{7})", re.ASCII)
CASH = "cash:voucher"


class BatchMade(Conflict):
    cause = "batch_made"


class StillMaking(Conflict):
    cause = "still_making"


class CodesShown(Conflict):
    cause = "codes_shown"


class WrongCodesKey(Invalid):
    cause = "wrong_key"


class NotVoidable(Conflict):
    cause = "not_voidable"


# Ordering a batch --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """All that a batch says; one of `amount`, `booster` and `units` (in thousandths)."""

    name: str
    count: int
    valid_from: dt.datetime
    valid_until: dt.datetime
    amount: Decimal | None = None
    currency: str = ""
    booster: str | None = None
    units: int | None = None
    valid_days: int | None = None


@transaction.atomic
def order(
    operator: Operator, code: str, terms: Terms, *, by: str, at: dt.datetime
) -> tuple[VoucherBatch, str | None]:
    """The batch of this code, and where it was ordered now the key that will open its codes.

    That key is told here once: it is kept nowhere. The same terms again answer the batch without
    it. Raises BatchMade for other terms, Invalid, UnknownBooster.
    """
    if not _CODE.fullmatch(code):
        raise Invalid("a batch's code has 1 to 32 letters, digits, dots and underscores")
    _check(operator, terms, at=at)
    catalog.lock(operator)
    known = VoucherBatch.objects.filter(operator=operator, code=code).first()
    if known is not None:
        if _terms_of(known) != terms:
            raise BatchMade(f"{code} says something else already; take another code")
        return known, None
    booster: Booster | None = None
    amount, gives = terms.amount, Gives.MONEY
    if terms.booster is not None:
        booster, gives = catalog.newest_booster(operator.pk, terms.booster), Gives.BOOSTER
        amount = booster.price.amount
        if not amount or booster.price.currency.code != operator.currency:
            raise Invalid("a voucher is for a booster that has a price in the operator's currency")
    elif terms.units is not None:
        amount, gives = rating.ZERO, Gives.UNITS
    assert amount is not None
    key, public = codes.new_key()
    batch = VoucherBatch.objects.create(
        operator=operator,
        code=code,
        name=terms.name,
        gives=gives,
        currency=operator.currency,
        amount=amount,
        booster=booster,
        units=terms.units,
        valid_days=terms.valid_days,
        valid_from=terms.valid_from,
        valid_until=terms.valid_until,
        count=terms.count,
        public_key=public,
        made_by=by,
        created_at=at,
    )
    return batch, key


def _check(operator: Operator, terms: Terms, *, at: dt.datetime) -> None:
    said = [one for one in (terms.amount, terms.booster, terms.units) if one is not None]
    if len(said) != 1:
        raise Invalid("a voucher gives one of amount, booster and units")
    if terms.amount is not None and not (
        0 < terms.amount == rating.to_fen(terms.amount) and terms.currency == operator.currency
    ):
        raise Invalid(f"the amount is above 0, to the fen, in {operator.currency}")
    if (terms.units is not None) != (terms.valid_days is not None):
        raise Invalid("units have valid_days, and nothing else has")
    if terms.units is not None and (terms.units <= 0 or not 1 <= (terms.valid_days or 0) <= 3660):
        raise Invalid("units are above 0, valid_days 1 to 3660")
    if not 1 <= terms.count <= MOST:
        raise Invalid(f"a batch has 1 to {MOST} vouchers")
    if not terms.valid_from < terms.valid_until <= terms.valid_from + LONGEST:
        raise Invalid("valid_until lies after valid_from, at most ten years")
    if terms.valid_until <= at:
        raise Invalid("valid_until lies after the operator's now")


def _terms_of(batch: VoucherBatch) -> Terms:
    money = batch.gives == Gives.MONEY
    return Terms(
        name=batch.name,
        count=batch.count,
        valid_from=batch.valid_from,
        valid_until=batch.valid_until,
        amount=batch.amount if money else None,
        currency=batch.currency if money else "",
        booster=batch.booster.code if batch.booster is not None else None,
        units=batch.units,
        valid_days=batch.valid_days,
    )


# Making ------------------------------------------------------------------------------------------


def making(operator_id: int) -> list[int]:
    """Batches of which some are still to be made."""
    waiting = VoucherBatch.objects.filter(operator_id=operator_id, made__lt=F("count"))
    return list(waiting.order_by("id").values_list("pk", flat=True))


_MAKE_SQL = """
INSERT INTO billing_voucher (batch_id, nr, operator_id, digest, state, changed_at)
SELECT %s, v.nr, %s, v.digest, 'made', %s
FROM unnest(%s::integer[], %s::bytea[]) AS v (nr, digest)
"""


@transaction.atomic
def make_next(batch_id: int, *, at: dt.datetime) -> bool:
    """Make the next set of a batch; False where there is none, or another worker is at it.

    A set is there whole, with its sealed codes, or not at all: who was killed has made nothing.
    """
    batch = (
        VoucherBatch.objects.select_for_update(skip_locked=True, no_key=True)
        .filter(pk=batch_id, made__lt=F("count"))
        .first()
    )
    if batch is None:
        return False
    first = batch.made + 1
    last = min(batch.made + SET, batch.count)
    made = [codes.new() for _ in range(first, last + 1)]
    with connection.cursor() as cursor:
        cursor.execute(
            _MAKE_SQL,
            [
                batch.pk,
                batch.operator_id,
                at,
                list(range(first, last + 1)),
                [codes.digest(batch.operator_id, code) for code in made],
            ],
        )
    VoucherSet.objects.create(
        batch=batch, first=first, sealed=codes.seal(bytes(batch.public_key), made)
    )
    VoucherBatch.objects.filter(pk=batch.pk).update(made=last)
    return True


# Showing -----------------------------------------------------------------------------------------


def show(operator: Operator, code: str, key: str, *, at: dt.datetime) -> Iterator[Sequence[str]]:
    """The serial numbers with their codes, once: what was sealed is dropped behind them.

    The batch counts as shown before the first row is answered: a reader who breaks off has to void
    it and order another. Raises NotFound, StillMaking, CodesShown, WrongCodesKey; then nothing was
    shown.
    """
    with transaction.atomic():
        batch = _locked(operator, code)
        if batch.made < batch.count:
            raise StillMaking(f"{batch.made} of {batch.count} are made; ask again later")
        if batch.shown_at is not None:
            raise CodesShown("the codes were shown; void the batch and order another")
        sample = VoucherSet.objects.filter(batch=batch).order_by("first").first()
        assert sample is not None
        try:
            codes.unseal(key, bytes(sample.sealed))
        except codes.WrongKey as error:
            raise WrongCodesKey("this is not the key that came when the batch was made") from error
        VoucherBatch.objects.filter(pk=batch.pk).update(shown_at=at)
    return _rows(batch, key)


def _rows(batch: VoucherBatch, key: str) -> Iterator[Sequence[str]]:
    try:
        first = 1
        while first <= batch.count:
            kept = VoucherSet.objects.get(batch=batch, first=first)
            for code in codes.unseal(key, bytes(kept.sealed)):
                yield serial_of(batch, first), codes.shown(code)
                first += 1
    finally:
        forget_shown(batch.operator_id)


def forget_shown(operator_id: int) -> int:
    """Drop sealed codes that were shown, or were to be: the sweep does so after a crash."""
    shown = VoucherSet.objects.filter(batch__operator_id=operator_id, batch__shown_at__isnull=False)
    return shown.delete()[0]


# Finding -----------------------------------------------------------------------------------------


def serial_of(batch: VoucherBatch, nr: int) -> str:
    return f"{batch.code}-{nr:07}"


def find_batch(operator: Operator, code: str) -> VoucherBatch:
    """Raises NotFound, also for another operator's."""
    found = None
    if _CODE.fullmatch(code):
        found = VoucherBatch.objects.filter(operator=operator, code=code).first()
    if found is None:
        raise NotFound("there is no such batch of vouchers")
    return found


def find(operator: Operator, serial: str) -> Voucher:
    """The voucher of a serial number, with its batch. Raises NotFound."""
    said = _SERIAL.fullmatch(serial)
    found = None
    if said is not None:
        found = (
            Voucher.objects.select_related("batch", "subscriber")
            .filter(operator=operator, batch__operator=operator, batch__code=said[1], nr=said[2])
            .first()
        )
    if found is None:
        raise NotFound("there is no such voucher")
    return found


def _locked(operator: Operator, code: str) -> VoucherBatch:
    find_batch(operator, code)
    return VoucherBatch.objects.select_for_update(no_key=True).get(operator=operator, code=code)


def counts(batch: VoucherBatch) -> dict[str, int]:
    """How many vouchers of a batch are in each state."""
    rows = Voucher.objects.filter(batch=batch).values_list("state").annotate(Count("nr"))
    return dict.fromkeys(State.values, 0) | dict(rows)


# Many at once ------------------------------------------------------------------------------------

_MOVE_SQL = """
WITH held AS (
    SELECT nr, state FROM billing_voucher
    WHERE batch_id = %(batch)s AND nr BETWEEN %(first)s AND %(last)s AND state = ANY(%(from)s)
    ORDER BY nr
    LIMIT %(limit)s
    FOR NO KEY UPDATE
), moved AS (
    UPDATE billing_voucher v SET state = %(to)s, changed_at = %(at)s
    FROM held h WHERE v.batch_id = %(batch)s AND v.nr = h.nr
    RETURNING h.nr, h.state
)
SELECT count(*), count(*) FILTER (WHERE state = 'activated'), min(nr), max(nr) FROM moved
"""


@dataclass(frozen=True, slots=True)
class Done:
    """Of how many vouchers the state was changed."""

    changed: int


@transaction.atomic
def activate(
    operator: Operator, code: str, first: int, last: int, *, by: str, at: dt.datetime
) -> Done:
    """Let the vouchers of a range be redeemed, and owe what they are worth, from now on.

    Again changes nothing. Raises NotFound, Invalid, StillMaking.
    """
    batch = _locked(operator, code)
    _check_range(batch, first, last)
    if last > batch.made:
        raise StillMaking(f"{batch.made} of {batch.count} are made; ask again later")
    if at >= batch.valid_until:
        raise Invalid("the batch has expired")
    return _move(batch, VoucherStep.Kind.ACTIVATED, first, last, by=by, reason="", at=at)


@transaction.atomic
def void(
    operator: Operator, code: str, first: int, last: int, *, reason: str, by: str, at: dt.datetime
) -> Done:
    """Let the vouchers of a range never be redeemed: what is redeemed or expired stays so.

    Again changes nothing. Raises NotFound, Invalid, StillMaking.
    """
    if not reason:
        raise Invalid("a voucher is made void for a reason")
    batch = _locked(operator, code)
    _check_range(batch, first, last)
    if last > batch.made:
        raise StillMaking(f"{batch.made} of {batch.count} are made; ask again later")
    return _move(batch, VoucherStep.Kind.VOID, first, last, by=by, reason=reason, at=at)


def _check_range(batch: VoucherBatch, first: int, last: int) -> None:
    if not 1 <= first <= last <= batch.count:
        raise Invalid(f"the batch has the numbers 1 to {batch.count}")
    if last - first >= AT_ONCE:
        raise Invalid(f"at most {AT_ONCE} vouchers are changed at once; name a range")


SWEEP = "sweep"


@transaction.atomic
def expire_next(operator: Operator, *, at: dt.datetime) -> int:
    """Expire some vouchers of a batch that has ended; answers 0 where none is left."""
    batch = (
        VoucherBatch.objects.select_for_update(skip_locked=True, no_key=True)
        .filter(operator=operator, valid_until__lte=at, expired_at__isnull=True, made=F("count"))
        .order_by("id")
        .first()
    )
    if batch is None:
        return 0
    done = _move(
        batch, VoucherStep.Kind.EXPIRED, 1, batch.count, by=SWEEP, reason="", at=at, limit=SET
    )
    if done.changed < SET:
        VoucherBatch.objects.filter(pk=batch.pk).update(expired_at=at)
    return done.changed or 1


_FROM = {
    VoucherStep.Kind.ACTIVATED: [State.MADE.value],
    VoucherStep.Kind.VOID: [State.MADE.value, State.ACTIVATED.value],
    VoucherStep.Kind.EXPIRED: [State.MADE.value, State.ACTIVATED.value],
}


def _move(
    batch: VoucherBatch,
    kind: VoucherStep.Kind,
    first: int,
    last: int,
    *,
    by: str,
    reason: str,
    at: dt.datetime,
    limit: int = AT_ONCE,
) -> Done:
    """Change the state of vouchers of a locked batch, with its history and its posting."""
    with connection.cursor() as cursor:
        cursor.execute(
            _MOVE_SQL,
            {
                "batch": batch.pk,
                "first": first,
                "last": last,
                "from": _FROM[kind],
                "to": kind.value,
                "at": at,
                "limit": limit,
            },
        )
        [(count, were_owed, low, high)] = cursor.fetchall()
    if not count:
        return Done(0)
    activated = kind == VoucherStep.Kind.ACTIVATED
    moved = count if activated else were_owed
    nr = batch.steps + 1
    VoucherBatch.objects.filter(pk=batch.pk).update(steps=nr)
    VoucherStep.objects.create(
        batch=batch,
        nr=nr,
        kind=kind,
        first=low,
        last=high,
        count=count,
        moved=moved,
        by=by,
        reason=reason,
        at=at,
    )
    # What is not owed any more goes where it came from, or is earned by nobody's asking.
    other = ledger.VOUCHER_BREAKAGE if kind == VoucherStep.Kind.EXPIRED else CASH
    amount = moved * batch.amount * (1 if activated else -1)
    draft = ledger.Draft(
        f"vouchers:{batch.pk}:{nr}",
        "voucher",
        at,
        batch.currency,
        (Side(other, amount), Side(ledger.VOUCHER, -amount)),
        f"{batch.code}: {count} {kind.value}",
    )
    ledger.post(batch.operator_id, draft)
    return Done(count)


# One ---------------------------------------------------------------------------------------------


def locked_by_code(operator_id: int, code: str) -> Voucher | None:
    """The voucher of a code, locked, with its batch; None where there is none here."""
    return (
        Voucher.objects.select_related("batch__booster")
        .select_for_update(of=("self",), no_key=True)
        .filter(digest__in=codes.digests(operator_id, code), operator_id=operator_id)
        .first()
    )


def redeemed(voucher: Voucher, subscriber_id: int, *, at: dt.datetime) -> None:
    """Note that a locked voucher is used up. Joins the caller's transaction, which gives what it is
    worth."""
    assert connection.in_atomic_block
    voucher.state, voucher.changed_at, voucher.subscriber_id = State.REDEEMED, at, subscriber_id
    Voucher.objects.filter(batch_id=voucher.batch_id, nr=voucher.nr).update(
        state=State.REDEEMED, changed_at=at, subscriber_id=subscriber_id
    )
