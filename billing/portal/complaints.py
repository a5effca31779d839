"""Complaints of one's own: making one, disputing a line of an invoice, reading the answers."""

from __future__ import annotations

import uuid
from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods
from djmoney.money import Money

from billing import complaints, invoicing
from billing.models import Complaint, Invoice
from billing.models.complaints import LONGEST
from billing.portal import finding
from billing.portal.orders import key_of
from subscriptions.errors import Conflict, DomainError
from subscriptions.portal.doors import Visit, own, show

_SHOWN = 50
Kind, State = Complaint.Kind, Complaint.State
_KINDS = [
    (Kind.USAGE.value, gettext_lazy("Usage")),
    (Kind.SERVICE.value, gettext_lazy("Service")),
    (Kind.REFUND.value, gettext_lazy("Refund")),
    (Kind.PRIVACY.value, gettext_lazy("Personal data")),
    (Kind.OTHER.value, gettext_lazy("Something else")),
]


class TextForm(forms.Form):
    text = forms.CharField(
        label=gettext_lazy("What is wrong"),
        max_length=LONGEST,
        widget=forms.Textarea(attrs={"rows": 6}),
        help_text=gettext_lazy("No passwords, keys or prompts, please."),
    )


class ComplaintForm(TextForm):
    kind = forms.ChoiceField(label=gettext_lazy("About"), choices=_KINDS)
    field_order = ("kind", "text")


@require_http_methods(["GET", "POST"])
@own
def listed(request: HttpRequest, visit: Visit) -> HttpResponse:
    """One's complaints, the latest first, and the form for another."""
    asked = {"kind": request.GET.get("about", "")}
    form = ComplaintForm(request.POST) if request.method == "POST" else ComplaintForm(initial=asked)
    if request.method == "POST" and form.is_valid():
        said = form.cleaned_data
        made = _lodge(request, visit, form, kind=said["kind"], text=said["text"])
        if made is not None:
            return redirect("portal_complaint", made.number)
    rows = Complaint.objects.filter(subscriber_id=visit.subscriber.pk).order_by("-id")
    return show(
        request,
        "portal/complaints.html",
        visit,
        complaints=list(rows[:_SHOWN]),
        form=form,
        days=complaints.reply_days(visit.operator),
        once=_once(request),
        section="help",
    )


@require_http_methods(["GET", "POST"])
@own
def dispute(request: HttpRequest, visit: Visit, number: str, line: int) -> HttpResponse:
    """Say what is wrong with a line of an invoice."""
    found = finding.invoice(visit, number)
    lines = invoicing.lines_of([found.id], visit.subscriber.pk)
    disputed = next((each for each in lines if each.nr == line), None)
    if disputed is None or found.kind == Invoice.Kind.CREDIT_NOTE:
        raise Http404
    form = TextForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        about = {"invoice": number, "line": line}
        text = form.cleaned_data["text"]
        made = _lodge(request, visit, form, kind=Kind.CHARGE, text=text, **about)
        if made is not None:
            return redirect("portal_complaint", made.number)
    return show(
        request,
        "portal/dispute.html",
        visit,
        invoice=found,
        line=disputed,
        gross=Money(disputed.gross, found.currency),
        due=found.state == Invoice.State.OPEN and invoicing.amount_due(found) > 0,
        form=form,
        days=complaints.reply_days(visit.operator),
        once=_once(request),
        section="invoices",
    )


@require_http_methods(["GET", "POST"])
@own
def one(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """A complaint with all that was said; by POST the subscriber says more."""
    found = finding.complaint(visit, number)
    form = TextForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        text = form.cleaned_data["text"]
        try:
            complaints.add(visit.operator, number, text, channel="portal", at=visit.now)
        except DomainError:
            messages.error(request, _("This complaint is closed. Make another, please."))
        return redirect("portal_complaint", number)
    bill = None
    if found.invoice_id is not None:
        bill = Invoice.objects.get(subscriber_id=visit.subscriber.pk, id=found.invoice_id)
    return show(
        request,
        "portal/complaint.html",
        visit,
        complaint=found,
        said=complaints.messages_of([found])[found.id],
        invoice=bill,
        form=form,
        section="help",
    )


def _lodge(request: HttpRequest, visit: Visit, form: forms.Form, **said: Any) -> Complaint | None:
    """The complaint; None where something stands against it, which the form says then."""
    key = key_of(request, visit) or f"portal:{uuid.uuid4().hex}"
    try:
        made = complaints.lodge(
            visit.operator, visit.subscriber.pk, key=key, channel="portal", at=visit.now, **said
        )
    except complaints.LineDisputed:
        form.add_error(None, _("You have disputed this line before: see your complaints."))
    except Conflict:
        form.add_error(None, _("Many of your complaints are open. Wait for an answer, please."))
    except DomainError:
        form.add_error(None, _("This could not be read."))
    else:
        messages.success(request, _("Your complaint has arrived."))
        return made
    return None


def _once(request: HttpRequest) -> str:
    """The same form again keeps its key: what it sends is one complaint."""
    return request.POST.get("once", "")[:64] or uuid.uuid4().hex
