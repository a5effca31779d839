"""What an order costs, and what it grants in the transaction that marks it paid."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db import transaction

from billing import invoicing, ledger, payments, rating, telling, top_up_policies, wallets
from billing.ledger import Side
from billing.models import Invoice, Order, WalletMovement
from billing.orders import keeping
from billing.orders.keeping import Draft
from subscriptions import catalog, coupons, expected, lifecycle, outbox
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator, Plan, Subscription
from subscriptions.outbox import Happening

Kind = Order.Kind


class AmountDiffers(Conflict):
    cause = "amount_differs"


# Ordering ----------------------------------------------------------------------------------------


@transaction.atomic
def order_top_up(
    operator: Operator,
    subscriber_id: int,
    amount: Decimal,
    *,
    currency: str,
    at: dt.datetime,
    key: str = "",
    expires_at: dt.datetime | None = None,
) -> Order:
    """Order money into the wallet. Raises Invalid, NotOffered, keeping.KeyUsed."""
    if currency != operator.currency:
        raise Invalid(f"a wallet is in {operator.currency}")
    if amount > top_up_policies.MOST:
        raise Invalid(f"at most {top_up_policies.MOST} {currency} go into a wallet at once")
    # What was ordered before by this key is answered, whatever is offered since.
    if amount > 0 and not (key and Order.objects.filter(operator=operator, key=key).exists()):
        top_up_policies.check_amount(operator, amount, at=at)
    draft = Draft(
        subscriber_id, Kind.TOP_UP, amount, currency, expires_at or at + keeping.VALID, key
    )
    return keeping.create(operator, draft, at=at)


@transaction.atomic
def order_invoice(
    operator: Operator,
    subscriber_id: int,
    number: str,
    *,
    at: dt.datetime,
    key: str = "",
    expires_at: dt.datetime | None = None,
) -> Order:
    """Order to pay what is due on an invoice of this subscriber.

    Raises NotFound, payments.NothingDue, Invalid, keeping.KeyUsed.
    """
    found = invoicing.find(operator, number)
    if found.subscriber_id != subscriber_id:
        raise NotFound("the subscriber has no such invoice")
    invoice = invoicing.locked(operator, number)
    due = invoicing.amount_due(invoice)
    if invoice.state != Invoice.State.OPEN or due <= 0:
        raise payments.NothingDue("nothing is due on this invoice")
    draft = Draft(
        subscriber_id,
        Kind.INVOICE,
        due,
        invoice.currency,
        expires_at or at + keeping.VALID,
        key,
        invoice_id=invoice.id,
    )
    return keeping.create(operator, draft, at=at)


@transaction.atomic
def order_plan(
    operator: Operator,
    subscriber_id: int,
    plan_code: str,
    *,
    at: dt.datetime,
    key: str = "",
    expires_at: dt.datetime | None = None,
) -> Order:
    """Order a plan, which begins when it is paid: the price of its first period, in advance.

    Raises UnknownPlan, lifecycle.PlanHeld, Invalid for one that costs nothing, keeping.KeyUsed.
    """
    plan = catalog.plan_on_sale(operator.pk, plan_code)
    start = lifecycle.first_start(operator, plan, at)
    price = fee_of(operator, plan.pk, start)
    if not price:
        raise Invalid("the plan costs nothing in advance: sell it without an order")
    known = key and Order.objects.filter(operator=operator, key=key).exists()
    if not known and lifecycle.held_plans([subscriber_id], since=start)[subscriber_id]:
        raise lifecycle.PlanHeld("the subscriber holds a plan; change or cancel that one")
    draft = Draft(
        subscriber_id,
        Kind.PLAN,
        price,
        plan.price.currency.code,
        expires_at or at + keeping.VALID,
        key,
        plan=plan,
    )
    return keeping.create(operator, draft, at=at)


@transaction.atomic
def order_booster(
    operator: Operator,
    subscriber_id: int,
    booster_code: str,
    *,
    at: dt.datetime,
    key: str = "",
    expires_at: dt.datetime | None = None,
) -> Order:
    """Order a booster. Raises UnknownBooster, Invalid for one that costs nothing, KeyUsed."""
    booster = catalog.newest_booster(operator.pk, booster_code)
    if not booster.price.amount:
        raise Invalid("the booster costs nothing: sell it without an order")
    draft = Draft(
        subscriber_id,
        Kind.BOOSTER,
        booster.price.amount,
        booster.price.currency.code,
        expires_at or at + keeping.VALID,
        key,
        booster=booster,
    )
    return keeping.create(operator, draft, at=at)


def order_period(
    operator: Operator,
    key: expected.Key,
    plan_id: int,
    *,
    at: dt.datetime,
    expires_at: dt.datetime,
) -> Order | None:
    """Order a period of a plan that is paid before; None where that costs nothing, and it is open.

    Joins the caller's transaction, which holds the period and sees to it that there is one.
    """
    subscriber_id, subscription_id, starts_at = key
    price = fees_of_periods(operator, {key: plan_id})[key]
    if not price:
        lifecycle.pay_period(key, plan_id, at=at)
        return None
    before = Order.objects.filter(
        subscriber_id=subscriber_id, subscription_id=subscription_id, period_start=starts_at
    ).count()
    plan = Plan.objects.get(pk=plan_id)
    draft = Draft(
        subscriber_id,
        Kind.PERIOD,
        price,
        plan.price.currency.code,
        expires_at,
        key_of_period(key, before + 1),
        plan=plan,
        subscription_id=subscription_id,
        period_start=starts_at,
    )
    return keeping.create(operator, draft, at=at)


def key_of_period(key: expected.Key, nr: int) -> str:
    """Makes the `nr`th order of a period the only one."""
    _, subscription_id, starts_at = key
    return f"period:{subscription_id}:{starts_at.astimezone(dt.UTC).isoformat()}:{nr}"


def fee_of(operator: Operator, plan_id: int, starts_at: dt.datetime) -> Decimal:
    """The fee of the period of a plan version that begins at `starts_at`."""
    tariff = invoicing.tariff_of(plan_id)
    days, of = rating.fee_share(tariff, starts_at, ZoneInfo(operator.time_zone))
    return rating.prorate(tariff.price, days, of)


def fees_of_periods(
    operator: Operator, wanted: Mapping[expected.Key, int]
) -> dict[expected.Key, Decimal]:
    """What each of these periods of a plan version costs its subscriber: the fee that its invoice
    will have, less what coupons take off."""
    applied = coupons.applied_to(list(wanted))
    fees = {}
    for key, plan_id in wanted.items():
        fee = fee_of(operator, plan_id, key[2])
        if key in applied:
            discounts = [invoicing.discount_of(*one) for one in applied[key]]
            line = rating.line("fee", "", fee, rating.ZERO, {})
            fee += sum(one.gross for one in rating.discount_lines(discounts, [line]))
        fees[key] = fee
    return fees


# Granting ----------------------------------------------------------------------------------------


def settle(
    operator: Operator, order: Order, *, way: str, source: Side, at: dt.datetime, reason: str = ""
) -> None:
    """Mark a locked order paid by money whose entry is `source`, and grant what it buys.

    Joins the caller's transaction: there are both or neither. Raises what `keeping.payable` does,
    and whatever stands against what is bought; then nothing has happened.
    """
    keeping.payable(order, at=at)
    if source.amount != order.amount:
        raise AmountDiffers(f"the order is over {order.amount} {order.currency}")
    grant = _GRANTS[Kind(order.kind)]
    facts = grant(operator, order, way, source, at)
    keeping.advance(
        order, Order.State.PAID, at=at, reason=reason or f"by {way}", paid_at=at, way=way, **facts
    )
    telling.orders_paid(operator, [order], at=at)


def _fill_wallet(
    operator: Operator, order: Order, way: str, source: Side, at: dt.datetime
) -> dict[str, object]:
    into = wallets.Move(
        order.subscriber_id,
        order.currency,
        WalletMovement.Kind.TOP_UP,
        order.amount,
        f"order:{order.number}",
        order.number,
    )
    moves = [into]
    given = top_up_policies.bonus_of(order, at=at)
    if given is not None:
        bonus, gift = given
        moves.append(
            wallets.Move(
                order.subscriber_id,
                order.currency,
                WalletMovement.Kind.BONUS,
                bonus,
                f"bonus:{order.number}",
                order.number,
                gift=gift,
            )
        )
    wallets.move(operator.pk, moves, at=at)
    _post(operator, order, (source, into.side()), at=at)
    telling.topped_up(
        order.subscriber_id,
        order.currency,
        order.amount,
        order.number,
        at=at,
        order=order.number,
        bonus=f"{given[0] if given else rating.ZERO:.2f}",
    )
    return {}


def _pay_invoice(
    operator: Operator, order: Order, way: str, source: Side, at: dt.datetime
) -> dict[str, object]:
    assert order.invoice_id is not None
    invoice = Invoice.objects.get(subscriber_id=order.subscriber_id, id=order.invoice_id)
    assert invoice.number is not None
    held = invoicing.locked(operator, invoice.number)
    due = invoicing.amount_due(held)
    if held.state == Invoice.State.OPEN and due > 0 and due != order.amount:
        raise AmountDiffers(f"of the invoice {due} {held.currency} is due by now; order again")
    payments.record(
        operator,
        invoice.number,
        amount=order.amount,
        key=f"order:{order.number}",
        way=way,
        at=at,
        source=source,
    )
    return {}


def _begin_plan(
    operator: Operator, order: Order, way: str, source: Side, at: dt.datetime
) -> dict[str, object]:
    assert order.plan is not None
    sold = lifecycle.subscribe_to(operator, order.subscriber_id, order.plan, at=at, starts_at=at)
    if expected.collects_before(order.plan):
        # Ordered for a month's last days and paid in the next, it would open more than is paid.
        price = fee_of(operator, order.plan.pk, sold.starts_at)
        if price > order.amount:
            raise AmountDiffers(
                f"by now the first period costs {price} {order.currency}; order again"
            )
        key = (order.subscriber_id, sold.id, sold.starts_at)
        lifecycle.pay_period(key, order.plan.pk, at=at)
    _keep_for_invoice(operator, order, source, at=at)
    return {"subscription_id": sold.id, "period_start": sold.starts_at}


def _open_period(
    operator: Operator, order: Order, way: str, source: Side, at: dt.datetime
) -> dict[str, object]:
    key, plan_id = keeping.period_of(order), order.plan_id
    assert key is not None
    assert plan_id is not None
    lifecycle.pay_period(key, plan_id, at=at)
    _keep_for_invoice(operator, order, source, at=at)
    outbox.tell(renewals([order], at=at))
    return {}


def renewals(orders: Sequence[Order], *, at: dt.datetime) -> list[Happening]:
    """That subscriptions go on, of orders of periods that are just paid; a first period is none."""
    begun = set(
        Subscription.objects.filter(
            subscriber_id__among={order.subscriber_id for order in orders},
            id__among={order.subscription_id for order in orders if order.subscription_id},
        ).values_list("subscriber_id", "id", "starts_at")
    )
    return [
        Happening(
            order.subscriber_id,
            "subscription.renewed",
            f"renewed:{order.number}",
            at,
            {
                "order": order.number,
                "amount": str(order.amount),
                "currency": order.currency,
                "subscription": str(order.subscription_id),
                "period_start": order.period_start.isoformat() if order.period_start else "",
            },
        )
        for order in orders
        if (order.subscriber_id, order.subscription_id, order.period_start) not in begun
    ]


def _sell_booster(
    operator: Operator, order: Order, way: str, source: Side, at: dt.datetime
) -> dict[str, object]:
    assert order.booster is not None
    sold = lifecycle.sell_one(
        order.booster, order.subscriber_id, sale=f"order-{order.number}", at=at
    )
    _keep_for_invoice(operator, order, source, at=at)
    return {"bucket_id": sold.id}


def _keep_for_invoice(operator: Operator, order: Order, source: Side, *, at: dt.datetime) -> None:
    """The invoice that will name it takes it; until then it is owed to the subscriber."""
    kept = Side(ledger.PREPAID, -order.amount, order.subscriber_id)
    _post(operator, order, (source, kept), at=at)


_GRANTS = {
    Kind.PLAN: _begin_plan,
    Kind.PERIOD: _open_period,
    Kind.BOOSTER: _sell_booster,
    Kind.TOP_UP: _fill_wallet,
    Kind.INVOICE: _pay_invoice,
}


def _post(operator: Operator, order: Order, sides: tuple[Side, ...], *, at: dt.datetime) -> None:
    draft = ledger.Draft(f"order:{order.id}", "order", at, order.currency, sides, order.number)
    posted = ledger.post(operator.pk, draft)
    assert posted
