"""The inbox of providers' notices: kept before it is answered, worked in the order of arrival.

Each notice is worked in a transaction of its own, which takes the row before all other locks. What
cannot be worked now is tried again, later and later, and then is a task of staff; nothing that
arrived is dropped. The only writer of ProviderEvent.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable

from django.db import InterfaceError, OperationalError, connection, transaction

from billing import disputes, methods, receiving, refunds
from billing.models import Order, PaymentIntent, ProviderAccount, ProviderEvent
from billing.orders import paying
from billing.ways import known
from billing.ways.provider import About, Event, Fate, Notice
from subscriptions.errors import DomainError, NotFound
from subscriptions.models import Operator

log = logging.getLogger(__name__)

State = ProviderEvent.State
# The waits between the tries; after the last one it is a task of staff.
_WAITS = [dt.timedelta(minutes=minutes) for minutes in (1, 2, 5, 15, 60, 240, 720, 1440)]

# Who takes notices of each subject, in the transaction that marks them done; each bears to be told
# twice, late, and out of order.
Taker = Callable[[Operator, ProviderAccount, Event, dt.datetime], str]


# One statement, which commits by itself where no transaction is open.
_KEEP = f"""
    INSERT INTO {ProviderEvent._meta.db_table}
        (account_id, operator_id, event_id, kind, body, received_at, next_try_at,
         state, reason, attempts)
    VALUES (%s, %s, %s, %s, %s, %s, %s, '{State.NEW}', '', 0)
    ON CONFLICT DO NOTHING
"""  # noqa: S608


class NobodyTakes(DomainError):
    cause = "nobody_takes"


def keep(
    account: ProviderAccount, notice: Notice, body: bytes, *, received_at: dt.datetime
) -> None:
    """Put a verified notice into the inbox, once. When this is committed, nothing is lost."""
    with connection.cursor() as cursor:
        cursor.execute(
            _KEEP,
            [
                *(account.pk, account.operator_id, notice.id, notice.kind[:100], body),
                *(received_at, received_at),
            ],
        )


def waiting() -> list[Operator]:
    """Operators with notices that are not worked yet."""
    ids = ProviderEvent.objects.filter(next_try_at__isnull=False).values("operator_id").distinct()
    return list(Operator.objects.filter(pk__in=ids).order_by("pk"))


def work(operator: Operator, *, at: dt.datetime, limit: int = 500) -> int:
    """Work what is due at `at`, the oldest first; answers how many."""
    done = 0
    while done < limit and _work_next(operator, at=at):
        done += 1
    return done


@transaction.atomic
def _work_next(operator: Operator, *, at: dt.datetime) -> bool:
    row = (
        ProviderEvent.objects.filter(operator=operator, next_try_at__lte=at)
        .order_by("id")
        .select_for_update(no_key=True, skip_locked=True)
        .first()
    )
    if row is None:
        return False
    try:
        with transaction.atomic():
            ignored = _take(operator, row, at=at)
    except (OperationalError, InterfaceError):
        raise
    except DomainError as refused:
        _failed(row, f"{refused.cause}: {refused.detail}", at=at)
    except Exception as error:
        log.exception("notice %s of account %s", row.event_id, row.account_id)
        _failed(row, type(error).__name__, at=at)
    else:
        _put(row, State.IGNORED if ignored else State.DONE, ignored, at=at)
    return True


def _take(operator: Operator, row: ProviderEvent, *, at: dt.datetime) -> str:
    """Do what follows from a notice; answers why nothing does, where nothing does."""
    account = row.account
    event = known.partner_of(account, at=at).read(bytes(row.body))
    if event.about == About.NOTHING:
        return "it concerns nothing here"
    taker = TAKERS.get(event.about)
    if taker is None:
        raise NobodyTakes(f"nobody takes what is about a {event.about}")
    return taker(operator, account, event, at)


def _take_payment(
    operator: Operator, account: ProviderAccount, event: Event, at: dt.datetime
) -> str:
    answer = event.answer
    if not event.key:
        return "no payment of ours"
    intent = PaymentIntent.objects.filter(operator=operator, key=event.key).first()
    if intent is not None:
        order = Order.objects.get(subscriber_id=intent.subscriber_id, id=intent.order_id)
        paying.hear(operator, order.number, intent.nr, account, answer, at=at)
    elif answer.fate == Fate.SUCCEEDED:
        assert answer.amount is not None
        paid = receiving.Paid(
            account, "", event.key, answer.reference, answer.amount, answer.currency
        )
        receiving.receive(operator, paid, None, None, at=at)
    else:
        return "no payment of ours"
    return ""


def _take_refund(
    operator: Operator, account: ProviderAccount, event: Event, at: dt.datetime
) -> str:
    if receiving.hear_refund(operator, account, event.key, event.answer, at=at):
        return ""
    found = refunds.settle_refund(operator, event, at=at)
    return "" if found is not None else "no refund of ours"


def _take_dispute(
    operator: Operator, account: ProviderAccount, event: Event, at: dt.datetime
) -> str:
    if disputes.take_dispute(operator, event, at=at) is None:
        raise NotFound("it disputes a payment that is of no order")
    return ""


TAKERS: dict[About, Taker] = {
    About.PAYMENT: _take_payment,
    About.REFUND: _take_refund,
    About.METHOD: methods.take,
    About.DISPUTE: _take_dispute,
}


# What staff still have to look at stays whole, however old it is.
_EMPTY_SQL = """
UPDATE billing_providerevent e
SET digest = encode(sha256(e.body), 'hex'), body = ''
WHERE e.id IN (
    SELECT o.id FROM billing_providerevent o
    WHERE o.account_id = %s AND o.received_at < %s AND o.next_try_at IS NULL AND o.digest = ''
      AND NOT EXISTS (
          SELECT FROM billing_paymenttask t WHERE t.event_id = o.id AND t.state <> 'resolved')
    ORDER BY o.received_at LIMIT %s
)
"""


def empty_old(operator: Operator, *, at: dt.datetime, limit: int = 1000) -> int:
    """Empty what each account of an operator has told longer ago than it is kept; which bytes they
    were, their digest says. Answers how many notices; some may be left."""
    done = 0
    for account in ProviderAccount.objects.filter(operator=operator).order_by("pk"):
        before = at - dt.timedelta(days=account.notices_kept_days)
        with connection.cursor() as cursor:
            cursor.execute(_EMPTY_SQL, [account.pk, before, limit - done])
            done += cursor.rowcount
    return done


def _failed(row: ProviderEvent, reason: str, *, at: dt.datetime) -> None:
    wait = _WAITS[row.attempts] if row.attempts < len(_WAITS) else None
    _put(row, State.FAILED, reason, at=at, next_try_at=at + wait if wait else None)
    if wait is None:
        receiving.give_up(row, reason, at=at)


def _put(
    row: ProviderEvent,
    state: str,
    reason: str,
    *,
    at: dt.datetime,
    next_try_at: dt.datetime | None = None,
) -> None:
    ProviderEvent.objects.filter(pk=row.pk).update(
        state=state,
        reason=reason[:200],
        attempts=row.attempts + 1,
        next_try_at=next_try_at,
        ended_at=None if state == State.FAILED else at,
    )
