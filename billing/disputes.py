"""Disputes: payments that a payer's bank takes back. The only writer of Dispute.

A provider's notice opens one: the provider holds the money, so it stands on the account `disputed`,
and what the order granted is frozen: a bucket's units cannot be drawn, what a top-up left in the
wallet is taken out, and its bonus; what of the order comes back to the wallet meanwhile, or later,
goes the same way. Won, all of it is as before. Lost, the money is a loss, less what the wallet had
left, and the units that nobody used are taken. An inquiry takes nothing yet: it is written down and
answered like a dispute, moves nothing, and is withdrawn or becomes a dispute. Notices come twice,
late and out of order: what is closed stays closed, whatever opens it later.

Locks in one order: the subscriber, the order, its dispute, wallets, buckets.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol, cast

from django.db import connection, transaction

from billing import invoicing, ledger, rating, wallets
from billing.ledger import Side
from billing.models import Dispute, DisputeStep, Order, PaymentIntent, WalletMovement
from billing.orders import keeping, paying
from billing.ways.provider import Answer, Attempt, Event, Fate, Unavailable
from subscriptions import freezing, outbox
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Bucket, Operator

log = logging.getLogger(__name__)

State = Dispute.State
_RECEIVED = PaymentIntent.State.SUCCEEDED
# As Stripe names them; texts only, each up to as long as Stripe takes it.
EVIDENCE = (
    *("product_description", "customer_name", "customer_email_address", "billing_address"),
    *("customer_purchase_ip", "service_date", "access_activity_log", "customer_communication"),
    *("cancellation_policy_disclosure", "cancellation_rebuttal", "refund_policy_disclosure"),
    *("refund_refusal_explanation", "duplicate_charge_id", "duplicate_charge_explanation"),
    "uncategorized_text",
)
LONGEST = 20_000
# What a provider calls the states; those of an inquiry are Stripe's warnings.
_STATES = {
    "won": State.WON,
    "lost": State.LOST,
    "under_review": State.UNDER_REVIEW,
    "warning_needs_response": State.INQUIRY,
    "warning_under_review": State.INQUIRY,
    "warning_closed": State.WITHDRAWN,
}
_FATES = {"succeeded": State.WON, "failed": State.LOST}


class Closed(Conflict):
    cause = "dispute_closed"


class NotTaken(Conflict):
    cause = "not_taken"


class Answers(Protocol):
    """What a provider can do besides, whose disputes are answered through it."""

    def respond(self, attempt: Attempt, reference: str, evidence: dict[str, str]) -> Answer:
        """Hand in evidence; again it replaces what was there."""


# What a provider tells ---------------------------------------------------------------------------


@transaction.atomic
def take_dispute(operator: Operator, event: Event, *, at: dt.datetime) -> Dispute | None:
    """Write down what a provider's notice says of a dispute, and what follows; None where it is of
    no payment that we know. Raises Invalid for one in another currency."""
    intent = _paid_by(operator, event)
    if intent is None:
        log.warning("notice %s disputes a payment that is not known", event.id)
        return None
    asked = Order.objects.get(subscriber_id=intent.subscriber_id, id=intent.order_id)
    order = keeping.locked(operator, asked.number)
    rows = Dispute.objects.filter(operator=operator, way=intent.way, reference=event.reference)
    dispute = rows.select_for_update(no_key=True).first()
    if event.answer.currency not in ("", order.currency):
        raise Invalid(f"order {order.number} is in {order.currency}")
    state = _state_of(event)
    inquiry = state in (State.INQUIRY, State.WITHDRAWN)
    if dispute is None:
        dispute = _begin(operator, order, intent, event, inquiry=inquiry, at=at)
    elif dispute.state == State.INQUIRY and not inquiry:
        # What answered the inquiry is no answer to this.
        facts = {
            "amount": event.answer.amount or dispute.amount,
            "submitted_at": None,
            "sent_at": None,
        }
        _put(dispute, State.OPENED, at=at, reason="by the provider", **facts)
        _open(operator, order, dispute, intent, at=at)
    fee = _fee_of(event, order.currency)
    if fee > dispute.fee:  # a later notice may say more, never less
        dispute.fee = fee
        _keep(dispute, "fee")
    if dispute.state in Dispute.OPEN:
        due_by = _due_by(event) or dispute.due_by
        if state == State.LOST:
            _close(operator, order, dispute, intent, state, at=at)
        elif state in (State.WON, State.WITHDRAWN):
            _close(operator, order, dispute, intent, State.WON, at=at)
        elif state == State.UNDER_REVIEW and dispute.state == State.OPENED:
            _put(dispute, state, at=at, reason="the provider looks at it", due_by=due_by)
        elif not inquiry and due_by != dispute.due_by:
            dispute.due_by = due_by
            _keep(dispute, "due_by")
    elif dispute.state == State.INQUIRY:
        if state == State.WITHDRAWN:
            _put(dispute, state, at=at, reason="by the provider", closed_at=at)
            _tell(order, dispute, "dispute.closed", at=at)
        elif (due_by := _due_by(event)) not in (None, dispute.due_by):
            dispute.due_by = due_by
            _keep(dispute, "due_by")
    return dispute


def _paid_by(operator: Operator, event: Event) -> PaymentIntent | None:
    """The attempt that the notice is about: by our own key, else by the provider's name for it."""
    rows = PaymentIntent.objects.filter(operator=operator, state=_RECEIVED)
    for how in ({"key": event.key}, {"reference": event.answer.reference}):
        [wanted] = how.values()
        found = rows.filter(**how).first() if wanted else None
        if found is not None:
            return found
    return None


def _thing(event: Event) -> Mapping[str, Any]:
    """The dispute as the provider tells it."""
    thing = event.details.get("object", event.details)
    return thing if isinstance(thing, Mapping) else {}


def _state_of(event: Event) -> str:
    said = _STATES.get(str(_thing(event).get("status", "")))
    return said or _FATES.get(str(event.answer.fate), State.OPENED)


def _due_by(event: Event) -> dt.datetime | None:
    thing = _thing(event)
    said = (thing.get("evidence_details") or {}).get("due_by", thing.get("due_by"))
    if isinstance(said, int | float):
        return dt.datetime.fromtimestamp(said, dt.UTC)
    return said if isinstance(said, dt.datetime) else None


def _fee_of(event: Event, currency: str) -> Decimal:
    """What the provider takes for it: the fees of Stripe's balance transactions, in hundredths, of
    those in the order's currency. Noted only: like any fee it is booked once, when staff say what
    the fees of a day of the provider's books are."""
    thing = _thing(event)
    fees = [
        one.get("fee", 0)
        for one in thing.get("balance_transactions") or ()
        if str(one.get("currency", currency)).upper() == currency
    ]
    if fees:
        return rating.to_fen(Decimal(sum(fees)) / 100)
    return rating.to_fen(Decimal(str(thing.get("fee", 0))))


def _begin(
    operator: Operator,
    order: Order,
    intent: PaymentIntent,
    event: Event,
    *,
    inquiry: bool,
    at: dt.datetime,
) -> Dispute:
    """Write down what is disputed, and what follows from that, unless it is only asked about."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('billing_refund_id')")
        [(dispute_id,)] = cursor.fetchall()
    dispute = Dispute.objects.create(
        subscriber_id=order.subscriber_id,
        id=dispute_id,
        operator=operator,
        number=f"{invoicing.number_prefix(operator)}-D-{dispute_id:010}",
        order_id=order.id,
        way=intent.way,
        reference=event.reference,
        currency=order.currency,
        amount=event.answer.amount or intent.amount,
        state=State.INQUIRY if inquiry else State.OPENED,
        reason=(event.answer.reason or str(_thing(event).get("reason", "")))[:64],
        due_by=_due_by(event),
        opened_at=at,
    )
    _step(dispute, at=at, reason=dispute.reason)
    if inquiry:
        _tell(order, dispute, "dispute.inquiry", at=at)
    else:
        _open(operator, order, dispute, intent, at=at)
    return dispute


def _open(
    operator: Operator, order: Order, dispute: Dispute, intent: PaymentIntent, *, at: dt.datetime
) -> None:
    """Freeze what the order granted, and book what the provider holds."""
    amount, held = dispute.amount, rating.ZERO
    if order.kind == Order.Kind.TOP_UP:
        held = min(wallets.own_of(order.subscriber_id, order.currency), amount)
    if held:
        dispute.held = held
        _keep(dispute, "held")
    sides = [
        Side(ledger.DISPUTED, amount - held),
        _came_by(operator, order, intent, -amount, at=at),
    ]
    if held:
        out = _move(dispute, WalletMovement.Kind.PAYOUT, -held, "held")
        wallets.move(operator.pk, [out], at=at)
        sides.append(out.side())
    _post(operator, dispute, "opened", sides, at=at)
    if order.kind == Order.Kind.TOP_UP and wallets.find(order.subscriber_id, order.currency):
        wallets.take_back_bonus(operator.pk, _wallet(dispute), order.id, by=dispute.number, at=at)
    _freeze(order, dispute, at=at)
    _tell(order, dispute, "dispute.opened", at=at)


def hold_back(
    operator: Operator, came_back: Mapping[tuple[int, int], Decimal], *, at: dt.datetime
) -> None:
    """Take out of the wallets again what of locked orders (subscriber, order) has just come back to
    them, where the payment is disputed or was lost: the provider has that money.

    Joins the caller's transaction.
    """
    assert connection.in_atomic_block
    rows = Dispute.objects.filter(
        subscriber_id__in={key[0] for key in came_back}, order_id__in={key[1] for key in came_back}
    )
    taken = rows.filter(state__in=Dispute.TAKEN)
    for dispute in taken.order_by("id").select_for_update(no_key=True):
        back = came_back.get((dispute.subscriber_id, dispute.order_id), rating.ZERO)
        amount = min(back, dispute.amount - dispute.held)
        if amount <= 0:
            continue
        out = _move(dispute, WalletMovement.Kind.PAYOUT, -amount, "held-back")
        wallets.move(operator.pk, [out], at=at)
        less = (
            Side(ledger.DISPUTED, -amount)
            if dispute.state in Dispute.OPEN
            else Side(ledger.DISPUTE_LOSS, -amount, dispute.subscriber_id)
        )
        _post(operator, dispute, "held-back", [out.side(), less], at=at)
        dispute.held += amount
        _keep(dispute, "held")


def _freeze(order: Order, dispute: Dispute, *, at: dt.datetime) -> None:
    buckets = granted_by(order)
    if buckets:
        freezing.freeze(order.subscriber_id, buckets, dispute.number, at=at)


def granted_by(order: Order) -> list[int]:
    """The buckets that an order has granted, and what was moved out of them into the next period.

    Of what an invoice was paid for nothing is frozen: it was used already.
    """
    if order.bucket_id is not None:
        return [order.bucket_id]
    if order.subscription_id is None or order.period_start is None:
        return []
    rows = Bucket.objects.filter(
        subscriber_id=order.subscriber_id,
        subscription_id=order.subscription_id,
        kind__in=[Bucket.Kind.ALLOWANCE, Bucket.Kind.ROLLOVER],
    )
    own = list(rows.filter(kind=Bucket.Kind.ALLOWANCE, valid_from__gte=order.period_start))
    first = min((bucket.valid_until for bucket in own), default=None)
    ids = [bucket.id for bucket in own if bucket.valid_until == first]
    rolled = rows.filter(kind=Bucket.Kind.ROLLOVER, valid_from=order.period_start)
    return [*ids, *rolled.values_list("id", flat=True)]


def _close(
    operator: Operator,
    order: Order,
    dispute: Dispute,
    intent: PaymentIntent,
    state: str,
    *,
    at: dt.datetime,
) -> None:
    key, left = dispute.number, dispute.amount - dispute.held
    if state == State.WON:
        freezing.thaw(dispute.subscriber_id, key, at=at)
        sides = [
            _came_by(operator, order, intent, dispute.amount, at=at),
            Side(ledger.DISPUTED, -left),
        ]
        if dispute.held:
            back = _move(dispute, WalletMovement.Kind.REFUND, dispute.held, "won")
            wallets.move(operator.pk, [back], at=at)
            sides.append(back.side())
        wallets.give_bonus_again(operator.pk, _wallet(dispute), by=dispute.number, at=at)
    else:
        freezing.take(dispute.subscriber_id, key, at=at, paid_back=False)
        sides = [
            Side(ledger.DISPUTE_LOSS, left, dispute.subscriber_id),
            Side(ledger.DISPUTED, -left),
        ]
    if left or state == State.WON:
        _post(operator, dispute, "closed", sides, at=at)
    _put(dispute, state, at=at, reason="by the provider", closed_at=at)
    _tell(order, dispute, "dispute.closed", at=at)


# Answering ---------------------------------------------------------------------------------------


@transaction.atomic
def put_evidence(operator: Operator, number: str, evidence: Mapping[str, str]) -> Dispute:
    """Keep these texts as evidence, beside those that are there; an empty one is taken out.

    Raises NotFound, Closed, Invalid for a name that is none of EVIDENCE, or a text too long.
    """
    for name, text in evidence.items():
        if name not in EVIDENCE:
            raise Invalid(f"evidence is {', '.join(EVIDENCE)}")
        if not isinstance(text, str) or len(text) > LONGEST or "\x00" in text:
            raise Invalid(f"{name} is a text of up to {LONGEST} characters")
    _, dispute = _locked(operator, number)
    if dispute.state not in Dispute.UNDECIDED:
        raise Closed(f"the dispute is {dispute.state}")
    kept = {**dispute.evidence, **evidence}
    dispute.evidence = {name: text for name, text in kept.items() if text}
    _keep(dispute, "evidence")
    return dispute


def submit(operator: Operator, number: str, *, by: str, at: dt.datetime) -> Dispute:
    """Answer with the evidence that is there: the provider is told at once, or by the sweep.

    Again it tells the provider what is there by then. Raises NotFound, Closed, NotTaken, Invalid
    without any.
    """
    with transaction.atomic():
        _, dispute = _locked(operator, number)
        if dispute.state not in Dispute.UNDECIDED:
            raise Closed(f"the dispute is {dispute.state}")
        if not dispute.evidence:
            raise Invalid("fill in some evidence first")
        dispute.submitted_at, dispute.sent_at = at, None
        _keep(dispute, "submitted_at", "sent_at")
        if dispute.state == State.OPENED:
            _put(dispute, State.UNDER_REVIEW, at=at, reason=f"submitted by {by}")
    return send(operator, number, at=at)


def send(operator: Operator, number: str, *, at: dt.datetime) -> Dispute:
    """Tell the provider of evidence that was submitted, outside any transaction. Raises NotTaken
    where it answers that it will not: then nothing counts as submitted."""
    dispute = find(operator, number)
    intent = _intent(dispute)
    provider = paying.provider_of(intent, at=at)
    waits = dispute.submitted_at is not None and dispute.sent_at is None
    if not waits or dispute.state not in Dispute.UNDECIDED or not hasattr(provider, "respond"):
        return dispute  # staff hand it in where the provider wants it
    order = Order.objects.get(subscriber_id=dispute.subscriber_id, id=dispute.order_id)
    attempt = paying.asked_for(order, intent, at=at)
    try:
        answer = cast(Answers, provider).respond(attempt, dispute.reference, dispute.evidence)
    except Unavailable:
        return dispute
    with transaction.atomic():
        _, held = _locked(operator, number)
        if held.submitted_at == dispute.submitted_at:
            if answer.fate == Fate.FAILED:
                held.submitted_at = None
            else:
                held.sent_at = at
            _keep(held, "submitted_at", "sent_at")
    if answer.fate == Fate.FAILED:
        raise NotTaken(f"the provider does not take it: {answer.reason}")
    return held


def sweep(operator: Operator, *, at: dt.datetime) -> int:
    """Finish what a crash left open, and freeze what came back to a disputed bucket since; answers
    how many disputes and inquiries are undecided."""
    rows = Dispute.objects.filter(operator=operator, state__in=Dispute.UNDECIDED).order_by("id")
    numbers = list(rows.values_list("number", flat=True))
    for number in numbers:
        with transaction.atomic():
            order, dispute = _locked(operator, number)
            if dispute.state in Dispute.OPEN:
                _freeze(order, dispute, at=at)
        try:
            send(operator, number, at=at)
        except NotTaken as refused:
            log.warning("dispute %s: %s", number, refused.detail)
    return len(numbers)


# Rows --------------------------------------------------------------------------------------------


def find(operator: Operator, number: str) -> Dispute:
    """A dispute of an operator by its number. Raises NotFound, also for another operator's."""
    found = None
    if keeping.NUMBER.fullmatch(number):
        found = Dispute.objects.filter(operator=operator, number=number).first()
    if found is None:
        raise NotFound("there is no such dispute")
    return found


def steps_of(disputes: Sequence[Dispute]) -> dict[int, list[DisputeStep]]:
    """The history of each dispute, by its id."""
    found: dict[int, list[DisputeStep]] = {one.id: [] for one in disputes}
    rows = DisputeStep.objects.filter(
        subscriber_id__in={one.subscriber_id for one in disputes}, dispute_id__in=found
    )
    for row in rows.order_by("dispute_id", "nr"):
        found[row.dispute_id].append(row)
    return found


def _locked(operator: Operator, number: str) -> tuple[Order, Dispute]:
    found = find(operator, number)
    asked = Order.objects.get(subscriber_id=found.subscriber_id, id=found.order_id)
    order = keeping.locked(operator, asked.number)
    return order, Dispute.objects.select_for_update(no_key=True).get(
        subscriber_id=found.subscriber_id, id=found.id
    )


def _intent(dispute: Dispute) -> PaymentIntent:
    return PaymentIntent.objects.get(
        subscriber_id=dispute.subscriber_id, order_id=dispute.order_id, state=_RECEIVED
    )


def _put(dispute: Dispute, state: str, *, at: dt.datetime, reason: str, **facts: Any) -> None:
    """Put a locked dispute into another state, and note the step."""
    dispute.state = state
    dispute.steps += 1
    for name, value in facts.items():
        setattr(dispute, name, value)
    _keep(dispute, "state", "steps", *facts)
    _step(dispute, at=at, reason=reason)


def _keep(dispute: Dispute, *names: str) -> None:
    Dispute.objects.filter(subscriber_id=dispute.subscriber_id, id=dispute.id).update(
        **{name: getattr(dispute, name) for name in names}
    )


def _step(dispute: Dispute, *, at: dt.datetime, reason: str) -> None:
    DisputeStep.objects.create(
        subscriber_id=dispute.subscriber_id,
        dispute_id=dispute.id,
        nr=dispute.steps,
        state=dispute.state,
        at=at,
        reason=reason[:200],
    )


def _tell(order: Order, dispute: Dispute, kind: str, *, at: dt.datetime) -> None:
    outbox.tell(
        [
            outbox.Happening(
                order.subscriber_id,
                kind,
                f"{kind}:{dispute.number}",
                at,
                {
                    "dispute": dispute.number,
                    "order": order.number,
                    "amount": f"{dispute.amount:.2f}",
                    "currency": dispute.currency,
                    "reason": dispute.reason,
                    "state": dispute.state,
                },
            )
        ]
    )


# Money -------------------------------------------------------------------------------------------


def _came_by(
    operator: Operator, order: Order, intent: PaymentIntent, amount: Decimal, *, at: dt.datetime
) -> Side:
    """An entry of where the payment came in: < 0, the provider has taken it."""
    came = paying.provider_of(intent, at=at).source(paying.asked_for(order, intent, at=at))
    return came._replace(amount=amount)


def _wallet(dispute: Dispute) -> wallets.Key:
    return dispute.subscriber_id, dispute.currency


def _move(dispute: Dispute, kind: str, amount: Decimal, what: str) -> wallets.Move:
    key = f"dispute:{dispute.number}:{what}"
    return wallets.Move(dispute.subscriber_id, dispute.currency, kind, amount, key, dispute.number)


def _post(
    operator: Operator, dispute: Dispute, what: str, sides: list[Side], *, at: dt.datetime
) -> None:
    draft = ledger.Draft(
        f"dispute:{dispute.id}:{what}",
        "dispute",
        at,
        dispute.currency,
        tuple(sides),
        dispute.number,
    )
    posted = ledger.post(operator.pk, draft)
    assert posted
