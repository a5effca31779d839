"""What subscribers agreed to, in which words and when, and its end: the only writer of
AutoTopUp."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal

from django.db import connection, transaction

from billing import methods, rating, top_up_policies, wallets
from billing.auto_top_up import runs
from billing.models import AutoTopUp, AutoTopUpRun, Order
from billing.orders import keeping, paying
from billing.ways import known
from subscriptions import outbox
from subscriptions.errors import Invalid, NotFound
from subscriptions.models import Operator
from subscriptions.outbox import Happening


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is agreed to."""

    threshold: Decimal
    amount: Decimal
    daily_limit: Decimal
    monthly_limit: Decimal
    way: str
    method: str
    text: str
    text_version: str
    language: str
    channel: str


def agree(operator: Operator, subscriber_id: int, terms: Terms, *, at: dt.datetime) -> AutoTopUp:
    """Keep what a subscriber agrees to, in place of what it agreed to before; the same again
    answers that. A wallet that is below the threshold already is filled at once.

    `method` is the provider's name of one that the subscriber has saved. Raises Invalid,
    top_up_policies.NotOffered, paying.UnknownMethod.
    """
    amounts = (terms.threshold, terms.amount, terms.daily_limit, terms.monthly_limit)
    if any(one <= 0 or one != rating.to_fen(one) for one in amounts):
        raise Invalid("amounts are above nothing, to the fen")
    if not terms.threshold <= terms.amount <= terms.daily_limit <= terms.monthly_limit:
        raise Invalid("threshold <= amount <= daily_limit <= monthly_limit")
    if terms.way not in known.ONLINE:
        raise Invalid(f"a wallet is filled by a saved method of {', '.join(known.ONLINE)}")
    top_up_policies.check_amount(operator, terms.amount, at=at)
    with transaction.atomic():
        keeping.lock_subscriber(subscriber_id)
        if not methods.is_saved(operator, subscriber_id, terms.method):
            raise paying.UnknownMethod("the subscriber has saved no such method")
        before = runs.agreed([subscriber_id]).get(subscriber_id)
        if before is not None:
            if terms_of(before) == terms:
                return before
            _end(before, "agreed to anew", at=at)
        with connection.cursor() as cursor:
            cursor.execute("SELECT nextval('billing_autotopup_id')")
            [(agreement_id,)] = cursor.fetchall()
        agreement = AutoTopUp.objects.create(
            subscriber_id=subscriber_id,
            id=agreement_id,
            operator=operator,
            currency=operator.currency,
            agreed_at=at,
            **{name: getattr(terms, name) for name in Terms.__slots__},
        )
        wallets.lock([(subscriber_id, operator.currency)])
        if wallets.free_of(subscriber_id, operator.currency) < agreement.threshold:
            runs.begin([(agreement, "begin")], at=at)
        return agreement


def terms_of(agreement: AutoTopUp) -> Terms:
    return Terms(**{name: getattr(agreement, name) for name in Terms.__slots__})


@transaction.atomic
def withdraw(operator: Operator, subscriber_id: int, *, channel: str, at: dt.datetime) -> AutoTopUp:
    """Fill the wallet by itself no more; again answers the same. Raises NotFound."""
    keeping.lock_subscriber(subscriber_id)
    found = last_of(operator, subscriber_id)
    if found is None:
        raise NotFound("the subscriber has agreed to no automatic top-up")
    if found.ended_at is None:
        _end(found, f"withdrawn by {channel}", at=at)
    return found


def last_of(operator: Operator, subscriber_id: int) -> AutoTopUp | None:
    """What the subscriber agreed to last, ended or not."""
    rows = AutoTopUp.objects.filter(operator=operator, subscriber_id=subscriber_id)
    return rows.order_by("-id").first()


def _end(agreement: AutoTopUp, by: str, *, at: dt.datetime) -> None:
    """The subscriber is locked. What is open of it stops; an order that nobody has paid is
    cancelled."""
    # A clock that stands lets one begin and end at once.
    agreement.ended_at, agreement.ended_by = max(at, agreement.agreed_at), by[:200]
    _write(agreement, ended_at=agreement.ended_at, ended_by=agreement.ended_by)
    run = runs.open_of(agreement.subscriber_id)
    if run is not None and run.agreement_id == agreement.id:
        drop(run, AutoTopUpRun.State.STOPPED, reason=by, at=at)


def drop(run: AutoTopUpRun, state: str, *, reason: str, at: dt.datetime) -> None:
    """End a locked run that was not paid, with its order."""
    if run.order_id is not None:
        order = Order.objects.select_for_update(no_key=True).get(
            subscriber_id=run.subscriber_id, id=run.order_id
        )
        if order.state in Order.PAID:
            state, reason = AutoTopUpRun.State.PAID, ""
        elif order.state in Order.OPEN:
            keeping.close([order], Order.State.CANCELLED, at=at, reason=reason)
    runs.end(run, state, at=at, reason=reason)


def succeeded(agreement: AutoTopUp) -> None:
    """A try came to something. The subscriber is locked."""
    if agreement.failures:
        agreement.failures = 0
        _write(agreement, failures=0)


def failed(agreement: AutoTopUp, reason: str, *, most: int, at: dt.datetime) -> None:
    """A try failed; after `most` in a row it is switched off, and the subscriber hears of it. The
    subscriber is locked."""
    agreement.failures += 1
    _write(agreement, failures=agreement.failures)
    if agreement.failures < most or agreement.ended_at is not None:
        return
    _end(agreement, f"{most} failures: {reason}", at=at)
    payload = {"reason": reason, "failures": agreement.failures}
    key = f"wallet.auto_top_up_off:{agreement.id}"
    outbox.tell([Happening(agreement.subscriber_id, "wallet.auto_top_up_off", key, at, payload)])


def _write(agreement: AutoTopUp, **facts: object) -> None:
    AutoTopUp.objects.filter(subscriber_id=agreement.subscriber_id, id=agreement.id).update(**facts)
