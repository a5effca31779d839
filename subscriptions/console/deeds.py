"""Pages on which somebody does something: a form that asks why, and one function of the domain.

What is done and the line in the audit are one transaction. A refusal of the domain is shown on the
form, in words, with nothing done; sending a form twice does it once, by the name that it carries.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from subscriptions.console.pages import Page, Text
from subscriptions.errors import DomainError, NotFound
from subscriptions.models import Subscriber


class Why(forms.Form):
    """What every deed asks for."""

    once = forms.CharField(widget=forms.HiddenInput, max_length=32)
    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        strip=True,
        help_text=_("It is kept with what was done, and colleagues read it."),
    )


class Record(Page):
    """A page about one row, which another operator does not have."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return super().dispatch(request, *args, **kwargs)
        except NotFound as error:
            raise Http404 from error


class Deed(Record):
    """Subclasses say what it is about (`find`), and do it (`do`)."""

    changes = True
    template_name = "console/deed.html"
    form_class: ClassVar[type[forms.Form]] = Why
    button: ClassVar[Text] = _("Do it")
    danger: ClassVar[bool] = False
    # What has transactions of its own, or calls somebody: the audit is written after it.
    alone: ClassVar[bool] = False

    def find(self, **kwargs: Any) -> None:
        """Look up what it is about. Raises NotFound."""

    def facts(self) -> list[tuple[Text, Any]]:
        """What is known of it, beside the form."""
        return []

    def effect(self) -> list[tuple[Text, Any]]:
        """What would follow, where that can be told before."""
        return []

    def form(self, data: Mapping[str, Any] | None = None) -> forms.Form:
        return self.form_class(data, initial={"once": uuid.uuid4().hex, **self.initial()})

    def initial(self) -> dict[str, Any]:
        return {}

    def do(self, said: dict[str, Any]) -> Text:
        """Do it; answers what was done, for whoever did it. Raises DomainError."""
        raise NotImplementedError

    def about(self) -> str:
        """What the audit calls it."""
        return ""

    def whose(self) -> Subscriber | None:
        return None

    def by(self) -> str:
        """Who does it, as rows of the domain keep it."""
        user = self.visit.staff.user
        return (user.email or user.phone or str(user.key))[:100]

    def before(self) -> dict[str, Any] | None:
        return None

    def after(self, said: dict[str, Any]) -> dict[str, Any] | None:
        """What the audit keeps of what was said."""
        return {
            name: str(value)
            for name, value in said.items()
            if name not in ("once", "reason") and value not in (None, "", [])
        } or None

    def back(self) -> str:
        """Where it leads when it is done."""
        return reverse(f"admin:{self.parent}") if self.parent else reverse("admin:index")

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.find(**kwargs)
        return self.ask(self.form())

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.find(**kwargs)
        form = self.form_class({**request.POST.dict(), **self.lists(request)}, request.FILES)
        if not form.is_valid():
            return self.ask(form, status=422)
        said = form.cleaned_data
        try:
            with nullcontext() if self.alone else transaction.atomic():
                before = self.before()
                done = self.do(said)
                self.visit.note(
                    self.name,
                    about=self.about(),
                    subscriber=self.whose(),
                    before=before,
                    after=self.after(said),
                    reason=said.get("reason", ""),
                )
        except NotFound:
            raise
        except DomainError as refused:
            form.add_error(None, in_words(refused))
            return self.ask(form, status=refused.status)
        messages.success(request, str(done))
        return HttpResponseRedirect(self.back())

    def lists(self, request: HttpRequest) -> dict[str, Any]:
        """What the form has several of."""
        return {}

    def ask(self, form: forms.Form, status: int = 200) -> HttpResponse:
        return self.show(
            status=status,
            form=form,
            facts=self.facts(),
            effect=self.effect(),
            back=self.back(),
            button=self.button,
            danger=self.danger,
        )


def in_words(refused: DomainError) -> str:
    """A refusal as staff read it: its cause in their language, and what it says in detail."""
    words = _CAUSES.get(refused.cause)
    return f"{words} ({refused.detail})" if words else refused.detail


_CAUSES: dict[str, Text] = {
    "four_eyes": _("Another person has to decide what you asked for."),
    "decided": _("Somebody has decided this already."),
    "open_debt": _("Something is due: the line runs again when it is paid or given up."),
    "complaint_closed": _("This complaint is closed."),
    "suspended": _("The line is suspended or frozen already, for another reason."),
    "plan_held": _("The subscriber holds another plan at that time."),
    "subscription_ended": _("This subscription has ended."),
    "not_an_upgrade": _("This plan costs or brings less: it can only come with the next period."),
    "period_unpaid": _("The period that runs is not paid."),
    "not_pausable": _("The subscription is paused: resume it first."),
    "subscriber_merged": _("This subscriber was merged into another one."),
    "unknown_plan": _("There is no such plan on sale."),
    "ambiguous_record": _("Several records have this id: say which gateway."),
    "still_waiting": _("It waits to be sent already."),
    "window_closed": _("This window is closed."),
    "not_compared": _("This window is not compared yet: wait a moment."),
    "still_making": _("Its vouchers are still being made."),
    "codes_shown": _("Its codes were shown already, and are kept nowhere."),
    "wrong_key": _("This is not the key of the batch."),
    "batch_made": _("There is a batch of this code with other terms."),
    "not_checked": _("The file is not checked yet."),
    "subject_not_held": _("The subscriber has no such number."),
    "usage_charged": _("Usage of this number was charged after that time."),
    "reservations_open": _("Requests are under way: wait until they are over."),
    "payment_under_way": _("A payment is under way: wait until it is over."),
    "changed": _("It has changed since it was asked for: look at it again."),
    "not_voidable": _("It was redeemed, or has expired."),
    "too_large": _("The file is too large."),
}
