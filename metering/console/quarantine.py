"""What gateways sent and could not be charged: by its cause, in words, to be tried again."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.db.models import QuerySet
from django.urls import reverse
from django.utils.translation import gettext as now_
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from metering import quarantine, retrying
from metering.models import QuarantinedRecord
from subscriptions import clock
from subscriptions.console import masks
from subscriptions.console.deeds import Deed, Why
from subscriptions.console.pages import Page, Section, Text, page
from subscriptions.models import Operator, Role
from subscriptions.templatetags.figures import moment, whole
from subscriptions.templatetags.words import word

_MOST = 50
# Tried again by one click: what takes longer is done by another click, or by the gateway.
AT_ONCE = 200

# Why a record waits, by its cause and what it says of itself.
_WHY: dict[str, Text] = {
    "unknown_subject": _("Nobody has the number %(subject)s at its time, %(at)s."),
    "unknown_model": _("No rate card weighs the model %(model)s at its time, %(at)s."),
    "out_of_window": _("It is of %(at)s: too long ago, or ahead of our clock, when it came."),
    "conflict": _("The id %(record)s was charged with other content; that charge stands."),
    "no_usage": _("It names no number of tokens."),
    "invalid_record": _("A value in it breaks a rule of the format, as the gateway was told."),
}
# What to do about each cause.
_REMEDIES: dict[str, Text] = {
    "unknown_subject": _("Give the number to a subscriber, then try again."),
    "unknown_model": _("Add the model to the rate card, then try again."),
    "no_plan": _("Sell the subscriber a plan, then try again."),
    "out_of_window": _(
        "Usage this old is not charged any more; of the future it is when its time has come: mend"
        " the gateway's clock, then try again."
    ),
    "conflict": _(
        "Another record has this id and stands. If both are real, the gateway has to send"
        " this one under an id of its own."
    ),
    "invalid_record": _("The gateway has to send it again in the right form."),
    "no_usage": _("There is nothing to charge: leave it."),
    "too_large": _("The gateway has to send it again in the right form."),
}


@page
class Quarantine(Page):
    name = "quarantine"
    address = "quarantine/"
    title = _("Quarantine")
    help = _(
        "What could not be charged waits here with its reason; nothing is lost. A search finds what"
        " was charged since, too."
    )
    section, icon, order = Section.USAGE, "gpp_maybe", 30
    roles = (Role.OPERATIONS, Role.AGENT, Role.PRODUCT)
    template_name = "console/quarantine.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        text = self.request.GET.get("q", "").replace("\0", "").strip()[:512]
        cause = self.request.GET.get("cause", "").replace("\0", "")[:32]
        found = self._searched(text) if text else self._page(_waiting(self.operator, cause))
        return {
            "causes": [
                (code, _told(number), _REMEDIES.get(code, ""))
                for code, number in quarantine.waiting(self.operator.pk).items()
            ],
            "text": text,
            "cause": cause,
            "kept": urlencode({"q": text} if text else {"cause": cause} if cause else {}),
            "records": [(one, _in_words(one), *_masked(one)) for one in found[:_MOST]],
            "more": found[_MOST - 1].pk if len(found) > _MOST else None,
            "may": self.visit.may(RetryAll.permission()),
        }

    def _searched(self, text: str) -> list[QuarantinedRecord]:
        """By a record's id, else by whom the gateway named; also what was charged since."""
        own = QuarantinedRecord.objects.filter(operator=self.operator)
        return self._page(own.filter(record_id=text)) or self._page(own.filter(subject=text))

    def _page(self, rows: QuerySet[QuarantinedRecord]) -> list[QuarantinedRecord]:
        """A page and one row more, the newest first."""
        before = self.request.GET.get("before", "")
        if before.isdecimal() and len(before) < 19:
            rows = rows.filter(pk__lt=int(before))
        return list(rows.select_related("gateway").order_by("-pk")[: _MOST + 1])


def _told(number: int) -> str:
    return f"{whole(number)}+" if number >= quarantine.MOST_COUNTED else whole(number)


def _waiting(operator: Operator, cause: str) -> QuerySet[QuarantinedRecord]:
    rows = QuarantinedRecord.objects.filter(operator=operator, resolved_at__isnull=True)
    return rows.filter(cause=cause) if cause else rows


def _in_words(one: QuarantinedRecord) -> str:
    """Why it waits, for whoever reads the console; the detail beside is as the gateway read it."""
    said = _WHY.get(one.cause)
    if said is None:
        return word(one.cause)
    sent = quarantine.as_json(one)["record"]
    model = sent.get("model") if isinstance(sent, dict) else None
    return str(said) % {
        "subject": masks.subject(one.subject) or "—",
        "model": str(model or "—")[:80],
        "record": one.record_id or "—",
        "at": moment(one.occurred_at) or "—",
    }


def _masked(one: QuarantinedRecord) -> tuple[str, str]:
    """Its subject and the detail, which may name it."""
    subject = masks.subject(one.subject)
    return subject, one.detail.replace(one.subject, subject) if one.subject else one.detail


class Retry(Why):
    cause = forms.CharField(
        label=_("Cause"), required=False, max_length=32, widget=forms.HiddenInput
    )


@page
class RetryAll(Deed):
    name = "retry_quarantine"
    address = "quarantine/retry/"
    title = _("Try again")
    help = _(
        "Charges what can be charged by now, the oldest first; the rest stays, with its reason."
    )
    roles = (Role.OPERATIONS,)
    parent = "quarantine"
    form_class, button = Retry, _("Try again")
    alone = True

    def initial(self) -> dict[str, Any]:
        return {"cause": self.request.GET.get("cause", "")[:32]}

    def facts(self) -> list[tuple[Text, Any]]:
        cause = (self.request.POST or self.request.GET).get("cause", "")[:32]
        known = quarantine.waiting(self.operator.pk)
        return [
            (_("Cause"), word(cause) if cause else _("All")),
            (_("Waiting"), _told(known.get(cause, 0) if cause else sum(known.values()))),
            (_("At once"), AT_ONCE),
        ]

    def about(self) -> str:
        return "quarantine"

    def back(self) -> str:
        return reverse("admin:quarantine")

    def do(self, said: dict[str, Any]) -> Text:
        waiting = _waiting(self.operator, said["cause"].replace("\0", ""))
        rows = waiting.select_related("gateway").order_by("pk")[:AT_ONCE]
        wall = clock.wall()
        done = [retrying.retry(row, wall=wall, at=self.now).status for row in rows]
        charged = done.count("charged")
        left = done.count("rejected")
        told = ngettext(
            "%(charged)d record was charged", "%(charged)d records were charged", charged
        ) % {"charged": charged}
        if left:
            told += now_(", %(left)d stay as they are") % {"left": left}
        return f"{told}."
