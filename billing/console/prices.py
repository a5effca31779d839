"""The plan builder, of plans and the rate cards that they weigh by: draft, preview, rehearse,
compare, ask for approval, schedule, retire."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.contrib import messages
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from djmoney.money import Money

from billing import rehearsing
from billing.console.inline import Inline, who
from billing.console.price_forms import CLASSES, CardForm, PlanForm, initial, plain, weights_form
from billing.models import PriceDraft
from billing.portal import conditions
from billing.prices import comparing, drafting
from billing.prices.terms import CardTerms, Terms
from billing.rehearsing import Rehearsal
from subscriptions import catalog
from subscriptions.catalog import PlanTerms
from subscriptions.console.deeds import in_words
from subscriptions.console.doors import Visit
from subscriptions.console.pages import Page, Section, page
from subscriptions.errors import DomainError, Invalid, NotFound
from subscriptions.models import Operator, RateCard, Role, Subscriber

# What a page may take; `manage.py rehearse` has no such limit.
MOST = 20_000
State = PriceDraft.State
STATES: dict[str, str | Promise] = {
    State.DRAFT: gettext_lazy("Draft"),
    State.ASKED: gettext_lazy("Waits for approval"),
    State.APPROVED: gettext_lazy("Approved"),
    State.SCHEDULED: gettext_lazy("Scheduled"),
    State.ON_SALE: gettext_lazy("On sale"),
    State.RETIRED: gettext_lazy("Retired"),
    State.DROPPED: gettext_lazy("Given up"),
}
_ROLES = (Role.PRODUCT,)


# Pages -------------------------------------------------------------------------------------------


@page
class Plans(Page):
    name = "plan_builder"
    address = "plan-builder/"
    title = gettext_lazy("Plan builder")
    help = gettext_lazy(
        "A version is drafted, rehearsed on last month's usage, approved and scheduled. What was"
        " sold never changes."
    )
    section, icon = Section.PRODUCTS, "construction"
    order = 10
    roles = (*_ROLES, Role.FINANCE)
    template_name = "console/plans.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        drafts = PriceDraft.objects.filter(operator=self.operator).select_related("plan", "card")
        gone = (State.RETIRED, State.DROPPED)
        return {
            "plans": catalog.plans_on_sale(self.operator.pk),
            "cards": newest_cards(self.operator),
            "drafts": [
                (one, state_of(one)) for one in drafts.exclude(state__in=gone).order_by("-pk")[:100]
            ],
            "changes": self.visit.may(DraftPlan.permission()),
        }


def newest_cards(operator: Operator) -> list[RateCard]:
    """The newest version of each rate card, by code."""
    rows = RateCard.objects.filter(operator=operator).order_by("code", "-version")
    return list(rows.distinct("code"))


@page
class DraftPlan(Page):
    """A new draft (`?code=` begins with what is sold), or a draft that is mended."""

    name = "plan_draft"
    address = "plan-builder/draft/"
    title = gettext_lazy("Draft a version")
    help = gettext_lazy("Nothing is sold by it yet.")
    roles = _ROLES
    changes = True
    parent = "plan_builder"
    template_name = "console/plan_draft_form.html"

    def _base(self) -> tuple[str, PlanTerms | None, PriceDraft | None]:
        code, terms, draft = begun(self.operator, self.request, PriceDraft.Kind.PLAN)
        return code, terms if isinstance(terms, PlanTerms) else None, draft

    def _cards(self) -> list[str]:
        return [card.code for card in newest_cards(self.operator)]

    def context(self, **kwargs: Any) -> dict[str, Any]:
        code, base, draft = self._base()
        first: dict[str, Any] = {"code": code, "tax_rate": "6"}
        if base is not None:
            first = initial(code, base, draft.note if draft else "")
        return {"form": PlanForm(initial=first, cards=self._cards())}

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        _code, base, draft = self._base()
        form = PlanForm(request.POST, cards=self._cards())
        if form.is_valid():
            try:
                with transaction.atomic():
                    kept = self._keep(form, base, draft)
            except DomainError as error:
                form.add_error(None, in_words(error))
            else:
                messages.success(request, _("The draft is kept."))
                return HttpResponseRedirect(reverse("admin:plan_version", args=[kept.pk]))
        return self.show(form=form, status=422)

    def _keep(self, form: PlanForm, base: PlanTerms | None, draft: PriceDraft | None) -> PriceDraft:
        said = form.cleaned_data
        if draft is None and base is None:
            sold = drafting.sold(self.operator, PriceDraft.Kind.PLAN, said["code"])
            base = sold if isinstance(sold, PlanTerms) else None
        return keep(self.visit, draft, said, form.terms(base, self.operator.currency))


@page
class DraftCard(Page):
    """The same of a rate card."""

    name = "card_draft"
    address = "plan-builder/card/"
    title = gettext_lazy("Draft a rate card")
    help = gettext_lazy(
        "How many units a token of each model weighs. It weighs nothing before it is approved and"
        " scheduled."
    )
    roles = _ROLES
    changes = True
    parent = "plan_builder"
    template_name = "console/card_draft_form.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        code, base, draft = begun(self.operator, self.request, PriceDraft.Kind.RATE_CARD)
        first = {"code": code, "note": draft.note if draft else ""}
        known = base if isinstance(base, CardTerms) else None
        return {
            "form": CardForm(initial=first),
            "weights": weights_form(base=known),
            "classes": CLASSES.values(),
        }

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        _code, _base, draft = begun(self.operator, request, PriceDraft.Kind.RATE_CARD)
        form, weights = CardForm(request.POST), weights_form(request.POST)
        if form.is_valid() and weights.is_valid():
            try:
                with transaction.atomic():
                    kept = keep(self.visit, draft, form.cleaned_data, weights.terms())
            except DomainError as error:
                form.add_error(None, in_words(error))
            else:
                messages.success(request, _("The draft is kept."))
                return HttpResponseRedirect(reverse("admin:plan_version", args=[kept.pk]))
        return self.show(form=form, weights=weights, classes=CLASSES.values(), status=422)


def begun(
    operator: Operator, request: HttpRequest, kind: str
) -> tuple[str, Terms | None, PriceDraft | None]:
    """Where a draft begins: at one that is kept (`?draft=`), or at what is sold (`?code=`)."""
    draft_id = request.GET.get("draft", "")
    if draft_id:
        number = draft_id.isascii() and draft_id.isdigit() and len(draft_id) < 19
        draft = found(operator, int(draft_id) if number else 0)
        if draft.kind != kind:
            raise Http404
        return draft.code, drafting.terms_of(draft), draft
    code = request.GET.get("code", "").replace("\0", "")
    return code, drafting.sold(operator, kind, code) if code else None, None


def keep(visit: Visit, draft: PriceDraft | None, said: dict[str, Any], terms: Terms) -> PriceDraft:
    """A further draft, or this one as it is mended."""
    if draft is None:
        kept = drafting.draft(
            visit.operator, said["code"], terms, by=who(visit), at=visit.now, note=said["note"]
        )
    else:
        kept = drafting.change(visit.operator, draft.pk, terms, at=visit.now, note=said["note"])
    visit.note("plan_draft.kept", about=f"price-draft/{kept.pk}", after={"code": kept.code})
    return kept


def found(operator: Operator, draft_id: int) -> PriceDraft:
    try:
        return drafting.find(operator, draft_id)
    except NotFound as error:
        raise Http404 from error


@page
class Version(Page):
    """One version: as customers will read it, in what it differs, and last month under it."""

    name = "plan_version"
    address = "plan-builder/<int:draft_id>/"
    title = gettext_lazy("Version")
    roles = Plans.roles
    parent = "plan_builder"
    template_name = "console/plan_version.html"

    def context(self, draft_id: int = 0, **kwargs: Any) -> dict[str, Any]:
        draft = found(self.operator, draft_id)
        terms = drafting.terms_of(draft)
        given: dict[str, Any] = {
            "draft": draft,
            "is_plan": draft.kind == PriceDraft.Kind.PLAN,
            "state": state_of(draft),
            "asked": drafting.states([draft]).get(draft.pk),
            "published": draft.state in (State.ON_SALE, State.RETIRED),
            "changes": self.visit.may(VersionDeed.permission()),
            "today": timezone.localtime(self.now),
            "month": last_month(self.now),
            **self._compared(draft),
            **self._rehearsed(draft),
        }
        if isinstance(terms, CardTerms):
            given["classes"] = CLASSES.values()
            given["weights"] = [
                (one.model, map(plain, comparing.weights(one))) for one in terms.weights
            ]
        else:
            plan = catalog.drafted(self.operator, draft.code, terms, at=self.now)
            given["preview"], given["conditions"] = plan, conditions.of(plan)
        return given

    def _compared(self, draft: PriceDraft) -> dict[str, Any]:
        """In what it differs from the version that `?against=` names, else from the newest one
        before it."""
        published = draft.plan or draft.card
        own = None if published is None else published.version
        versions = [one for one in drafting.versions(draft) if one != own]
        before = [one for one in versions if own is None or one < own]
        asked = self.request.GET.get("against", "")
        against = next((one for one in versions if str(one) == asked), max(before, default=None))
        return {
            "versions": versions,
            "against": against,
            "differences": [
                comparing.in_words(one) for one in drafting.differences(draft, against)
            ],
        }

    def _rehearsed(self, draft: PriceDraft) -> dict[str, Any]:
        month = self.request.GET.get("month", "")
        if not month:
            return {}
        try:
            result = rehearsed(
                self.operator, draft, month, self.request.GET.get("each", "1"), at=self.now
            )
        except DomainError as error:
            return {"rehearsal_problem": in_words(error)}
        return {"rehearsal": summed(result), "month": month}


def state_of(draft: PriceDraft) -> str | Promise:
    if draft.kind == PriceDraft.Kind.RATE_CARD and draft.state == State.ON_SALE:
        return gettext_lazy("In force")
    return STATES[draft.state]


def last_month(at: dt.datetime) -> str:
    first = timezone.localtime(at).date().replace(day=1)
    return f"{first - dt.timedelta(days=1):%Y-%m}"


def rehearsed(
    operator: Operator, draft: PriceDraft, month: str, each: str, *, at: dt.datetime
) -> Rehearsal:
    """A draft on a month (`2026-06`) of each `each`th customer. Raises Invalid."""
    terms = drafting.terms_of(draft)
    try:
        first = dt.date.fromisoformat(f"{month}-01")
        nth = max(1, min(10**6, int(each)))
    except ValueError as error:
        raise Invalid("a month is as in 2026-06") from error
    other = (
        rehearsing.card_drafted(draft.code, terms.weights, at=at)
        if isinstance(terms, CardTerms)
        else rehearsing.offer_drafted(operator, draft.code, terms, at=at)
    )
    return rehearsing.rehearse(operator, other, month=first, at=at, each=nth, most=MOST)


def summed(result: Rehearsal) -> dict[str, Any]:
    """A rehearsal as a page shows it."""

    def money(amount: Decimal) -> Money:
        return Money(amount, result.currency)

    shown = [*result.best, *result.worst]
    names = dict(
        Subscriber.objects.filter(pk__in={one.subscriber_id for one in shown}).values_list(
            "pk", "external_id"
        )
    )

    def rows(outcomes: Sequence[rehearsing.Outcome]) -> list[dict[str, Any]]:
        return [
            {
                "subscriber": names.get(one.subscriber_id, ""),
                "units": one.units,
                "now": money(one.now.gross),
                "then": money(one.then.gross),
                "change": money(one.change),
            }
            for one in outcomes[:10]
        ]

    return {
        "periods": result.periods,
        "winners": result.winners,
        "losers": result.losers,
        "refused_now": result.refused_now,
        "refused_then": result.refused_then,
        "revenue_now": money(result.revenue_now),
        "revenue_then": money(result.revenue_then),
        "margin_now": money(result.revenue_now - result.cost_now),
        "margin_then": money(result.revenue_then - result.cost_then),
        "best": rows(result.best),
        "worst": rows(result.worst),
    }


# Deeds -------------------------------------------------------------------------------------------


@page
class VersionDeed(Inline):
    """Ask for approval, schedule, give up."""

    name = "plan_version_do"
    address = "plan-builder/<int:draft_id>/do/"
    title = gettext_lazy("Ask, schedule, give up")
    roles = _ROLES
    parent = "plan_builder"

    def act(self, draft_id: int = 0, **kwargs: Any) -> str:
        operator, at, by = self.operator, self.now, who(self.visit)
        draft = drafting.find(operator, draft_id)
        match self.text("do"):
            case "ask":
                result = None
                if self.text("month"):
                    each = self.text("each") or "1"
                    result = rehearsed(operator, draft, self.text("month"), each, at=at)
                asked = drafting.ask(
                    operator, draft_id, reason=self.reason(), by=by, at=at, rehearsal=result
                )
                if asked.state == State.ASKED:
                    return _("Another person has been asked to approve it.")
                return _("It is approved.")
            case "schedule":
                scheduled = drafting.schedule(operator, draft_id, self._date(), at=at)
                if scheduled.state == State.ON_SALE:
                    is_plan = draft.kind == PriceDraft.Kind.PLAN
                    return _("It is on sale now.") if is_plan else _("It is in force now.")
                return _("It is scheduled.")
            case "drop":
                drafting.drop(operator, draft_id, at=at)
                return _("It is given up.")
        raise Invalid("do is ask, schedule or drop")

    def _date(self) -> dt.datetime:
        """The begin of a day of the operator's; nothing: now."""
        said = self.text("day")
        if not said:
            return self.now
        try:
            day = dt.date.fromisoformat(said)
        except ValueError as error:
            raise Invalid("a day is as in 2026-06-01") from error
        return max(self.now, dt.datetime.combine(day, dt.time(), self.visit.zone))

    def back(self, draft_id: int = 0, **kwargs: Any) -> str:
        return reverse("admin:plan_version", args=[draft_id])


@page
class RetirePlan(Inline):
    """Take a plan off sale."""

    name = "plan_retire"
    address = "plan-builder/retire/"
    title = gettext_lazy("Retire a plan")
    roles = _ROLES
    parent = "plan_builder"

    def act(self, **kwargs: Any) -> str:
        plan = drafting.retire(
            self.operator, self.text("code"), by=who(self.visit), reason=self.reason(), at=self.now
        )
        return str(_("%(name)s is not sold any more.")) % {"name": plan.name}
