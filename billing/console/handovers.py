"""Numbers that go to another subscriber or back to nobody, and subscribers who become another."""

from __future__ import annotations

from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as now_
from django.utils.translation import gettext_lazy as _
from djmoney.money import Money

from billing.handovers import keeping
from billing.handovers.planning import Plan
from billing.models import Handover
from subscriptions import registry
from subscriptions.console import masks
from subscriptions.console.deeds import Deed, Record, Why, in_words
from subscriptions.console.pages import Page, Section, Text, page
from subscriptions.errors import DomainError, Invalid, NotFound
from subscriptions.models import Role, Subscriber
from subscriptions.templatetags.figures import money, units_text
from subscriptions.templatetags.words import word

Kind, Balance = Handover.Kind, Handover.Balance
ROLES = (Role.AGENT, Role.OPERATIONS)
_MOST = 50


@page
class Handovers(Page):
    name = "handovers"
    address = "handovers/"
    title = _("Handovers")
    help = _(
        "A number goes to another subscriber or back to nobody; a subscriber becomes another one."
    )
    section, icon, order = Section.CUSTOMERS, "swap_horiz", 50
    roles = (*ROLES, Role.FINANCE)
    template_name = "console/handovers.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        rows = Handover.objects.filter(operator=self.operator)
        before = self.request.GET.get("before", "")
        if before.isdecimal() and len(before) < 19:
            rows = rows.filter(pk__lt=int(before))
        found = list(rows.select_related("subscriber", "receiver").order_by("-pk")[: _MOST + 1])
        deeds = [
            (one.title, reverse(f"admin:{one.name}"))
            for one in (TransferNumber, RecycleNumber, MergeSubscriber)
            if self.visit.may(one.permission())
        ]
        return {
            "handovers": [(one, Money(one.worth, one.currency)) for one in found[:_MOST]],
            "more": found[_MOST - 1].pk if len(found) > _MOST else None,
            "deeds": deeds,
        }


@page
class HandoverPage(Record):
    name = "handover"
    address = "handovers/<int:handover_id>/"
    title = _("Handover")
    roles = Handovers.roles
    parent = "handovers"
    template_name = "console/handover.html"
    handover: Handover

    def heading(self) -> Text:
        return f"{word(self.handover.kind)} {self.handover.pk}"

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.handover = keeping.find(self.operator, kwargs["handover_id"])
        return self.show(
            handover=self.handover,
            worth=Money(self.handover.worth, self.handover.currency),
            effect=_in_words(self.handover.effect),
        )


def _in_words(effect: dict[str, Any]) -> list[tuple[Text, Any]]:
    return [
        (_EFFECT[name], _said(name, value))
        for name, value in effect.items()
        if name in _EFFECT and value not in (None, "", [])
    ]


def _said(name: str, value: Any) -> str:
    if name == "subjects":
        return ", ".join(map(masks.subject, value))
    if name == "units":
        return units_text(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else word(value)


_EFFECT: dict[str, Text] = {
    "subjects": _("Numbers"),
    "balance": _("What is left of tokens"),
    "units": _("Tokens"),
    "wallet": _("Wallet"),
    "plans_ended": _("Plans that end"),
    "orders_cancelled": _("Orders that are cancelled"),
    "invoices_left_with_it": _("Invoices that stay with it"),
}


class Names(Why):
    giver = forms.CharField(
        label=_("Subscriber"), max_length=128, help_text=_("The id of who has the number now.")
    )
    subjects = forms.CharField(
        label=_("Numbers"),
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("One a line, as gateways send them."),
    )
    sure = forms.CharField(required=False, widget=forms.HiddenInput, max_length=1)


class Transferred(Names):
    receiver = forms.CharField(
        label=_("Goes to"), max_length=128, help_text=_("The id of who has it from now on.")
    )
    balance = forms.ChoiceField(
        label=_("What is left of tokens"),
        choices=[],
        help_text=_("Of what the giver has bought or was given with this number."),
    )
    with_wallet = forms.BooleanField(
        label=_("The wallet's money goes along"),
        required=False,
        help_text=_("Otherwise it stays with the giver."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [(one, word(one)) for one in Balance.values]
        self.fields["balance"].choices = choices  # type: ignore[attr-defined]


class Recycled(Names):
    balance = forms.ChoiceField(
        label=_("What is left of tokens"),
        choices=[],
        help_text=_("Of what the giver has bought or was given with this number."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [(one, word(one)) for one in (Balance.KEEP, Balance.FORFEIT)]
        self.fields["balance"].choices = choices  # type: ignore[attr-defined]


class Merged(Why):
    giver = forms.CharField(
        label=_("Subscriber"), max_length=128, help_text=_("The id of who is closed.")
    )
    receiver = forms.CharField(
        label=_("Becomes"), max_length=128, help_text=_("The id of who goes on.")
    )
    sure = forms.CharField(required=False, widget=forms.HiddenInput, max_length=1)


class Handing(Deed):
    """Asked twice: first what would move is shown, then it is done, or waits for another person."""

    roles = ROLES
    parent = "handovers"
    kind: Handover.Kind
    button = _("Show what would move")
    handover: Handover | None = None
    plan: tuple[Plan, bool] | None = None

    def initial(self) -> dict[str, Any]:
        return {"giver": self.request.GET.get("giver", "")[:128]}

    def back(self) -> str:
        if self.handover is not None and self.handover.pk:
            return reverse("admin:handover", args=[self.handover.pk])
        return reverse("admin:handovers")

    def about(self) -> str:
        return f"handover/{self.handover.pk if self.handover else ''}"

    def whose(self) -> Subscriber | None:
        return self.handover.subscriber if self.handover else None

    def after(self, said: dict[str, Any]) -> dict[str, Any] | None:
        return super().after({name: value for name, value in said.items() if name != "sure"})

    def effect(self) -> list[tuple[Text, Any]]:
        if self.plan is None:
            return []
        plan, waits = self.plan
        worth = money(Money(plan.worth, self.operator.currency))
        return [
            *_in_words(plan.effect),
            (_("Worth"), worth),
            (_("Approval"), _("Another person has to approve it") if waits else _("None needed")),
        ]

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        if request.POST.get("sure"):
            return super().post(request, **kwargs)
        form = self.form_class(request.POST)
        if not form.is_valid():
            return self.ask(form, status=422)
        try:
            self.plan = keeping.looked_at(self._drafted(form.cleaned_data), at=self.now)
        except DomainError as refused:
            form.add_error(None, in_words(refused))
            return self.ask(form, status=refused.status)
        sure = self.form_class({**request.POST.dict(), "sure": "1"})
        self.button = _("Do it")  # type: ignore[misc]
        return self.ask(sure)

    def do(self, said: dict[str, Any]) -> Text:
        self.handover = keeping.ask(self._drafted(said), at=self.now)
        if self.handover.state == Handover.State.PENDING:
            return now_("It waits for another person's approval.")
        return now_("It is done.")

    def _drafted(self, said: dict[str, Any]) -> Handover:
        names = [one.strip() for one in said.get("subjects", "").splitlines() if one.strip()]
        receiver = None
        if self.kind != Kind.RECYCLE:
            receiver = self._named(said["receiver"])
        return keeping.draft(
            self.operator,
            self.kind,
            self._named(said["giver"]),
            receiver,
            subjects=names or None,
            balance=said.get("balance") or Balance.KEEP,
            with_wallet=said.get("with_wallet", False),
            reason=said["reason"],
            by=self.by(),
            at=self.now,
        )

    def _named(self, name: str) -> Subscriber:
        try:
            return registry.find(self.operator, name.replace("\0", ""))
        except NotFound as error:
            raise Invalid(f"{name}: {error.detail}") from error


@page
class TransferNumber(Handing):
    name = "transfer_number"
    address = "handovers/transfer/"
    title = _("Transfer a number")
    help = _(
        "From now on usage of it is the receiver's; what was used before stays with whoever had it."
    )
    kind, form_class = Kind.TRANSFER, Transferred


@page
class RecycleNumber(Handing):
    name = "recycle_number"
    address = "handovers/recycle/"
    title = _("Recycle a number")
    help = _("It belongs to nobody for a while, then to whoever gets it next.")
    kind, form_class = Kind.RECYCLE, Recycled


@page
class MergeSubscriber(Handing):
    name = "merge_subscriber"
    address = "handovers/merge/"
    title = _("Merge two subscribers")
    help = _(
        "One is closed into the other: numbers, tokens and wallet go along; its history "
        "stays its own."
    )
    kind, form_class, danger = Kind.MERGE, Merged, True
