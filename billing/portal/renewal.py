"""What is paid by itself: what comes next and for how much, in which order it is tried, and the
consents for it, which nobody ticks but the subscriber. Each is switched off in one click; the page
of a consent is its receipt."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django import forms
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from djmoney.money import Money

from billing import methods, wallets
from billing.collecting import agreeing, policies, schedule
from billing.collecting.schedule import Terms
from billing.consents import Said
from billing.models import Consent
from billing.orders.keeping import NUMBER
from billing.portal.amounts import AmountField
from billing.portal.home import Held, held_by
from billing.portal.orders import refused
from subscriptions.errors import DomainError, NotFound
from subscriptions.models import Plan
from subscriptions.portal.doors import Visit, own, show
from subscriptions.templatetags import figures

Kind = Consent.Kind
CHANNEL, VERSION = "portal", "portal-1"
# A try of this kind is covered by this consent, besides AUTO_RENEW.
_NEEDS = {schedule.SAVED_METHOD: Kind.SAVED_METHOD, schedule.PHONE_BILL: Kind.PHONE_BILL}


@dataclass(frozen=True, slots=True)
class Switch:
    """One consent: the words, and the one that stands, if any; `form` to give it else."""

    kind: str
    name: str
    text: str
    given: Consent | None
    form: ConsentForm


class ConsentForm(forms.Form):
    """A box that is never ticked beforehand; of the phone bill, its monthly limit too."""

    def __init__(self, kind: str, currency: str, data: Any = None) -> None:
        super().__init__(data, auto_id=f"id_{kind}_%s")
        self.fields["agree"] = forms.BooleanField(
            label=_("I agree."),
            error_messages={"required": _("Tick the box to agree; without it this stays off.")},
        )
        if kind == Kind.PHONE_BILL:
            self.fields["cap"] = AmountField(
                currency, label=_("At most a month (empty: no limit of mine)"), required=False
            )


def text_of(kind: str, held: Held | None, terms: Terms) -> str:
    """The words of a consent, as they stand on the page and are kept."""
    name = held.subscription.plan.name if held is not None else ""
    if kind == Kind.AUTO_RENEW:
        assert held is not None
        return _(
            "What falls due for my plan %(plan)s, now %(price)s a period, is taken from my wallet "
            "by itself. I am told %(days)s days before. I can switch this off at any time."
        ) % {
            "plan": name,
            "price": figures.money(held.renewal_price),
            "days": terms.notice_days,
        }
    if kind == Kind.SAVED_METHOD:
        return _(
            "If my wallet does not have enough, what falls due for my plan %(plan)s is charged to "
            "my saved card."
        ) % {"plan": name}
    return _(
        "What I buy here, and what falls due for my plan, may be put on the bill of my phone "
        "number, within the monthly limit that I have set."
    )


def _names() -> dict[str, str]:
    return {
        Kind.AUTO_RENEW: _("Pay my plan by itself"),
        Kind.SAVED_METHOD: _("… from my saved card too"),
        Kind.PHONE_BILL: _("Put it on my phone bill"),
    }


@require_http_methods(["GET", "POST"])
@own
def renewal(request: HttpRequest, visit: Visit) -> HttpResponse:
    """What is due next, in which order it is tried, and what is agreed to; by POST more of it."""
    visit.bring_up()
    held = held_by(visit)
    terms = policies.terms_by(visit.operator.pk)(visit.now)
    asked = request.POST.get("kind", "") if request.method == "POST" else ""
    switches = _switches(request, visit, held, terms, asked)
    for switch in switches:
        if switch.kind == asked and switch.given is None and switch.form.is_valid():
            return _agree(request, visit, held, switch)
    cards = methods.of(visit.operator, visit.subscriber.pk)
    currency = visit.operator.currency
    on = {switch.kind for switch in switches if switch.given is not None}
    return show(
        request,
        "portal/renewal.html",
        visit,
        held=held,
        before=held is not None and held.subscription.plan.collect == Plan.Collect.BEFORE_PERIOD,
        terms=terms,
        tries=[(way, _NEEDS.get(way, Kind.AUTO_RENEW) in on) for way in terms.ways],
        wallet=Money(wallets.free_of(visit.subscriber.pk, currency), currency),
        card=next((one for one in cards if one.is_default), None),
        phone=visit.subscriber.msisdn,
        switches=switches,
        on=Kind.AUTO_RENEW in on,
        section="wallet",
    )


def _switches(
    request: HttpRequest, visit: Visit, held: Held | None, terms: Terms, asked: str
) -> list[Switch]:
    rows = Consent.objects.filter(subscriber_id=visit.subscriber.pk, withdrawn_at__isnull=True)
    subscription_id = None if held is None else held.subscription.id
    standing = {row.kind: row for row in rows if row.subscription_id in (None, subscription_id)}
    kinds = [Kind.AUTO_RENEW, Kind.SAVED_METHOD] if held is not None and not held.ends else []
    return [
        Switch(
            kind,
            _names()[kind],
            text_of(kind, held, terms),
            standing.get(kind),
            ConsentForm(kind, visit.operator.currency, request.POST if kind == asked else None),
        )
        for kind in (*kinds, Kind.PHONE_BILL)
    ]


def _agree(request: HttpRequest, visit: Visit, held: Held | None, switch: Switch) -> HttpResponse:
    cap: Decimal | None = switch.form.cleaned_data.get("cap")
    # What is bought by hand is of no plan: the phone bill is agreed to for all.
    of_plan = held is not None and switch.kind != Kind.PHONE_BILL
    said = Said(
        kind=switch.kind,
        text=switch.text,
        text_version=VERSION,
        language=get_language() or "zh-hans",
        channel=CHANNEL,
        subscription_id=held.subscription.id if of_plan and held is not None else None,
        monthly_cap=cap,
    )
    try:
        given = agreeing.agree(visit.operator, visit.subscriber.pk, said, at=visit.now)
    except DomainError as error:
        return refused(request, error, "portal_renewal")
    return redirect("portal_consent", given.number)


@require_GET
@own
def consent(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """A consent in its own words: given when, and taken back when. The receipt of both."""
    found = None
    if NUMBER.fullmatch(number):
        rows = Consent.objects.filter(operator=visit.operator, subscriber_id=visit.subscriber.pk)
        found = rows.filter(number=number).first()
    if found is None:
        raise Http404
    cap = found.monthly_cap
    return show(
        request,
        "portal/consent.html",
        visit,
        consent=found,
        name=_names()[found.kind],
        cap=None if cap is None else Money(cap, visit.operator.currency),
        section="wallet",
    )


@require_POST
@own
def switch_off(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """Take a consent back; leads to the receipt. Again is harmless."""
    if not NUMBER.fullmatch(number):
        raise Http404
    try:
        agreeing.take_back(
            visit.operator, visit.subscriber.pk, number, channel=CHANNEL, at=visit.now
        )
    except NotFound:
        raise Http404 from None
    return redirect("portal_consent", number)
