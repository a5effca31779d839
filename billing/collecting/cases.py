"""Cases of what is collected, and all that was done about them: the only writer of both.

Whoever writes a case that is there holds its subscriber's lock. Locks in one order: the
subscriber, the period that is paid before, orders, invoices, cases, wallets, then buckets.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection

from billing import consents
from billing.collecting import policies, schedule
from billing.models import CollectionCase, CollectionStep, Consent, Order
from subscriptions import outbox, pgarrays
from subscriptions.models import Operator
from subscriptions.outbox import Happening
from subscriptions.pgarrays import Instants, Int8s, OptionalInstants, OptionalInt8s, Texts
from subscriptions.sharding import shard_of
from subscriptions.storing import store

Kind, State, Step = CollectionCase.Kind, CollectionCase.State, CollectionStep.Kind
Key = tuple[int, str, int]  # (subscriber, kind, about)


# Beginning ---------------------------------------------------------------------------------------


def begin_orders(
    operator: Operator, orders: Sequence[Order], *, first: Collection[int] = (), at: dt.datetime
) -> None:
    """Collect these orders of periods from who has agreed to it, and tell all others too that they
    fall due; `first` are those (by id) of subscriptions that begin, of which nobody is told.

    Joins the caller's transaction, which holds the subscribers. Again changes nothing.
    """
    assert connection.in_atomic_block
    terms, zone = policies.terms_by(operator.pk)(at), ZoneInfo(operator.time_zone)
    agreed = consents.agreed({order.subscriber_id for order in orders})
    cases: list[CollectionCase] = []
    told: list[Happening] = []
    for order in orders:
        assert order.period_start is not None
        wanted = order.subscriber_id in agreed and agreed[order.subscriber_id].to(
            Consent.Kind.AUTO_RENEW, order.subscription_id
        )
        notice_at = schedule.days_before(order.period_start, terms.notice_days, zone)
        due_now = not wanted or notice_at <= at
        if due_now and order.id not in first:
            told.append(renewal_due(order, collected=wanted, at=at))
        if wanted:
            earliest = schedule.days_before(order.period_start, terms.lead_days, zone)
            first_at = max(at, earliest)
            tries = schedule.tries(terms, first_at, zone)
            cases.append(
                CollectionCase(
                    subscriber_id=order.subscriber_id,
                    kind=Kind.ORDER,
                    about=order.id,
                    operator=operator,
                    begun_at=at,
                    first_at=first_at,
                    due_at=max(order.period_start, at),
                    noticed_at=at if due_now else None,
                    next_at=tries[0] if due_now else notice_at,
                    next_way=terms.ways[0],
                    order_id=order.id,
                )
            )
    _begin(cases)
    outbox.tell(told)


def begin_for(operator: Operator, subscriber_id: int, *, at: dt.datetime) -> None:
    """Collect what a subscriber who has just agreed is asked for already: periods that are paid
    before. Joins the caller's transaction, which holds the subscriber."""
    orders = Order.objects.filter(
        subscriber_id=subscriber_id,
        kind=Order.Kind.PERIOD,
        state__in=Order.OPEN,
        expires_at__gt=at,
    )
    begin_orders(operator, list(orders.order_by("id")), at=at)


def look_again(subscriber_id: int, *, at: dt.datetime) -> None:
    """Have a subscriber's running cases looked at now: a consent was withdrawn. Joins the caller's
    transaction, which holds the subscriber."""
    CollectionCase.objects.filter(
        subscriber_id=subscriber_id, state=State.RUNNING, next_at__gt=at
    ).update(next_at=at)


# Nothing is looked for where nobody has agreed.
_ISSUED_SQL = """
SELECT i.subscriber_id, i.id, max(i.due_at)
FROM billing_consent c
JOIN billing_invoice i
  ON i.subscriber_id = c.subscriber_id AND i.state = 'open' AND i.issued_at = %s
 AND i.kind <> 'credit_note' AND i.gross > i.paid
 AND (c.subscription_id IS NULL OR c.subscription_id = i.subscription_id)
WHERE c.operator_id = %s AND c.subscriber_id BETWEEN %s AND %s AND c.kind = 'auto_renew'
  AND c.withdrawn_at IS NULL
GROUP BY 1, 2
ORDER BY 1, 2
"""


def begin_invoices(
    operator: Operator, *, first_subscriber: int, last_subscriber: int, at: dt.datetime
) -> None:
    """Collect what is due on the invoices that were issued at `at` to who has agreed to it.

    Joins the caller's transaction, the one that issued them. Again changes nothing.
    """
    assert connection.in_atomic_block
    with connection.cursor() as cursor:
        cursor.execute(_ISSUED_SQL, [at, operator.pk, first_subscriber, last_subscriber])
        rows = cursor.fetchall()
    if not rows:
        return
    terms, zone = policies.terms_by(operator.pk)(at), ZoneInfo(operator.time_zone)
    first = schedule.tries(terms, at, zone)[0]
    _begin(
        [
            CollectionCase(
                subscriber_id=subscriber_id,
                kind=Kind.INVOICE,
                about=invoice_id,
                operator=operator,
                begun_at=at,
                first_at=at,
                due_at=due_at,
                noticed_at=at,
                next_at=first,
                next_way=terms.ways[0],
            )
            for subscriber_id, invoice_id, due_at in rows
        ]
    )


_BEGIN_SQL = """
INSERT INTO billing_collectioncase
    (subscriber_id, kind, about, operator_id, state, begun_at, first_at, due_at, noticed_at,
     next_at, next_way, order_id, steps)
SELECT k.subscriber_id, k.kind, k.about, k.operator_id, 'running', k.begun_at, k.first_at, k.due_at,
       k.noticed_at, k.next_at, k.next_way, k.order_id, 0
FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::bigint[], %s::timestamptz[],
            %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::text[],
            %s::bigint[])
     AS k (subscriber_id, kind, about, operator_id, begun_at, first_at, due_at, noticed_at, next_at,
           next_way, order_id)
ON CONFLICT DO NOTHING
"""


def _begin(cases: Sequence[CollectionCase]) -> None:
    with pgarrays.statements() as cursor:
        cursor.execute(
            _BEGIN_SQL,
            [
                Int8s(case.subscriber_id for case in cases),
                Texts(case.kind for case in cases),
                Int8s(case.about for case in cases),
                Int8s(case.operator_id for case in cases),
                Instants(case.begun_at for case in cases),
                Instants(case.first_at for case in cases),
                Instants(case.due_at for case in cases),
                OptionalInstants(case.noticed_at for case in cases),
                OptionalInstants(case.next_at for case in cases),
                Texts(case.next_way for case in cases),
                OptionalInt8s(case.order_id for case in cases),
            ],
        )


# What is heard of --------------------------------------------------------------------------------


def _money(order: Order) -> dict[str, str]:
    return {"order": order.number, "amount": str(order.amount), "currency": order.currency}


def renewal_due(order: Order, *, collected: bool, at: dt.datetime) -> Happening:
    """That a period will be due; `collected`: by itself, else it is paid by hand."""
    assert order.period_start is not None
    return Happening(
        order.subscriber_id,
        "subscription.renewal_due",
        f"renewal_due:{order.number}",
        at,
        {
            **_money(order),
            "subscription": str(order.subscription_id),
            "period_start": order.period_start.isoformat(),
            "collected": collected,
        },
    )


def failed(
    case: CollectionCase,
    about: dict[str, str],
    reasons: dict[str, str],
    *,
    final: bool,
    at: dt.datetime,
) -> Happening:
    """That no way has worked this time; `final`: nor will any be tried again."""
    kind = "invoice.payment_failed" if case.kind == Kind.INVOICE else "order.failed"
    return Happening(
        case.subscriber_id,
        kind,
        f"collection:{case.kind}:{case.about}:{case.steps}",
        at,
        {
            **about,
            "reasons": reasons,
            "final": final,
            "next_try": case.next_at.isoformat() if case.next_at and not final else None,
        },
    )


# Going on ----------------------------------------------------------------------------------------


class Done(NamedTuple):
    """A CollectionStep to be."""

    subscriber_id: int
    case_kind: str
    about: int
    nr: int
    kind: str
    at: dt.datetime
    way: str
    order_id: int | None
    intent_nr: int | None
    reason: str


def step(
    case: CollectionCase,
    kind: str,
    *,
    at: dt.datetime,
    way: str = "",
    intent_nr: int | None = None,
    reason: str = "",
) -> Done:
    """What was done about a case, to be kept with it."""
    case.steps += 1
    return Done(
        case.subscriber_id,
        case.kind,
        case.about,
        case.steps,
        kind,
        at,
        way,
        case.order_id,
        intent_nr,
        reason[:200],
    )


_ENDS: dict[str, str] = {
    State.COLLECTED: Step.COLLECTED,
    State.GAVE_UP: Step.GAVE_UP,
    State.STOPPED: Step.STOPPED,
}


def end(
    case: CollectionCase, state: str, *, at: dt.datetime, way: str = "", reason: str = ""
) -> Done:
    """Let a case be over."""
    case.state, case.next_at, case.next_way, case.intent_nr = state, None, "", None
    return step(case, _ENDS[state], at=at, way=way, reason=reason)


_SAVE_SQL = """
UPDATE billing_collectioncase c
SET state = k.state, noticed_at = k.noticed_at, next_at = k.next_at, next_way = k.next_way,
    order_id = k.order_id, intent_nr = k.intent_nr, steps = k.steps
FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::timestamptz[],
            %s::timestamptz[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[])
     AS k (subscriber_id, kind, about, state, noticed_at, next_at, next_way, order_id, intent_nr,
           steps)
WHERE c.subscriber_id = k.subscriber_id AND c.kind = k.kind AND c.about = k.about
"""


def keep(cases: Sequence[CollectionCase], steps: Sequence[Done]) -> None:
    """Write cases down as they are by now, with what was done, in the caller's transaction."""
    assert connection.in_atomic_block
    if not cases:
        return
    store(steps, CollectionStep)
    with pgarrays.statements() as cursor:
        cursor.execute(
            _SAVE_SQL,
            [
                Int8s(case.subscriber_id for case in cases),
                Texts(case.kind for case in cases),
                Int8s(case.about for case in cases),
                Texts(case.state for case in cases),
                OptionalInstants(case.noticed_at for case in cases),
                OptionalInstants(case.next_at for case in cases),
                Texts(case.next_way for case in cases),
                OptionalInt8s(case.order_id for case in cases),
                OptionalInt8s(case.intent_nr for case in cases),
                Int8s(case.steps for case in cases),
            ],
        )


# Finding -----------------------------------------------------------------------------------------

# Who has a subscriber in hand goes on with its cases.
_CLAIM_SQL = """
SELECT c.subscriber_id, c.kind, c.about
FROM billing_collectioncase c
JOIN subscriptions_subscriber s ON s.id = c.subscriber_id
WHERE c.operator_id = %s AND c.next_at <= %s
  AND (c.subscriber_id, c.kind, c.about) NOT IN (
      SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bigint[]))
ORDER BY c.next_at, c.subscriber_id
LIMIT %s
FOR NO KEY UPDATE OF s SKIP LOCKED
"""


def claim(
    operator: Operator, *, but: Collection[Key], limit: int, at: dt.datetime
) -> list[CollectionCase]:
    """The next cases that are due, `but` some, of subscribers whom nobody else has in hand: these
    are locked until the transaction ends."""
    assert connection.in_atomic_block
    with pgarrays.statements() as cursor:
        but_columns = pgarrays.columns(but, Int8s, Texts, Int8s)
        cursor.execute(_CLAIM_SQL, [operator.pk, at, *but_columns, limit])
        keys = cursor.fetchall()
    # What they say is read when they are locked.
    rows = CollectionCase.objects.filter(
        subscriber_id__among={key[0] for key in keys}, about__among={key[2] for key in keys}
    )
    wanted = set(keys)
    found = [case for case in rows if key_of(case) in wanted and case.state == State.RUNNING]
    # A transaction keeps to one shard.
    shard = shard_of(keys[0][0]) if keys else 0
    return sorted((case for case in found if shard_of(case.subscriber_id) == shard), key=key_of)


def key_of(case: CollectionCase) -> Key:
    return case.subscriber_id, case.kind, case.about


def steps_of(cases: Sequence[CollectionCase]) -> dict[Key, list[CollectionStep]]:
    """All that was done about each of these cases."""
    found: dict[Key, list[CollectionStep]] = {key_of(case): [] for case in cases}
    rows = CollectionStep.objects.filter(
        subscriber_id__in={case.subscriber_id for case in cases},
        about__in={case.about for case in cases},
    )
    for row in rows.order_by("nr"):
        key = (row.subscriber_id, row.case_kind, row.about)
        if key in found:
            found[key].append(row)
    return found
