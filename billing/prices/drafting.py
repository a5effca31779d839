"""A version of a plan or rate card, from a draft to the last day on sale. The only writer of
PriceDraft.

Where the operator's policy says so (`prices_by_two`), another person has to approve what was asked
for: the request shows in what it differs from what is sold, and its rehearsal. Without such a
policy it is approved as it is asked for. What is approved is published when it is to be sold, or
beforehand where it is a rate card, and never changes again: a change is a further draft.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.db import transaction

from billing import approvals, corrections
from billing.models import Approval, PriceDraft
from billing.prices import comparing
from billing.prices.terms import CardTerms, Terms, card_terms, plan_terms, to_json
from billing.rehearsing import Rehearsal
from metering.charged import charged_since
from subscriptions import catalog
from subscriptions.catalog import PlanTerms
from subscriptions.errors import Conflict, DomainError, Invalid, NotFound
from subscriptions.models import Operator, Plan, RateCard

Kind, State = PriceDraft.Kind, PriceDraft.State
V = TypeVar("V", Plan, RateCard)
# As many as people choose from.
_MOST_VERSIONS = 100
# What can still become another version.
_MENDABLE = (State.DRAFT, State.APPROVED)


class NotThere(Conflict):
    """It is not where this step begins."""

    cause = "price_state"


# What it says ------------------------------------------------------------------------------------


def terms_of(draft: PriceDraft) -> Terms:
    return plan_terms(draft.terms) if draft.kind == Kind.PLAN else card_terms(draft.terms)


def sold(operator: Operator, kind: str, code: str, *, version: int | None = None) -> Terms | None:
    """What the newest version says that was published, or this one; None where there is none."""
    if kind == Kind.PLAN:
        plan = _published(Plan, operator, code, version)
        return None if plan is None else catalog.terms_of(plan)
    card = _published(RateCard, operator, code, version)
    return None if card is None else CardTerms(weights=tuple(catalog.weights_of(card)))


def _published(model: type[V], operator: Operator, code: str, version: int | None) -> V | None:
    rows = model._default_manager.filter(operator=operator, code=code)
    if version is not None:
        rows = rows.filter(version=version)
    return rows.order_by("-version").first()


def versions(draft: PriceDraft) -> list[int]:
    """Those that were published of its code, the newest first."""
    rows = Plan.objects if draft.kind == Kind.PLAN else RateCard.objects
    found = rows.filter(operator=draft.operator, code=draft.code).order_by("-version")
    return list(found.values_list("version", flat=True)[:_MOST_VERSIONS])


def differences(draft: PriceDraft, against: int | None = None) -> list[comparing.Difference]:
    """In what a draft differs from what is published, the newest or this version; all of it, where
    nothing is."""
    before = sold(draft.operator, draft.kind, draft.code, version=against)
    terms = terms_of(draft)
    if before is None:
        said = comparing.differences(_nothing(terms), terms)
        return [one._replace(before="") for one in said if one.after]
    return comparing.differences(before, terms)


def _nothing(terms: Terms) -> Terms:
    if isinstance(terms, CardTerms):
        return CardTerms(weights=())
    return PlanTerms(name="", price=terms.price * 0, allowance=0, rate_card="")


# Drafting ----------------------------------------------------------------------------------------


@transaction.atomic
def draft(
    operator: Operator,
    code: str,
    terms: Terms,
    *,
    by: str,
    at: dt.datetime,
    note: str = "",
    on_sale_at: dt.datetime | None = None,
) -> PriceDraft:
    """Keep a draft. Raises what `catalog` does for terms that contradict themselves."""
    if not by:
        raise Invalid("a draft has a person")
    _check(operator, terms)
    return PriceDraft.objects.create(
        operator=operator,
        kind=Kind.RATE_CARD if isinstance(terms, CardTerms) else Kind.PLAN,
        code=code,
        terms=to_json(terms),
        note=note[:200],
        made_by=by,
        made_at=at,
        on_sale_at=on_sale_at,
    )


def _check(operator: Operator, terms: Terms) -> None:
    if isinstance(terms, PlanTerms):
        catalog.check_terms(operator, terms)
        return
    if not terms.weights or len({one.model for one in terms.weights}) != len(terms.weights):
        raise Invalid("a rate card has weights, of each pattern once")
    for weight in terms.weights:
        if not all(0 <= each <= 100 for each in comparing.weights(weight)):
            raise Invalid("a weight is 0 to 100 units per token")


@transaction.atomic
def change(
    operator: Operator, draft_id: int, terms: Terms, *, at: dt.datetime, note: str = ""
) -> PriceDraft:
    """Let a draft say something else. Raises NotFound, NotThere once it was asked for."""
    found = _locked(operator, draft_id)
    _expect(found, State.DRAFT)
    if isinstance(terms, CardTerms) != (found.kind == Kind.RATE_CARD):
        raise Invalid("a plan stays a plan")
    _check(operator, terms)
    return _put(found, terms=to_json(terms), note=note[:200], problem="")


@transaction.atomic
def drop(operator: Operator, draft_id: int, *, at: dt.datetime) -> PriceDraft:
    """Give up what is not scheduled. Again changes nothing. Raises NotFound, NotThere."""
    found = _locked(operator, draft_id)
    if found.state != State.DROPPED:
        _expect(found, *_MENDABLE)
        _put(found, state=State.DROPPED, ended_at=at)
    return found


# Four eyes ---------------------------------------------------------------------------------------


@transaction.atomic
def ask(
    operator: Operator,
    draft_id: int,
    *,
    reason: str,
    by: str,
    at: dt.datetime,
    rehearsal: Rehearsal | None = None,
) -> PriceDraft:
    """Ask for a draft to be approved; it is, where the policy wants no second person. Again
    changes nothing. Raises NotFound, NotThere, Invalid without a reason, UnknownRateCard for a
    plan whose card is not published yet."""
    found = _locked(operator, draft_id)
    if found.state in (State.ASKED, State.APPROVED):
        return found
    _expect(found, State.DRAFT)
    if found.kind == Kind.PLAN:
        catalog.check_rate_card(operator, plan_terms(found.terms).rate_card)
    if not corrections.rules_of(operator.pk, at=at).prices_by_two:
        if not reason.strip():
            raise Invalid("say what it is for")
        return _approved(operator, found, at=at)
    approvals.ask(
        operator,
        approvals.Kind.PRICE,
        about_id=found.pk,
        effect={
            "price": found.kind,
            "code": found.code,
            "on_sale_at": found.on_sale_at and found.on_sale_at.isoformat(),
            "differences": [list(one) for one in differences(found)],
            **({} if rehearsal is None else _summed(rehearsal)),
        },
        reason=reason,
        by=by,
        at=at,
    )
    return _put(found, state=State.ASKED)


def _summed(found: Rehearsal) -> dict[str, Any]:
    return {
        "periods": found.periods,
        "winners": found.winners,
        "losers": found.losers,
        "revenue_before": str(found.revenue_now),
        "revenue_after": str(found.revenue_then),
        "margin_before": str(found.revenue_now - found.cost_now),
        "margin_after": str(found.revenue_then - found.cost_then),
    }


def approve(operator: Operator, approval: Approval, at: dt.datetime) -> dict[str, int]:
    """What another person has approved waits for its date, or is sold where that is there."""
    assert approval.about_id is not None
    found = _locked(operator, approval.about_id)
    _expect(found, State.ASKED)
    _approved(operator, found, at=at)
    return {}


def _approved(operator: Operator, found: PriceDraft, *, at: dt.datetime) -> PriceDraft:
    _put(found, state=State.APPROVED)
    return found if found.on_sale_at is None else _schedule(operator, found, at=at)


def send_back(operator: Operator, approval: Approval, at: dt.datetime) -> None:
    """What is rejected is a draft again, to be mended."""
    assert approval.about_id is not None
    found = _locked(operator, approval.about_id)
    _expect(found, State.ASKED)
    _put(found, state=State.DRAFT)


# On sale -----------------------------------------------------------------------------------------


@transaction.atomic
def schedule(
    operator: Operator, draft_id: int, on_sale_at: dt.datetime, *, at: dt.datetime
) -> PriceDraft:
    """Let what is approved be sold from an instant on: at once where that is not later than `at`.
    A plan's date may be moved until then. Raises NotFound, NotThere, UsageAlreadyCharged for a
    rate card that begins too early."""
    found = _locked(operator, draft_id)
    movable = (State.SCHEDULED,) if found.kind == Kind.PLAN else ()
    _expect(found, State.APPROVED, *movable)
    if on_sale_at > at + dt.timedelta(days=3660):
        raise Invalid("that is too far away")
    _put(found, on_sale_at=on_sale_at)
    return _schedule(operator, found, at=at)


def _schedule(operator: Operator, found: PriceDraft, *, at: dt.datetime) -> PriceDraft:
    assert found.on_sale_at is not None
    card = None
    if found.kind == Kind.RATE_CARD:
        card, _ = catalog.publish_rate_card(
            operator,
            found.code,
            effective_from=found.on_sale_at,
            weights=card_terms(found.terms).weights,
            charged_since=charged_since,
            at=at,
        )
    _put(found, state=State.SCHEDULED, card=card, problem="")
    return found if found.on_sale_at > at else _sell(operator, found, at=at)


def _sell(operator: Operator, found: PriceDraft, *, at: dt.datetime) -> PriceDraft:
    plan = None
    if found.kind == Kind.PLAN:
        plan, _ = catalog.publish_plan(operator, found.code, plan_terms(found.terms), at=at)
    before = PriceDraft.objects.filter(
        operator=operator, kind=found.kind, code=found.code, state=State.ON_SALE
    )
    before.update(state=State.RETIRED, ended_at=at)
    return _put(found, state=State.ON_SALE, plan=plan, problem="")


def sell_due(operator: Operator, *, at: dt.datetime) -> int:
    """Let be sold what is scheduled for `at` or before; answers how many. One that cannot be says
    why, and is tried again."""
    due = PriceDraft.objects.filter(
        operator=operator, state=State.SCHEDULED, on_sale_at__lte=at
    ).order_by("on_sale_at", "id")
    sold_now = 0
    for draft_id in due.values_list("pk", flat=True):
        try:
            with transaction.atomic():
                found = _locked(operator, draft_id)
                if found.state == State.SCHEDULED:
                    _sell(operator, found, at=at)
                    sold_now += 1
        except DomainError as error:
            PriceDraft.objects.filter(pk=draft_id).update(problem=error.detail[:500])
    return sold_now


@transaction.atomic
def retire(operator: Operator, code: str, *, by: str, reason: str, at: dt.datetime) -> Plan:
    """Take a plan off sale: who holds it keeps it. Again changes nothing. Raises UnknownPlan,
    Invalid without a reason."""
    plan = catalog.retire_plan(operator, code, by=by, reason=reason, at=at)
    PriceDraft.objects.filter(
        operator=operator, kind=Kind.PLAN, code=code, state=State.ON_SALE
    ).update(state=State.RETIRED, ended_at=at)
    return plan


# By other doors ----------------------------------------------------------------------------------


@transaction.atomic
def publish(
    operator: Operator,
    code: str,
    terms: Terms,
    *,
    by: str,
    at: dt.datetime,
    publish_now: Callable[[], tuple[Any, bool]],
    on_sale_at: dt.datetime,
) -> tuple[Any, bool] | Approval:
    """What a door publishes: at once by `publish_now`, or asked for where two persons decide on
    prices. What the newest version says already needs nobody."""
    if not corrections.rules_of(operator.pk, at=at).prices_by_two:
        return publish_now()
    _check(operator, terms)
    kind = Kind.RATE_CARD if isinstance(terms, CardTerms) else Kind.PLAN
    if _is_sold(operator, code, terms, on_sale_at):
        return publish_now()
    waits = PriceDraft.objects.filter(operator=operator, kind=kind, code=code, state=State.ASKED)
    if kind == Kind.RATE_CARD:
        waits = waits.filter(on_sale_at=on_sale_at)
    known = next((one for one in waits.order_by("pk") if terms_of(one) == terms), None)
    if known is None:
        known = draft(operator, code, terms, by=by, at=at, on_sale_at=on_sale_at)
        ask(operator, known.pk, reason=f"{kind} {code}", by=by, at=at)
    return approvals.about(approvals.Kind.PRICE, [known.pk])[known.pk]


def _is_sold(operator: Operator, code: str, terms: Terms, on_sale_at: dt.datetime) -> bool:
    """Whether the newest version says just this, and is sold; a rate card also from when on."""
    if isinstance(terms, PlanTerms):
        plans = catalog.plans_on_sale(operator.pk, [code])
        return any(catalog.terms_of(plan) == terms for plan in plans)
    newest = RateCard.objects.filter(operator=operator, code=code).order_by("-version").first()
    return (
        newest is not None
        and newest.effective_from == on_sale_at
        and sold(operator, Kind.RATE_CARD, code) == terms
    )


# All of it ---------------------------------------------------------------------------------------


def find(operator: Operator, draft_id: int) -> PriceDraft:
    """Raises NotFound."""
    rows = PriceDraft.objects.select_related("operator", "plan", "card")
    found = rows.filter(operator=operator, pk=min(draft_id, 2**63 - 1)).first()
    if found is None:
        raise NotFound("there is no such draft")
    return found


def _locked(operator: Operator, draft_id: int) -> PriceDraft:
    find(operator, draft_id)
    rows = PriceDraft.objects.select_related("operator")
    return rows.select_for_update(of=("self",), no_key=True).get(pk=draft_id)


def _expect(found: PriceDraft, *states: str) -> None:
    if found.state not in states:
        raise NotThere(f"it is {found.state}")


def _put(found: PriceDraft, **facts: Any) -> PriceDraft:
    for name, value in facts.items():
        setattr(found, name, value)
    found.save(update_fields=list(facts))
    return found


def states(rows: Sequence[PriceDraft]) -> dict[int, Approval]:
    """The last approval that was asked for of each."""
    return approvals.about(approvals.Kind.PRICE, [row.pk for row in rows])
