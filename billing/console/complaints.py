"""Complaints: those whose answer is due first at the head, and what staff say to each."""

from __future__ import annotations

from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as now_
from django.utils.translation import gettext_lazy as _

from billing import complaints
from billing.models import Complaint, Invoice
from billing.models.complaints import LONGEST
from subscriptions.console.deeds import Deed, Record
from subscriptions.console.pages import Page, Section, Text, page
from subscriptions.models import Role, Subscriber
from subscriptions.templatetags.figures import moment
from subscriptions.templatetags.words import word

State = Complaint.State
ROLES = (Role.AGENT, Role.FINANCE)
_MOST = 50
KINDS: dict[str, Text] = {
    Complaint.Kind.CHARGE: _("A charge"),
    Complaint.Kind.USAGE: _("Usage"),
    Complaint.Kind.SERVICE: _("Service"),
    Complaint.Kind.REFUND: _("Refund"),
    Complaint.Kind.PRIVACY: _("Personal data"),
    Complaint.Kind.OTHER: _("Something else"),
}


@page
class Complaints(Page):
    """Of open ones the first to be answered come first, of all others the newest."""

    name = "complaints"
    address = "complaints/"
    title = _("Complaints")
    help = _(
        "What subscribers are not content with, and until when an answer was promised. One about a"
        " charge that is still to be paid stops dunning until it is answered."
    )
    section, icon, order = Section.CUSTOMERS, "feedback", 38
    roles = ROLES
    template_name = "console/complaints.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        state = self.request.GET.get("state", State.OPEN)
        state = state if state in State.values else State.OPEN
        rows = Complaint.objects.filter(operator=self.operator, state=state)
        before = self.request.GET.get("before", "")
        last = None
        if before.isascii() and before.isdigit() and len(before) < 19:
            last = Complaint.objects.filter(operator=self.operator, id=int(before)).first()
        if state == State.OPEN:
            rows = rows.order_by("due_at", "id")
            if last is not None:
                rows = rows.filter(due_at__gte=last.due_at)
                rows = rows.exclude(due_at=last.due_at, id__lte=last.id)
        else:
            rows = rows.order_by("-id")
            if last is not None:
                rows = rows.filter(id__lt=last.id)
        found = list(rows.select_related("subscriber")[: _MOST + 1])
        return {
            "lines": [(one, KINDS[one.kind], late(one, self.now)) for one in found[:_MOST]],
            "state": state,
            "states": State.values,
            "more": found[_MOST - 1].id if len(found) > _MOST else None,
        }


def late(one: Complaint, now: Any) -> bool:
    """Whether its answer is overdue."""
    return one.state == State.OPEN and one.due_at < now


@page
class ComplaintPage(Record):
    name = "complaint"
    address = "complaints/<str:number>/"
    title = _("Complaint")
    roles = ROLES
    parent = "complaints"
    template_name = "console/complaint.html"
    complaint: Complaint

    def heading(self) -> Text:
        return self.complaint.number

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.complaint = one = complaints.find(self.operator, kwargs["number"])
        self.saw(one.subscriber)
        may = self.visit.may(Answer.permission()) and one.state != State.CLOSED
        return self.show(
            complaint=one,
            kind=KINDS[one.kind],
            late=late(one, self.now),
            invoice=_billed(one),
            said=complaints.messages_of([one])[one.id],
            may=may,
        )


def _billed(one: Complaint) -> str:
    """The number of the invoice that it is about."""
    if one.invoice_id is None:
        return ""
    rows = Invoice.objects.filter(subscriber_id=one.subscriber_id, id=one.invoice_id)
    return rows.values_list("number", flat=True).get() or ""


class OfComplaint(Deed):
    roles = ROLES
    parent = "complaints"
    complaint: Complaint

    def find(self, **kwargs: Any) -> None:
        self.complaint = complaints.find(self.operator, kwargs["number"])

    def whose(self) -> Subscriber:
        return self.complaint.subscriber

    def about(self) -> str:
        return f"complaint/{self.complaint.number}"

    def before(self) -> dict[str, Any]:
        return {"state": self.complaint.state}

    def back(self) -> str:
        return reverse("admin:complaint", args=[self.complaint.number])

    def facts(self) -> list[tuple[Text, Any]]:
        one = self.complaint
        said = complaints.messages_of([one])[one.id]
        return [
            (_("Subscriber"), one.subscriber.external_id),
            (_("About"), KINDS[one.kind]),
            (_("State"), word(one.state)),
            (_("Answer due"), moment(one.due_at)),
            (_("Said last"), said[-1].text),
        ]


class Words(forms.Form):
    once = forms.CharField(widget=forms.HiddenInput, max_length=32)
    text = forms.CharField(
        label=_("Your answer"),
        max_length=LONGEST,
        widget=forms.Textarea(attrs={"rows": 8}),
        help_text=_("The subscriber reads it in the portal, and is told that it is there."),
    )


@page
class Answer(OfComplaint):
    """What is said stays with the complaint; the audit keeps that it was, and by whom."""

    name = "answer_complaint"
    address = "complaints/<str:number>/answer/"
    title = _("Answer it")
    help = _("Dunning goes on with the answer. The subscriber may write again, which opens it.")
    form_class, button = Words, _("Send the answer")

    def after(self, said: dict[str, Any]) -> dict[str, Any]:
        return {"state": str(State.ANSWERED)}

    def do(self, said: dict[str, Any]) -> Text:
        complaints.answer(
            self.operator, self.complaint.number, said["text"], by=self.by(), at=self.now
        )
        return now_("It is answered.")


class LastWords(Words):
    text = forms.CharField(
        label=_("Last word"),
        max_length=LONGEST,
        required=False,
        widget=forms.Textarea(attrs={"rows": 5}),
        help_text=_("For the subscriber; needed where nobody has answered yet."),
    )
    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        help_text=_("It is kept with what was done, and colleagues read it."),
    )


@page
class Close(OfComplaint):
    name = "close_complaint"
    address = "complaints/<str:number>/close/"
    title = _("Close")
    help = _("For good: the subscriber can make another complaint, not write to this one.")
    form_class = LastWords
    button, danger = _("Close the complaint"), True

    def after(self, said: dict[str, Any]) -> dict[str, Any]:
        return {"state": str(State.CLOSED)}

    def do(self, said: dict[str, Any]) -> Text:
        complaints.close(
            self.operator, self.complaint.number, text=said["text"], by=self.by(), at=self.now
        )
        return now_("It is closed.")
