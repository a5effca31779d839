"""What waits for a second person: its effect in numbers, then a decision with a reason."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from django.db.models import QuerySet
from django.http import Http404
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from djmoney.money import Money

from billing import approvals, approving
from billing.approvals import Kind, State
from billing.console.inline import Inline, who
from billing.models import Approval
from billing.prices import comparing
from billing.prices.comparing import Difference
from subscriptions.console.pages import Page, Section, page
from subscriptions.errors import NotFound
from subscriptions.models import Role, Subscriber
from subscriptions.templatetags import figures

SHOWN = 50
KINDS: dict[str, str | Promise] = {
    Kind.CREDIT_NOTE: gettext_lazy("Credit note"),
    Kind.ADJUSTMENT: gettext_lazy("Adjustment of a bill"),
    Kind.REFUND: gettext_lazy("Refund"),
    Kind.UNITS: gettext_lazy("Units given by hand"),
    Kind.MONEY: gettext_lazy("Money given by hand"),
    Kind.WRITE_OFF: gettext_lazy("Write-off of an invoice"),
    Kind.DIFFERENCE: gettext_lazy("Write-off of a payment difference"),
    Kind.HANDOVER: gettext_lazy("Handover"),
    Kind.PRICE: gettext_lazy("Version of prices"),
    Kind.RERATING: gettext_lazy("Re-rating"),
}
STATES: dict[str, str | Promise] = {
    State.PENDING: gettext_lazy("Waits"),
    State.APPROVED: gettext_lazy("Approved"),
    State.REJECTED: gettext_lazy("Rejected"),
    State.SUPERSEDED: gettext_lazy("Overtaken"),
}
# What an effect says, in the order in which people read it; how its value is to be read.
_EFFECTS: dict[str, tuple[str | Promise, str]] = {
    "invoice": (gettext_lazy("Invoice"), ""),
    "order": (gettext_lazy("Order"), ""),
    "handover": (gettext_lazy("Handover"), ""),
    "receiver": (gettext_lazy("Receiver"), ""),
    "code": (gettext_lazy("Identifier"), ""),
    "rate_card": (gettext_lazy("Rate card"), ""),
    "account": (gettext_lazy("Account"), ""),
    "day": (gettext_lazy("Day"), ""),
    "since": (gettext_lazy("Usage since"), "time"),
    "until": (gettext_lazy("Usage until"), "time"),
    "on_sale_at": (gettext_lazy("On sale from"), "time"),
    "credit": (gettext_lazy("Credited"), "money"),
    "compensation": (gettext_lazy("Compensation beyond"), "money"),
    "left_before": (gettext_lazy("Left of the invoice before"), "money"),
    "left_after": (gettext_lazy("Left of the invoice after"), "money"),
    "adjustment": (gettext_lazy("On the next bill"), "money"),
    "units_billed": (gettext_lazy("Units billed"), "units"),
    "units_used": (gettext_lazy("Units used"), "units"),
    "paid": (gettext_lazy("Paid"), "money"),
    "refund": (gettext_lazy("Refunded"), "money"),
    "units_taken_back": (gettext_lazy("Units taken back"), "units"),
    "units": (gettext_lazy("Units"), "units"),
    "valid_until": (gettext_lazy("Valid until"), "time"),
    "expires_at": (gettext_lazy("Lapses"), "time"),
    "units_before": (gettext_lazy("Units before"), "units"),
    "units_after": (gettext_lazy("Units after"), "units"),
    "wallet_before": (gettext_lazy("Wallet before"), "money"),
    "wallet_after": (gettext_lazy("Wallet after"), "money"),
    "invoiced": (gettext_lazy("Invoiced"), "money"),
    "given_up": (gettext_lazy("Given up"), "money"),
    "theirs": (gettext_lazy("Says the provider"), "money"),
    "ours": (gettext_lazy("Say our books"), "money"),
    "written_off": (gettext_lazy("Written off"), "money"),
    "worth": (gettext_lazy("Worth"), "money"),
    "wallet": (gettext_lazy("From the wallet"), "money"),
    "subjects": (gettext_lazy("Numbers"), "list"),
    "orders_cancelled": (gettext_lazy("Orders that are cancelled"), "list"),
    "plans_ended": (gettext_lazy("Plans that end"), "list"),
    "invoices_left_with_it": (gettext_lazy("Invoices that stay due"), "list"),
    "records": (gettext_lazy("Records that change"), "count"),
    "gain": (gettext_lazy("Customers who gain"), "count"),
    "lose": (gettext_lazy("Customers who lose"), "count"),
    "units_moved": (gettext_lazy("Units moved"), "units"),
    "periods": (gettext_lazy("Periods rehearsed"), "count"),
    "winners": (gettext_lazy("Would have paid less"), "count"),
    "losers": (gettext_lazy("Would have paid more"), "count"),
    "revenue_before": (gettext_lazy("Revenue as it was"), "money"),
    "revenue_after": (gettext_lazy("Revenue under it"), "money"),
    "margin_before": (gettext_lazy("Margin as it was"), "money"),
    "margin_after": (gettext_lazy("Margin under it"), "money"),
}


def effect_of(one: Approval) -> Iterator[tuple[str, str]]:
    """What an approval would do, as labels and text."""
    for name, (label, reads) in _EFFECTS.items():
        value = one.effect.get(name)
        if value not in (None, "", []):
            yield str(label), _read(value, reads, one.currency)


def _read(value: Any, reads: str, currency: str) -> str:
    match reads:
        case "money":
            return figures.money(Money(Decimal(value), currency))
        case "units":
            return figures.units_text(value)
        case "count":
            return figures.whole(value)
        case "time":
            return figures.moment(dt.datetime.fromisoformat(value))
        case "list":
            return ", ".join(map(str, value))
    return str(value)


def differences_of(one: Approval) -> list[str]:
    """In what a version of prices differs from what is sold, in words."""
    return [comparing.in_words(Difference(*said)) for said in one.effect.get("differences", ())]


class Shown(NamedTuple):
    row: Approval
    kind: str
    state: str
    whose: str
    size: str


def shown(rows: Sequence[Approval]) -> list[Shown]:
    """Rows for a table, with names."""
    ids = {row.subscriber_id for row in rows if row.subscriber_id is not None}
    names = dict(Subscriber.objects.filter(pk__in=ids).values_list("pk", "external_id"))
    return [
        Shown(
            row,
            str(KINDS[row.kind]),
            str(STATES[row.state]),
            names.get(row.subscriber_id or 0, str(row.effect.get("code", ""))),
            _size(row),
        )
        for row in rows
    ]


def _size(row: Approval) -> str:
    if row.units is not None:
        return str(_("%(units)s units")) % {"units": figures.exact(row.units)}
    if row.amount:
        # What is given to a subscriber stands below zero, as on a bill.
        given = row.kind == Approval.Kind.MONEY
        return figures.money(Money(-row.amount if given else row.amount, row.currency))
    if "units_moved" in row.effect:
        moved = figures.units_text(row.effect["units_moved"])
        return str(_("%(units)s units")) % {"units": moved}
    return ""


@page
class Approvals(Page):
    name = "approvals"
    address = "approvals/"
    title = gettext_lazy("Approvals")
    help = gettext_lazy(
        "What is above the limits waits here until somebody else than who asked decides. Nothing of"
        " it is done before."
    )
    section, icon = Section.MONEY, "fact_check"
    order = 10
    roles = (Role.FINANCE, Role.PRODUCT, Role.AGENT)
    template_name = "console/approvals.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        state = self.request.GET.get("state", State.PENDING)
        rows: QuerySet[Approval] = Approval.objects.filter(operator=self.operator)
        if state in State.values:
            rows = rows.filter(state=state)
        before = self.request.GET.get("before", "")
        if before.isascii() and before.isdigit() and len(before) < 19:
            rows = rows.filter(pk__lt=int(before))
        found = list(rows.order_by("-pk")[: SHOWN + 1])
        return {
            "lines": shown(found[:SHOWN]),
            "state": state,
            "states": STATES.items(),
            "more": found[SHOWN - 1].pk if len(found) > SHOWN else None,
        }


@page
class ApprovalPage(Page):
    name = "approval"
    address = "approvals/<int:approval_id>/"
    title = gettext_lazy("Approval")
    roles = Approvals.roles
    parent = "approvals"
    template_name = "console/approval.html"

    def context(self, approval_id: int = 0, **kwargs: Any) -> dict[str, Any]:
        try:
            row = approvals.find(self.operator, approval_id)
        except NotFound as error:
            raise Http404 from error
        return {
            "one": shown([row])[0],
            "effect": list(effect_of(row)),
            "differences": differences_of(row),
            "own": row.asked_by == who(self.visit),
            "waits": row.state == State.PENDING,
            "decides": self.visit.may(Decide.permission()),
        }


@page
class Decide(Inline):
    """Approve or reject, with a reason."""

    name = "approval_decide"
    address = "approvals/<int:approval_id>/decide/"
    title = gettext_lazy("Decide")
    roles = (Role.FINANCE, Role.PRODUCT)
    parent = "approvals"

    def act(self, approval_id: int = 0, **kwargs: Any) -> str:
        row = approvals.find(self.operator, approval_id)
        if self.visit.staff.role == Role.PRODUCT and row.kind != Kind.PRICE:
            raise approvals.Decided(_("A product manager decides on prices only."))
        approve = self.text("do") == "approve"
        decide = approving.approve if approve else approving.reject
        done = decide(self.operator, row.pk, by=who(self.visit), reason=self.reason(), at=self.now)
        said = _("Approved: %(what)s") if approve else _("Rejected: %(what)s")
        return str(said) % {"what": KINDS[done.kind]}

    def back(self, approval_id: int = 0, **kwargs: Any) -> str:
        return reverse("admin:approval", args=[approval_id])
