"""Alerts and safety: what is told, what is locked, what extra usage may cost; each with its effect
in words, and what was ever said of it."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import get_language, gettext_lazy, pgettext_lazy
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST
from djmoney.money import Money

from subscriptions.errors import DomainError
from subscriptions.models import Channel, Guard, SafetyStep
from subscriptions.notices import preferences
from subscriptions.notices.kinds import DECLINABLE, REQUIRED
from subscriptions.portal.doors import Visit, own, show
from subscriptions.portal.forms import TokensField, plainly
from subscriptions.safety import alerts, keeping, steps
from subscriptions.safety.keeping import PORTAL, Consent

Kind = SafetyStep.Kind
# Of the words of a consent below: another number with other words.
_TEXT_VERSION = "2026-11"
_TIME = forms.TimeInput(format="%H:%M", attrs={"type": "time"})
_LATEST_STEPS = 20


class NightForm(forms.Form):
    begins = forms.TimeField(label=pgettext_lazy("time of day", "From"), widget=_TIME)
    ends = forms.TimeField(label=pgettext_lazy("time of day", "Until"), widget=_TIME)


class AlertsForm(forms.Form):
    percents = forms.CharField(
        label=gettext_lazy("When so much is used, in percent"),
        required=False,
        max_length=60,
        help_text=gettext_lazy("Several with spaces, as in 30 60 90. Empty: none."),
    )
    left = TokensField(
        label=gettext_lazy("When so many tokens are left"),
        required=False,
        help_text=gettext_lazy("As in 500000, 500k or 1.5M. Empty: none."),
    )

    def clean_percents(self) -> list[int]:
        words = self.cleaned_data["percents"].replace(",", " ").replace("，", " ").split()
        words = [word.removesuffix("%") for word in words]
        if not all(
            word.isascii() and word.isdigit() and 1 <= int(word[:4]) <= 100 for word in words
        ):
            raise forms.ValidationError(_("Write numbers from 1 to 100."))
        if len(set(words)) >= alerts.MOST:
            raise forms.ValidationError(_("That are too many."))
        return sorted({int(word) for word in words})


class OverageForm(forms.Form):
    ceiling = forms.DecimalField(
        label=gettext_lazy("At most a month"),
        required=False,
        min_value=Decimal("0.01"),
        max_value=Decimal(10**6),
        decimal_places=2,
        help_text=gettext_lazy("An amount of money, as in 20. Empty: as much as your plan allows."),
    )
    agreed = forms.BooleanField(
        label=gettext_lazy(
            "When my tokens are used up I want to go on, and I pay for what I use beyond them at my"
            " plan's price, up to the amount above."
        ),
        error_messages={"required": gettext_lazy("Tick this to agree.")},
    )


def _forms(guard: Guard, lines: list[Any]) -> dict[str, forms.Form]:
    left = [line.value for line in lines if line.kind == "left"]
    percents = [str(line.value) for line in lines if line.kind == "percent"]
    return {
        "night": NightForm(
            initial={
                "begins": guard.night_from or dt.time(23),
                "ends": guard.night_until or dt.time(6),
            }
        ),
        "alerts": AlertsForm(
            initial={"percents": " ".join(percents), "left": plainly(left[0] if left else None)}
        ),
        "overage": OverageForm(initial={"ceiling": guard.overage_ceiling}),
    }


@require_GET
@own
def overview(request: HttpRequest, visit: Visit) -> HttpResponse:
    """All of it on one page."""
    return _page(request, visit)


def _page(request: HttpRequest, visit: Visit, **bound: forms.Form) -> HttpResponse:
    subscriber = visit.subscriber
    guard = keeping.of_subscriber(subscriber.pk)
    lines = alerts.of_subscriber(subscriber.pk)
    said = steps.of_subscriber(subscriber.pk)
    currency = visit.operator.currency
    since = visit.operator.overage_by_consent_since
    return show(
        request,
        "portal/safety.html",
        visit,
        section="safety",
        guard=guard,
        lines=lines,
        forms={**_forms(guard, lines), **bound},
        ceiling=None if guard.overage_ceiling is None else Money(guard.overage_ceiling, currency),
        order_cap=None if guard.order_amount is None else Money(guard.order_amount, currency),
        demanded=since is not None and since <= visit.now,
        agreed_at=_agreed_at(said),
        notices=_notices(visit),
        steps=[_step(step) for step in said[:_LATEST_STEPS]],
    )


def _agreed_at(said: list[SafetyStep]) -> dt.datetime | None:
    step = steps.newest(said).get(Kind.OVERAGE)
    return step.at if step is not None and step.terms.get("agreed") else None


def _step(step: SafetyStep) -> dict[str, Any]:
    terms = step.terms
    if step.kind == Kind.NIGHT_LOCK:
        text = (
            _("Night lock from %(begins)s until %(ends)s")
            % {"begins": terms["from"], "ends": terms["until"]}
            if terms
            else _("Night lock lifted")
        )
    elif step.kind == Kind.ALERTS:
        text = _("Reminders changed") if terms else _("Own reminders removed")
    elif step.kind == Kind.OVERAGE:
        text = _("Agreed to extra usage") if terms.get("agreed") else _("Declined extra usage")
    else:
        text = _("Limits for a minor set") if terms else _("Limits for a minor lifted")
    return {"at": step.at, "text": text, "ours": step.by == PORTAL}


def _notices(visit: Visit) -> list[dict[str, Any]]:
    """What is told by which channel, a line a kind."""
    names = {
        "bucket.threshold": _("Tokens used by 50, 80 and 100%"),
        "bucket.expiring": _("Tokens are about to expire"),
        "usage.alert": _("A reminder of your own"),
        "overage.started": _("From now on usage costs extra"),
        "bill.abnormal": _("A bill is far above the usual"),
        "invoice.reminder": _("An invoice is due"),
        "invoice.payment_failed": _("A payment failed"),
        "method.expiring": _("A saved card expires"),
        "complaint.answered": _("Your complaint is answered"),
        "family.invited": _("Somebody invites you into a family"),
        "family.joined": _("Somebody joins your family"),
        "family.removed": _("Somebody leaves your family, or you do"),
        "family.gift": _("Somebody gives you tokens"),
        "subscription.renewal_due": _("Your plan renews soon"),
        "subscription.suspended": _("Your line is suspended"),
        "subscription.restored": _("Your line works again"),
        "subscription.ended": _("Your plan has ended"),
    }
    wishes: dict[str, dict[str, bool]] = {}
    for wish in preferences.of_subscriber(visit.subscriber.pk):
        wishes.setdefault(wish.kind, {})[wish.channel] = wish.wanted
    return [
        {
            "kind": kind,
            "name": names.get(kind, kind),
            "required": kind in REQUIRED,
            "channels": [
                {"value": channel, "wanted": by[channel], "field": f"{kind}:{channel}"}
                for channel in Channel.values
            ],
        }
        for kind, by in wishes.items()
    ]


def _why(error: DomainError) -> str:
    said = {
        "guardian_needed": _("Your guardian settles that with the carrier."),
        "invalid": _("Those values make no sense together."),
    }
    return said.get(error.cause, _("That is not possible now."))


def _done(request: HttpRequest, text: str) -> HttpResponse:
    messages.success(request, text)
    return redirect("portal_safety")


def _not_done(request: HttpRequest, error: DomainError) -> HttpResponse:
    messages.error(request, _why(error))
    return redirect("portal_safety")


@require_POST
@own
def night(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Lock nights, or lift the lock."""
    hours = None
    if request.POST.get("lift") != "1":
        form = NightForm(request.POST)
        if not form.is_valid():
            return _page(request, visit, night=form)
        hours = (form.cleaned_data["begins"], form.cleaned_data["ends"])
    try:
        keeping.lock_nights(visit.subscriber, hours, by=PORTAL, at=visit.now)
    except DomainError as error:
        return _not_done(request, error)
    return _done(request, _("The lock holds.") if hours else _("The lock is lifted."))


@require_POST
@own
def reminders(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Lines of one's own."""
    form = AlertsForm(request.POST)
    if not form.is_valid():
        return _page(request, visit, alerts=form)
    left = form.cleaned_data["left"]
    try:
        keeping.set_alerts(
            visit.subscriber,
            percents=form.cleaned_data["percents"],
            lefts=[] if left is None else [left],
            by=PORTAL,
            at=visit.now,
        )
    except DomainError as error:
        return _not_done(request, error)
    return _done(request, _("You are told at these."))


@require_POST
@own
def overage(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Agree to extra usage up to a ceiling, or decline it."""
    if request.POST.get("decline") == "1":
        text, agreed, ceiling = _("I do not want to pay for extra usage."), False, None
    else:
        form = OverageForm(request.POST)
        if not form.is_valid():
            return _page(request, visit, overage=form)
        text, agreed = str(form.fields["agreed"].label), True
        ceiling = form.cleaned_data["ceiling"]
    words = Consent(text, _TEXT_VERSION, get_language() or "", PORTAL)
    try:
        keeping.agree_to_overage(
            visit.subscriber, agreed, words, ceiling=ceiling, by=PORTAL, at=visit.now
        )
    except DomainError as error:
        return _not_done(request, error)
    return _done(
        request,
        _("Your consent is kept, and you can take it back here.")
        if agreed
        else _("Nothing beyond your tokens is charged from now on."),
    )


@require_POST
@own
def notices(request: HttpRequest, visit: Visit) -> HttpResponse:
    """What is told by which channel; what is required stays."""
    with transaction.atomic():
        for kind in DECLINABLE:
            for channel in Channel.values:
                wanted = f"{kind}:{channel}" in request.POST
                preferences.wish(
                    visit.subscriber.pk, kind, channel, wanted=wanted, by=PORTAL, at=visit.now
                )
    return _done(request, _("Your choice is kept."))
