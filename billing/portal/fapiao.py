"""Asking for the e-fapiao of an invoice: whose title, and what became of it."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods
from djmoney.money import Money

from billing.fapiao import requests, tax_ids
from billing.models import FapiaoRequest, Invoice
from billing.portal import finding
from subscriptions.errors import Conflict, DomainError
from subscriptions.models import Subscriber
from subscriptions.portal.doors import Visit, own, show

PERSON, COMPANY, SPECIAL = "person", "company", "special"


def may_be_asked(invoice: Invoice) -> bool:
    """Whether an e-fapiao can be of it at all."""
    return (
        invoice.kind != Invoice.Kind.CREDIT_NOTE
        and invoice.state != Invoice.State.VOID
        and invoice.currency == "CNY"
        and invoice.gross > 0
    )


class TitleForm(forms.Form):
    """Whose title is on it: a person's, or a company's with its taxpayer id."""

    title = forms.ChoiceField(
        label=gettext_lazy("Title"),
        choices=[
            (PERSON, gettext_lazy("A person")),
            (COMPANY, gettext_lazy("A company, ordinary")),
            (SPECIAL, gettext_lazy("A company, special (for deduction)")),
        ],
    )
    name = forms.CharField(label=gettext_lazy("Name on the e-fapiao"), max_length=200)
    tax_id = forms.CharField(
        label=gettext_lazy("Taxpayer id"),
        max_length=40,
        required=False,
        help_text=gettext_lazy("Of a company: 15 to 20 digits and capitals."),
    )

    def clean_tax_id(self) -> str:
        return tax_ids.written(str(self.cleaned_data["tax_id"]))

    def clean(self) -> dict[str, Any]:
        said = super().clean() or {}
        tax_id, title = said.get("tax_id", ""), said.get("title")
        if title == PERSON:
            said["tax_id"] = ""
        elif title and not tax_ids.is_tax_id(tax_id):
            wrong = _("This is no taxpayer id: compare it with the business licence.")
            self.add_error("tax_id", wrong if tax_id else _("A company's title needs one."))
        return said


@require_http_methods(["GET", "POST"])
@own
def ask(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """The form, and by POST the asking; what becomes of it is shown with the invoice."""
    found = finding.invoice(visit, number)
    if not may_be_asked(found):
        raise Http404
    subscriber = visit.subscriber
    person = subscriber.kind == Subscriber.Kind.PERSON
    first = {"title": PERSON if person else COMPANY, "name": subscriber.name}
    form = TitleForm(request.POST) if request.method == "POST" else TitleForm(initial=first)
    if request.method == "POST" and form.is_valid():
        refusal = _ask(visit, number, form.cleaned_data)
        if not refusal:
            messages.success(request, _("The e-fapiao is asked for. Its number is shown here."))
            return redirect("portal_invoice", number)
        form.add_error(None, refusal)
    return show(
        request,
        "portal/fapiao.html",
        visit,
        invoice=found,
        gross=Money(found.gross, found.currency),
        form=form,
        section="invoices",
    )


def _ask(visit: Visit, number: str, said: dict[str, Any]) -> str:
    """What stands against it, in the words of the page."""
    Kind = FapiaoRequest.Kind
    try:
        requests.request(
            visit.operator,
            number,
            at=visit.now,
            kind=Kind.SPECIAL if said["title"] == SPECIAL else Kind.ORDINARY,
            buyer_name=said["name"],
            buyer_tax_id=said["tax_id"],
        )
    except Conflict:
        return _("An e-fapiao of this invoice was asked for already, or nothing is left of it.")
    except DomainError:
        return _("The carrier cannot issue an e-fapiao of this invoice now. Please ask it.")
    return ""
