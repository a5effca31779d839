"""Handovers from asking to done: the only writer of Handover and RecyclingPolicy.

Above the operator's limit (`correction-policy`) one waits until another person approves
(billing/approving.py); it is done then, as things are then, and never for more than was asked for.

Locks in one order: its approval, the handover, who binds names at the operator, both subscribers
by id, their subscriptions, orders, wallets by subscriber, then buckets.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal

from django.db import transaction

from billing import approvals, corrections, ledger, rating, wallets
from billing.approvals import Changed
from billing.handovers import planning
from billing.handovers.planning import Plan
from billing.models import Approval, Handover, RecyclingPolicy, WalletMovement
from billing.orders import keeping as orders
from subscriptions import buckets, lifecycle, registry
from subscriptions.errors import Invalid, NotFound
from subscriptions.families import keeping as families
from subscriptions.models import Bucket, Operator, Subject, Subscriber, Subscription
from subscriptions.users import access

Kind, State, Balance = Handover.Kind, Handover.State, Handover.Balance
COOLING_DAYS = 90
# How far back a number may go to another: as far as usage may still come in, and some more.
LONGEST = dt.timedelta(days=90)


# Policy ------------------------------------------------------------------------------------------


def cooling_days(operator_id: int) -> int:
    """For how many days a recycled number belongs to nobody."""
    row = RecyclingPolicy.objects.filter(operator_id=operator_id).first()
    return COOLING_DAYS if row is None else row.cooling_days


def set_cooling_days(operator: Operator, days: int, *, by: str, at: dt.datetime) -> None:
    """For numbers that are recycled from now on. Raises Invalid."""
    if not 0 <= days <= 3660:
        raise Invalid("cooling_days are 0 to 3660")
    RecyclingPolicy.objects.update_or_create(
        operator=operator, defaults={"cooling_days": days, "changed_by": by, "changed_at": at}
    )


# Asking ------------------------------------------------------------------------------------------


def draft(
    operator: Operator,
    kind: str,
    giver: Subscriber,
    receiver: Subscriber | None,
    *,
    subjects: Sequence[str] | None = None,
    since: dt.datetime | None = None,
    balance: str = Balance.KEEP,
    with_wallet: bool = False,
    reason: str = "",
    by: str = "",
    at: dt.datetime,
) -> Handover:
    """A handover as it would be asked for, not kept; `subjects` None are all that the giver has.

    Raises Invalid, SubscriberMerged.
    """
    if since is not None and not at - LONGEST <= since <= at:
        raise Invalid(f"since is now, or at most {LONGEST.days} days back")
    if kind == Kind.MERGE:
        if subjects is not None or since is not None:
            raise Invalid("a merge takes all subjects, from now on")
        balance, with_wallet = Balance.MOVE, True
    elif not subjects:
        raise Invalid("name the subjects")
    if (receiver is None) != (kind == Kind.RECYCLE):
        raise Invalid("a transfer and a merge have a receiver, a recycled number has none")
    if receiver is None and (balance == Balance.MOVE or with_wallet):
        raise Invalid("without a receiver nothing moves: keep or forfeit the balance")
    if receiver is not None and receiver.pk == giver.pk:
        raise Invalid("giver and receiver are two")
    for one in (giver, receiver):
        if one is not None:
            lifecycle.check_open(one.pk)
    return Handover(
        operator=operator,
        kind=kind,
        subscriber=giver,
        receiver=receiver,
        subjects=sorted(set(subjects)) if subjects is not None else [],
        since=since,
        balance=balance,
        with_wallet=with_wallet,
        currency=operator.currency,
        reason=reason,
        asked_by=by,
        asked_at=at,
    )


def preview(handover: Handover, *, at: dt.datetime) -> Plan:
    """What a handover would move now. Raises SubjectNotHeld and what `planning` does."""
    return _plan(handover, _bindings(handover), at=at)


def looked_at(handover: Handover, *, at: dt.datetime) -> tuple[Plan, bool]:
    """What `preview` answers, and whether it would wait for another person."""
    found = preview(handover, at=at)
    return found, _waits(handover, found, at=at)


def _waits(handover: Handover, found: Plan, *, at: dt.datetime) -> bool:
    return corrections.rules_of(handover.operator_id, at=at).waits(found.worth)


def _bindings(handover: Handover) -> list[Subject]:
    wanted = None if handover.kind == Kind.MERGE else handover.subjects
    return registry.bindings_of(handover.subscriber_id, wanted)


def _plan(handover: Handover, bindings: list[Subject], *, at: dt.datetime) -> Plan:
    if handover.since is not None:
        planning.check_unused(bindings, since=handover.since)
    return planning.plan(
        handover.operator,
        handover.subscriber,
        bindings,
        balance=handover.balance,
        with_wallet=handover.with_wallet,
        merge=handover.kind == Kind.MERGE,
        at=at,
    )


@transaction.atomic
def ask(handover: Handover, *, at: dt.datetime) -> Handover:
    """Do a drafted handover, or keep it until another person approves.

    Asked for again, the one that waits or was just done is answered. Raises what `preview` does,
    and Invalid without a reason.
    """
    if not handover.reason or not handover.asked_by:
        raise Invalid("a handover has a person and a reason")
    operator = handover.operator
    registry.lock_bindings(operator)
    known = _known(handover)
    if known is not None:
        return known
    found = preview(handover, at=at)
    handover.effect, handover.worth = found.effect, found.worth
    handover.save(force_insert=True)
    if not _waits(handover, found, at=at):
        _do(handover, at=at)
        return handover
    approvals.ask(
        operator,
        approvals.Kind.HANDOVER,
        about_id=handover.pk,
        subscriber_id=handover.subscriber_id,
        amount=handover.worth,
        gross=handover.worth,
        effect={
            "handover": handover.kind,
            "receiver": None if handover.receiver is None else handover.receiver.external_id,
            "worth": str(handover.worth),
            **handover.effect,
        },
        reason=handover.reason,
        by=handover.asked_by,
        at=at,
    )
    return handover


def _known(handover: Handover) -> Handover | None:
    """The same handover, where it waits, or is done and its names are where it brought them."""
    last = (
        Handover.objects.filter(operator=handover.operator, subscriber=handover.subscriber)
        .filter(kind=handover.kind, receiver=handover.receiver, subjects=handover.subjects)
        .exclude(state=State.REJECTED)
        .order_by("-pk")
        .first()
    )
    if last is None or last.state == State.PENDING:
        return last
    held = Subject.objects.filter(
        subscriber=handover.subscriber, subject__in=handover.subjects, valid_until__isnull=True
    )
    return None if held.exists() or handover.kind == Kind.MERGE else last


# Deciding ----------------------------------------------------------------------------------------


def find(operator: Operator, handover_id: int) -> Handover:
    """Raises NotFound."""
    found = (
        Handover.objects.select_related("operator", "subscriber", "receiver")
        .filter(operator=operator, pk=handover_id)
        .first()
    )
    if found is None:
        raise NotFound("there is no such handover")
    return found


def waiting_for(operator: Operator, handover_id: int) -> Approval:
    """What was asked for a handover. Raises NotFound; Decided where nobody needed to be asked."""
    handover = find(operator, handover_id)
    found = approvals.about(approvals.Kind.HANDOVER, [handover_id]).get(handover_id)
    if found is None:
        raise approvals.Decided(f"it is {handover.state} already")
    return found


def do_approved(operator: Operator, approval: Approval, at: dt.datetime) -> dict[str, int]:
    """Do a handover that is approved. Raises Changed where it would move more than was asked for,
    and whatever stands against it by now."""
    handover = _locked(approval)
    registry.lock_bindings(operator)
    _do(handover, at=at)
    return {}


def let_be(operator: Operator, approval: Approval, at: dt.datetime) -> None:
    """A handover that is rejected does not happen."""
    handover = _locked(approval)
    handover.state = State.REJECTED
    handover.save(update_fields=["state"])


def _locked(approval: Approval) -> Handover:
    assert approval.about_id is not None
    rows = Handover.objects.select_related("operator", "subscriber", "receiver")
    handover = rows.select_for_update(of=("self",), no_key=True).get(pk=approval.about_id)
    assert handover.state == State.PENDING
    return handover


# Doing -------------------------------------------------------------------------------------------


def _do(handover: Handover, *, at: dt.datetime) -> None:
    """Move all that is to move, in the caller's transaction, which holds the bindings."""
    giver, receiver, operator = handover.subscriber, handover.receiver, handover.operator
    both = sorted({giver.pk, *([receiver.pk] if receiver is not None else [])})
    for subscriber_id in both:
        orders.lock_subscriber(subscriber_id)
        lifecycle.check_open(subscriber_id)
    list(
        Subscription.objects.filter(subscriber_id__in=both)
        .order_by("subscriber_id", "id")
        .select_for_update(no_key=True)
    )
    bindings = _bindings(handover)
    found = _plan(handover, bindings, at=at)
    if handover.since is None:
        handover.since = planning.after_usage(giver.pk, at=at)
    if found.worth > handover.worth:
        raise Changed(
            f"it would move {found.worth} by now, asked for were {handover.worth}: reject it and"
            " ask again"
        )
    merge = handover.kind == Kind.MERGE
    why = f"{handover.kind} {handover.pk}"
    for number in found.open_orders:
        orders.cancel(operator, number, reason=why, at=at)
    handover.amount = _move_wallet(handover, found.wallet, at=at)
    if merge:
        families.end_all(giver, at=at)
    # In the order of charges, which may be of both: what follows takes them one subscriber first.
    list(
        Bucket.objects.filter(subscriber_id__in=both)
        .order_by("subscriber_id", "id")
        .select_for_update(no_key=True)
        .values_list("id")
    )
    if receiver is None:
        days = dt.timedelta(days=cooling_days(operator.pk))
        registry.recycle(bindings, since=handover.since, free_from=at + days)
    else:
        registry.rebind(bindings, receiver, since=handover.since)
    if not merge:
        access.give_up_numbers(giver, [binding.subject for binding in bindings])
    if handover.balance == Balance.MOVE:
        assert receiver is not None
        handover.batch_id, handover.units = buckets.hand_over(
            giver.pk, receiver.pk, name=str(handover.pk), at=at
        )
    elif handover.balance == Balance.FORFEIT:
        buckets.withdraw(giver.pk, found.bucket_ids, at=at)
        buckets.forget([giver.pk])
    if merge:
        assert receiver is not None
        lifecycle.terminate(giver.pk, reason=why, at=at)
        registry.close_into(giver, receiver, at=at)
        handover.subjects = [binding.subject for binding in bindings]
    handover.state, handover.done_at, handover.effect = State.DONE, at, found.effect
    handover.save()


def _move_wallet(handover: Handover, amount: Decimal, *, at: dt.datetime) -> Decimal:
    if not amount or handover.receiver is None:
        return rating.ZERO
    key = f"handover:{handover.pk}"
    kinds = WalletMovement.Kind
    giver, receiver = handover.subscriber, handover.receiver
    out = wallets.Move(
        giver.pk, handover.currency, kinds.PAYOUT, -amount, key, f"to {receiver.external_id}"[:200]
    )
    into = wallets.Move(
        receiver.pk, handover.currency, kinds.TOP_UP, amount, key, f"of {giver.external_id}"[:200]
    )
    wallets.move(handover.operator_id, [out, into], at=at)
    posting = ledger.Draft(
        key, "handover", at, handover.currency, (out.side(), into.side()), handover.reason[:200]
    )
    posted = ledger.post(handover.operator_id, posting)
    assert posted
    return amount
