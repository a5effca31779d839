"""Who the carrier's CRM has told us about: the only writer of Subscriber and Subject."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from django.db import transaction

from subscriptions import advisory, buckets, catalog, lifecycle
from subscriptions.advisory import Lock
from subscriptions.errors import Conflict, DomainError, NotFound
from subscriptions.models import Operator, Plan, Subject, Subscriber
from subscriptions.safety import minors

BATCH = 1000

CREATED, UPDATED, UNCHANGED, REJECTED = "created", "updated", "unchanged", "rejected"


class SubjectTaken(Conflict):
    cause = "subject_taken"


class SubjectCooling(Conflict):
    cause = "subject_cooling"


class SubjectNotHeld(Conflict):
    cause = "subject_not_held"


class Repeated(Conflict):
    cause = "repeated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A subscriber as the CRM knows it. A field that is None was not said and stays as it is.

    `subjects` is the whole list held from now on; `plan` is sold where it is not yet held.
    """

    external_id: str
    name: str | None = None
    kind: str | None = None
    msisdn: str | None = None
    email: str | None = None
    language: str | None = None
    subjects: tuple[str, ...] | None = None
    plan: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a draft; `error` says why where it was rejected."""

    external_id: str
    status: str
    error: DomainError | None = None


@transaction.atomic
def upsert(operator: Operator, drafts: Sequence[Draft], *, at: dt.datetime) -> list[Outcome]:
    """Create or change up to 1,000 subscribers; answers an outcome for each, in their order.

    Each draft is done whole or rejected whole, as if they came one after the other; all in one
    transaction. A subject that leaves the list is unbound at `at`; a name never bound before at
    this operator is bound from ever, any other from `at` on. A plan is sold to start at `at`
    unless it is held already, or is to follow the one held. Causes: `subject_taken` (bound to
    another subscriber now), `subject_cooling` (recycled, and not free yet), `plan_held` (another
    plan is held), `unknown_plan`, `repeated` (the batch named the subscriber before),
    `subscriber_merged` (it is another one now).
    """
    assert len(drafts) <= BATCH
    # One upsert of an operator at a time: who holds a subject is read, then written.
    advisory.take(Lock.SUBSCRIBERS, operator.pk)
    known = {
        subscriber.external_id: subscriber
        for subscriber in Subscriber.objects.filter(
            operator=operator, external_id__in=[draft.external_id for draft in drafts]
        )
    }
    bindings = _Bindings(operator, drafts, known, at=at)
    wanted = {draft.plan for draft in drafts if draft.plan}
    on_sale = catalog.plans_on_sale(operator.pk, wanted) if wanted else []
    plans = {plan.code: plan for plan in on_sale}
    held: dict[int, set[str]] = {}
    had: dict[int, set[str]] = {}
    if plans:
        buyers = sorted(
            known[draft.external_id].pk
            for draft in drafts
            if draft.plan and draft.external_id in known
        )
        held = lifecycle.held_plans(buyers, since=at)
        if any(plan.trial_days is not None for plan in plans.values()):
            had = lifecycle.trials_had(buyers)

    capped = minors.among({subscriber.pk for subscriber in known.values()}) if plans else set()

    outcomes: list[Outcome] = []
    seen: set[str] = set()
    new: list[Subscriber] = []
    changed: list[Subscriber] = []
    sales: list[tuple[Subscriber, Plan]] = []
    for draft in drafts:
        subscriber = known.get(draft.external_id)
        plan: Plan | None = None
        try:
            if draft.external_id in seen:
                raise Repeated("the batch names this subscriber more than once")
            if subscriber is not None and subscriber.merged_into_id is not None:
                raise lifecycle.SubscriberMerged("the subscriber was merged into another one")
            if draft.plan is not None:
                buyer = subscriber.pk if subscriber else 0
                plan = _to_sell(draft.plan, plans, held.get(buyer, set()), had.get(buyer, set()))
                if plan is not None and buyer in capped:
                    minors.check_order(buyer, plan.price.amount)
            rebound = bindings.take(draft)
        except DomainError as error:
            outcomes.append(Outcome(draft.external_id, REJECTED, error))
            continue
        seen.add(draft.external_id)
        if subscriber is None:
            subscriber = Subscriber(operator=operator, external_id=draft.external_id, created_at=at)
            _say(subscriber, draft)
            new.append(subscriber)
            status = CREATED
        else:
            said = _say(subscriber, draft)
            if said:
                changed.append(subscriber)
            status = UPDATED if said or rebound or plan else UNCHANGED
        if plan is not None:
            sales.append((subscriber, plan))
        outcomes.append(Outcome(draft.external_id, status))

    Subscriber.objects.bulk_create(new)
    if changed:
        Subscriber.objects.bulk_update(changed, _FIELDS)
    bindings.write(known | {subscriber.external_id: subscriber for subscriber in new}, at=at)
    lifecycle.subscribe_many(operator, [(subscriber.pk, plan) for subscriber, plan in sales], at=at)
    return outcomes


_FIELDS = ("name", "kind", "msisdn", "email", "language")


def _say(subscriber: Subscriber, draft: Draft) -> bool:
    """Put what the draft says into the row; answers whether that changed it."""
    changed = False
    for field in _FIELDS:
        value = getattr(draft, field)
        if value is not None and value != getattr(subscriber, field):
            setattr(subscriber, field, value)
            changed = True
    return changed


def _to_sell(code: str, plans: dict[str, Plan], held: set[str], had: set[str]) -> Plan | None:
    """The plan version to be sold, or None where it is held already, or is a trial once had."""
    if code not in plans:
        raise catalog.UnknownPlan(f"there is no plan {code}")
    if code in held or code in had:
        return None
    if held:
        raise lifecycle.PlanHeld("the subscriber holds another plan; change that subscription")
    return plans[code]


class _Bindings:
    """Who holds which subject, as the drafts of a batch change it one after the other."""

    def __init__(
        self,
        operator: Operator,
        drafts: Sequence[Draft],
        known: dict[str, Subscriber],
        *,
        at: dt.datetime,
    ) -> None:
        self.operator = operator
        named = {subject for draft in drafts for subject in draft.subjects or ()}
        touched = {known[d.external_id].pk for d in drafts if d.external_id in known}
        bound = Subject.objects.filter(operator=operator, valid_until__isnull=True)
        rows = set(
            bound.filter(subject__in=named)
            .union(bound.filter(subscriber_id__among=touched, of_key=False))
            .values_list("pk", "subject", "subscriber_id", "of_key")
        )
        external = {subscriber.pk: subscriber.external_id for subscriber in known.values()}
        self.row = {subject: pk for pk, subject, _, _ in rows}
        # Subject to external id; a subscriber outside the batch only has to be somebody else, and
        # so has a key's subject, which is in nobody's list.
        self.holder: dict[str, str | None] = {
            s: None if of_key else external.get(holder) for _, s, holder, of_key in rows
        }
        self.held: dict[str | None, set[str]] = defaultdict(set)
        for subject, holder in self.holder.items():
            self.held[holder].add(subject)
        self.ever = set(
            Subject.objects.filter(operator=operator, subject__in=named).values_list(
                "subject", flat=True
            )
        )
        # Recycled names that are free for nobody but whom they were before.
        self.cooling: dict[str, str] = dict(
            Subject.objects.filter(operator=operator, subject__in=named, free_from__gt=at)
            .order_by("free_from")
            .values_list("subject", "subscriber__external_id")
        )
        self.ended: list[int] = []
        self.begun: dict[str, str] = {}

    def take(self, draft: Draft) -> bool:
        """Give the draft's subscriber the subjects it lists; answers whether that changed any.

        Raises SubjectTaken, and changes nothing, where another subscriber holds one.
        """
        if draft.subjects is None:
            return False
        listed, held = set(draft.subjects), self.held[draft.external_id]
        added = [subject for subject in dict.fromkeys(draft.subjects) if subject not in held]
        for subject in added:
            if subject in self.holder:
                raise SubjectTaken(f"subject {subject} is bound to another subscriber")
            if self.cooling.get(subject, draft.external_id) != draft.external_id:
                raise SubjectCooling(f"subject {subject} was recycled, and is not free yet")
        for subject in held - listed:
            del self.holder[subject]
            self.ended.append(self.row[subject])
        for subject in added:
            self.holder[subject] = draft.external_id
            self.begun[subject] = draft.external_id
        changed = listed != held
        self.held[draft.external_id] = listed
        return changed

    def write(self, subscribers: dict[str, Subscriber], *, at: dt.datetime) -> None:
        """End and begin the bindings that `take` has changed."""
        if self.ended:
            ended = Subject.objects.filter(pk__among=self.ended)
            ended.update(valid_until=at)
            buckets.forget(ended.values_list("subscriber_id", flat=True).distinct())
        Subject.objects.bulk_create(
            Subject(
                operator=self.operator,
                subject=subject,
                subscriber=subscribers[external_id],
                valid_from=at if subject in self.ever else None,
            )
            for subject, external_id in self.begun.items()
        )


# Subjects of keys --------------------------------------------------------------------------------


def bind_key(subscriber: Subscriber, subject: str) -> Subject:
    """Give a key of the subscriber's a subject of its own, from ever: gateways' clocks differ.

    Joins the caller's transaction. Raises SubjectTaken for a name that anybody was called before:
    what was used under it was not used by the key.
    """
    advisory.take(Lock.SUBSCRIBERS, subscriber.operator_id)
    if Subject.objects.filter(operator_id=subscriber.operator_id, subject=subject).exists():
        raise SubjectTaken(f"subject {subject} is, or was, somebody's")
    return Subject.objects.create(
        operator_id=subscriber.operator_id,
        subject=subject,
        subscriber=subscriber,
        of_key=True,
    )


# Handing over ------------------------------------------------------------------------------------


def bindings_of(subscriber_id: int, subjects: Sequence[str] | None = None) -> list[Subject]:
    """The bindings of a subscriber that hold now, by name; of these subjects, or all.

    Raises SubjectNotHeld for one that it does not hold.
    """
    held = Subject.objects.filter(subscriber_id=subscriber_id, valid_until__isnull=True)
    if subjects is None:
        return list(held.order_by("subject"))
    found = list(held.filter(subject__in=subjects).order_by("subject"))
    missing = set(subjects) - {binding.subject for binding in found}
    if missing:
        raise SubjectNotHeld(f"the subscriber does not hold {min(missing)}")
    return found


def lock_bindings(operator: Operator) -> None:
    """Keep others from binding and unbinding names until the transaction ends."""
    advisory.take(Lock.SUBSCRIBERS, operator.pk)


def rebind(bindings: Sequence[Subject], receiver: Subscriber, *, since: dt.datetime) -> None:
    """Let names be another subscriber's from an instant on; usage before it stays with whose they
    were. The caller holds `lock_bindings`, and knows that nothing was charged since."""
    _end(bindings, since, free_from=None)
    Subject.objects.bulk_create(
        Subject(
            operator_id=binding.operator_id,
            subject=binding.subject,
            subscriber=receiver,
            valid_from=since,
        )
        for binding in bindings
    )
    buckets.forget([receiver.pk])


def recycle(
    bindings: Sequence[Subject],
    *,
    since: dt.datetime,
    free_from: dt.datetime,
) -> None:
    """Let names be nobody's from an instant on, and nobody else's before `free_from`. The caller
    holds `lock_bindings`."""
    _end(bindings, since, free_from=free_from)


def give_up_numbers(subscriber: Subscriber, numbers: Collection[str]) -> None:
    """A phone number that is one of these is its subscriber's no more."""
    Subscriber.objects.filter(pk=subscriber.pk, msisdn__in=numbers).update(msisdn="")


def _end(bindings: Sequence[Subject], at: dt.datetime, *, free_from: dt.datetime | None) -> None:
    ended = Subject.objects.filter(pk__among=[binding.pk for binding in bindings])
    for binding in bindings:
        if binding.valid_from is not None and binding.valid_from > at:
            raise SubjectNotHeld(f"{binding.subject} is the subscriber's only since then")
    ended.update(valid_until=at, free_from=free_from)
    buckets.forget(ended.values_list("subscriber_id", flat=True).distinct())


def close_into(subscriber: Subscriber, receiver: Subscriber, *, at: dt.datetime) -> None:
    """Close a subscriber who is another one from now on; the caller has locked both."""
    Subscriber.objects.filter(pk=subscriber.pk).update(merged_into=receiver, merged_at=at)


def find(operator: Operator, external_id: str) -> Subscriber:
    """A subscriber of this operator. Raises NotFound, for another operator's as for none."""
    subscriber = None
    if "\0" not in external_id:  # PostgreSQL refuses to compare with it
        subscriber = Subscriber.objects.filter(operator=operator, external_id=external_id).first()
    if subscriber is None:
        raise NotFound("there is no such subscriber")
    return subscriber


def subjects_of(subscriber_ids: Sequence[int]) -> dict[int, list[str]]:
    """The subjects bound to each subscriber now, in the order they were bound."""
    held: dict[int, list[str]] = defaultdict(list)
    rows = (
        Subject.objects.filter(
            subscriber_id__among=subscriber_ids, valid_until__isnull=True, of_key=False
        )
        .order_by("pk")
        .values_list("subscriber_id", "subject")
    )
    for subscriber_id, subject in rows:
        held[subscriber_id].append(subject)
    return held
