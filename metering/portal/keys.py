"""API keys: made, limited, rotated and revoked by whose they are."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy
from django.views.decorators.http import require_http_methods, require_POST

from metering import key_usage
from metering.key_usage import Used
from subscriptions.errors import DomainError
from subscriptions.models import KeySecret, KeyStep, SubscriberKey
from subscriptions.portal.doors import Visit, own, show
from subscriptions.portal.forms import TokensField, plainly
from subscriptions.subscriber_keys import keeping
from subscriptions.subscriber_keys.keeping import Issued, Terms

_BY = "portal"


class TermsForm(forms.Form):
    """What a key is called, and what it may be used for."""

    name = forms.CharField(
        label=pgettext_lazy("of a key", "Name"),
        max_length=100,
        help_text=gettext_lazy("What you will know it by: a device, a program, a person."),
    )
    cap = TokensField(
        label=gettext_lazy("At most"),
        required=False,
        help_text=gettext_lazy("Tokens, as in 500000, 500k or 1.5M. Empty: as many as you have."),
    )
    cap_per = forms.ChoiceField(
        label=gettext_lazy("In each"),
        choices=[("month", gettext_lazy("Month")), ("day", gettext_lazy("Day"))],
        required=False,
    )
    models = forms.CharField(
        label=gettext_lazy("Models"),
        required=False,
        max_length=5000,
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
        help_text=gettext_lazy("One a line; * stands for any text. Empty: all models."),
    )

    def clean_models(self) -> tuple[str, ...]:
        named = tuple(dict.fromkeys(self.cleaned_data["models"].split()))
        if len(named) > keeping.MAX_MODELS or any(len(name) > 256 for name in named):
            raise forms.ValidationError(_("That are too many models, or too long names."))
        return named

    def terms(self) -> Terms:
        said = self.cleaned_data
        cap = said["cap"]
        per = (said["cap_per"] or "month") if cap is not None else ""
        return Terms(said["name"], cap, per, said["models"])


class RotationForm(forms.Form):
    overlap = forms.TypedChoiceField(
        label=gettext_lazy("The old one still works for"),
        coerce=int,
        choices=[
            (0, gettext_lazy("not at all")),
            (1, gettext_lazy("an hour")),
            (24, gettext_lazy("a day")),
            (168, gettext_lazy("a week")),
        ],
        initial=24,
    )


@dataclass(frozen=True, slots=True)
class Line:
    """A key as a page shows it."""

    key: SubscriberKey
    used: Used
    secrets: list[KeySecret]

    @property
    def in_its_time(self) -> int:
        """What counts against its cap, as far as it is told."""
        return self.used.day if self.key.cap_per == "day" else self.used.month

    @property
    def percent(self) -> int:
        return min(100, self.in_its_time * 100 // self.key.cap) if self.key.cap else 0

    @property
    def left(self) -> int:
        return max(0, (self.key.cap or 0) - self.in_its_time)

    @property
    def old_until(self) -> dt.datetime | None:
        """Until when one before works too."""
        ends = [secret.ends_at for secret in self.secrets if secret.ends_at]
        return max(ends, default=None)


def _lines(visit: Visit, keys: list[SubscriberKey]) -> list[Line]:
    used = key_usage.used_by(keys, at=visit.now, zone=visit.zone)
    return [Line(key, used[key.pk], list(keeping.live_secrets(key, at=visit.now))) for key in keys]


@require_http_methods(["GET", "POST"])
@own
def listed(request: HttpRequest, visit: Visit) -> HttpResponse:
    """All keys, and a form for a new one; by POST it is made, and shown this once."""
    form = TermsForm(request.POST or None, initial={"cap_per": "month"})
    if request.method == "POST" and form.is_valid():
        try:
            issued = keeping.create(visit.subscriber, form.terms(), by=_BY, at=visit.now)
        except DomainError as error:
            form.add_error("name", _why(error))
        else:
            return _shown_once(request, visit, issued, new=True)
    lines = _lines(visit, keeping.of_subscriber(visit.subscriber.pk))
    return show(
        request,
        "portal/keys.html",
        visit,
        section="keys",
        live=[line for line in lines if line.key.revoked_at is None],
        ended=[line for line in lines if line.key.revoked_at is not None],
        form=form,
    )


def _why(error: DomainError) -> str:
    said = {
        "key_name_taken": _("Another of your keys is called that."),
        "too_many_keys": _("You have as many keys as one may have. Revoke one first."),
        "key_revoked": _("This key is revoked."),
        "subscriber_merged": _("This account was merged into another one."),
    }
    return said.get(error.cause, _("That is not possible now."))


def _shown_once(request: HttpRequest, visit: Visit, issued: Issued, *, new: bool) -> HttpResponse:
    return show(
        request,
        "portal/key_made.html",
        visit,
        section="keys",
        key=issued.key,
        secret=issued.secret,
        new=new,
    )


@require_http_methods(["GET", "POST"])
@own
def one(request: HttpRequest, visit: Visit, key_id: int) -> HttpResponse:
    """A key: what it is used for, its limits (changed by POST), and what was done to it."""
    key = _find(visit, key_id)
    before = {
        "name": key.name,
        "cap": plainly(key.cap),
        "cap_per": key.cap_per or "month",
        "models": "\n".join(key.allowed_models),
    }
    form = TermsForm(request.POST or None, initial=before)
    if request.method == "POST" and form.is_valid():
        try:
            keeping.change(key, form.terms(), by=_BY, at=visit.now)
        except DomainError as error:
            form.add_error("name", _why(error))
        else:
            messages.success(request, _("That holds from the next request on."))
            return redirect("portal_key", key.pk)
    [line] = _lines(visit, [key])
    return show(
        request,
        "portal/key.html",
        visit,
        section="keys",
        line=line,
        form=form,
        rotation=RotationForm(),
        steps=[_step(step) for step in keeping.steps_of([key])],
    )


def _step(step: KeyStep) -> dict[str, Any]:
    said = {
        KeyStep.Kind.CREATED: _("Made"),
        KeyStep.Kind.CHANGED: _("Limits or name changed"),
        KeyStep.Kind.ROTATED: _("Replaced by a new one"),
        KeyStep.Kind.REVOKED: _("Revoked"),
    }
    return {"at": step.at, "said": said[KeyStep.Kind(step.kind)], "ours": step.by == _BY}


@require_POST
@own
def rotate(request: HttpRequest, visit: Visit, key_id: int) -> HttpResponse:
    """Another secret for the key, shown this once."""
    key = _find(visit, key_id)
    form = RotationForm(request.POST)
    if not form.is_valid():
        return redirect("portal_key", key.pk)
    overlap = dt.timedelta(hours=form.cleaned_data["overlap"])
    try:
        issued = keeping.rotate(key, overlap=overlap, by=_BY, at=visit.now)
    except DomainError as error:
        messages.error(request, _why(error))
        return redirect("portal_key", key.pk)
    return _shown_once(request, visit, issued, new=False)


@require_http_methods(["GET", "POST"])
@own
def revoke(request: HttpRequest, visit: Visit, key_id: int) -> HttpResponse:
    """What revoking means; by POST it is done."""
    key = _find(visit, key_id)
    if request.method == "POST":
        keeping.revoke(key, by=_BY, at=visit.now)
        messages.success(request, _("The key is revoked: nobody gets in by it any more."))
        return redirect("portal_keys")
    [line] = _lines(visit, [key])
    return show(request, "portal/key_revoke.html", visit, section="keys", line=line)


def _find(visit: Visit, key_id: int) -> SubscriberKey:
    """A key of the visitor's own. Raises Http404, for anybody else's as for none."""
    try:
        return keeping.find(visit.subscriber, key_id)
    except DomainError:
        raise Http404 from None
