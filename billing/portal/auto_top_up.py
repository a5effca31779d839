"""A wallet that is filled by itself: the terms, then the words with them, then a yes; and its end.

What is kept is the very text that was shown, in the language in which it was.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST
from djmoney.money import Money

from billing import methods, top_up_policies
from billing.auto_top_up import agreements
from billing.auto_top_up.agreements import Terms
from billing.checkout import refusals
from billing.models import AutoTopUp, AutoTopUpRun, PaymentMethod
from billing.portal.amounts import AmountField
from billing.portal.orders import refused
from billing.top_up_policies import Policy
from subscriptions.errors import DomainError
from subscriptions.portal.doors import Visit, own, show
from subscriptions.templatetags import figures

CHANNEL, VERSION = "portal", "portal-1"
_RUNS = 5


class TermsForm(forms.Form):
    """When, how much, by which card, and how much at most."""

    def __init__(
        self, visit: Visit, policy: Policy, cards: list[PaymentMethod], data: Any = None
    ) -> None:
        super().__init__(data)
        self.policy, self.currency = policy, visit.operator.currency
        self.cards = {str(card.pk): card for card in cards}
        needed = {"required": _("Write how much.")}
        for name, label, text in (
            ("threshold", _("When less than this is left"), ""),
            ("amount", _("put in"), ""),
            ("daily_limit", _("At most a day"), ""),
            ("monthly_limit", _("At most a month"), ""),
        ):
            self.fields[name] = AmountField(
                self.currency, label=label, help_text=text, error_messages=needed
            )
        self.fields["card"] = forms.ChoiceField(
            choices=[(key, name_of(card)) for key, card in self.cards.items()],
            label=_("from this card"),
            error_messages={
                "required": _("Choose a card."),
                "invalid_choice": _("Choose a card."),
            },
        )

    def clean(self) -> dict[str, Any]:
        said: dict[str, Any] = super().clean() or {}
        amount = said.get("amount")
        if amount is not None and not self.policy.offers(amount):
            self.add_error("amount", _("This amount cannot be put in. See what is offered."))
        steps = (
            ("threshold", "amount", _("Put in no less than the amount below which it is filled.")),
            ("amount", "daily_limit", _("A day's limit is no less than what is put in once.")),
            ("daily_limit", "monthly_limit", _("A month's limit is no less than a day's.")),
        )
        for smaller, greater, wrong in steps:
            one, other = said.get(smaller), said.get(greater)
            if one is not None and other is not None and one > other:
                self.add_error(greater, wrong)
        return said

    def text(self) -> str:
        """The words that are agreed to, with the terms in them."""
        said = self.cleaned_data
        amounts = {
            name: figures.money(Money(said[name], self.currency))
            for name in ("threshold", "amount", "daily_limit", "monthly_limit")
        }
        return _(
            "Whenever my wallet has less than %(threshold)s, %(amount)s are charged to my card "
            "%(card)s and put in: at most %(daily_limit)s a day and %(monthly_limit)s a month. "
            "I can switch this off at any time, and nothing is charged from then on."
        ) % {**amounts, "card": name_of(self.cards[said["card"]])}

    def terms(self) -> Terms:
        said = self.cleaned_data
        names = ("threshold", "amount", "daily_limit", "monthly_limit")
        amounts: dict[str, Decimal] = {name: said[name] for name in names}
        return Terms(
            **amounts,
            way="card",
            method=self.cards[said["card"]].reference,
            text=self.text(),
            text_version=VERSION,
            language=get_language() or "zh-hans",
            channel=CHANNEL,
        )


def name_of(card: PaymentMethod) -> str:
    """`Visa ··4242`."""
    brand = card.brand or _("Card")
    return f"{brand[:1].upper()}{brand[1:]} ··{card.last4}"


@require_http_methods(["GET", "POST"])
@own
def agreement(request: HttpRequest, visit: Visit) -> HttpResponse:
    """What is agreed to and what came of it; by POST its terms are looked at, then agreed to."""
    currency = visit.operator.currency
    policy = top_up_policies.policy_at(visit.operator.pk, at=visit.now)
    cards = methods.of(visit.operator, visit.subscriber.pk)
    found = agreements.last_of(visit.operator, visit.subscriber.pk)
    form = TermsForm(visit, policy, cards, request.POST if request.method == "POST" else None)
    text = wrong = ""
    if form.is_valid():
        text = form.text()
        if request.POST.get("step") == "agree":
            if request.POST.get("agree") != "yes":
                wrong = _("Tick the box to agree; without it nothing is charged by itself.")
            else:
                try:
                    agreements.agree(
                        visit.operator, visit.subscriber.pk, form.terms(), at=visit.now
                    )
                except DomainError as error:
                    return refused(request, error, "portal_auto")
                messages.success(request, _("Automatic top-up is on."))
                return redirect("portal_auto")
    return show(
        request,
        "portal/auto_top_up.html",
        visit,
        agreement=found,
        card=next((name_of(one) for one in cards if found and one.reference == found.method), ""),
        on=found is not None and found.ended_at is None,
        runs=[] if found is None else _runs(found),
        **({} if found is None else _amounts(found)),
        cards=cards,
        form=form,
        text=text,
        wrong=wrong,
        fixed=[Money(one, currency) for one in policy.fixed] if not policy.free else [],
        section="wallet",
    )


def _amounts(found: AutoTopUp) -> dict[str, Money]:
    names = ("threshold", "amount", "daily_limit", "monthly_limit")
    return {name: Money(getattr(found, name), found.currency) for name in names}


def _runs(found: AutoTopUp) -> list[tuple[AutoTopUpRun, Money]]:
    rows = AutoTopUpRun.objects.filter(
        subscriber_id=found.subscriber_id, agreement_id=found.id
    ).order_by("-begun_at")
    return [(one, Money(one.amount, found.currency)) for one in rows[:_RUNS]]


@require_POST
@own
def switch_off(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Fill the wallet by itself no more; the page after says since when. Again is harmless."""
    try:
        agreements.withdraw(visit.operator, visit.subscriber.pk, channel=CHANNEL, at=visit.now)
    except DomainError as error:
        messages.error(request, refusals.reason_of(error))
    return redirect("portal_auto")
