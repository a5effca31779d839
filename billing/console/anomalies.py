"""What looks wrong: the queue of cases, and what people make of each."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as now_
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from billing.anomalies import cases
from billing.models import AnomalyCase
from subscriptions.console import masks
from subscriptions.console.deeds import Deed, Record
from subscriptions.console.pages import Page, Section, Text, page
from subscriptions.console.site import site
from subscriptions.models import Role, Subscriber
from subscriptions.templatetags.figures import moment, units_text
from subscriptions.templatetags.words import word

State = AnomalyCase.State
ROLES = (Role.AGENT, Role.OPERATIONS)
# What may be decided of a case in each state.
_DECISIONS = {
    State.OPEN: (State.FROZEN, State.DISMISSED, State.CONFIRMED),
    State.FROZEN: (State.RELEASED, State.CONFIRMED),
    State.RELEASED: (State.CONFIRMED, State.DISMISSED),
}
_NAMES: dict[str, str] = {
    State.FROZEN: "freeze_case",
    State.RELEASED: "release_case",
    State.CONFIRMED: "confirm_case",
    State.DISMISSED: "dismiss_case",
}
_MOST = 50


@page
class Anomalies(Page):
    name = "anomalies"
    address = "anomalies/"
    title = _("Anomalies")
    help = _(
        "Bills, speed, networks and resale that look wrong. A line is stopped by people, "
        "or not at all."
    )
    section, icon, order = Section.CUSTOMERS, "warning", 40
    roles = ROLES
    template_name = "console/anomalies.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        state = self.request.GET.get("state", State.OPEN)
        state = state if state in State.values else State.OPEN
        rows = AnomalyCase.objects.filter(operator=self.operator, state=state)
        before = self.request.GET.get("before", "")
        if before.isdecimal() and len(before) < 19:
            rows = rows.filter(pk__lt=int(before))
        found = list(rows.select_related("subscriber").order_by("-pk")[: _MOST + 1])
        return {
            "cases": [(one, _seen(one)) for one in found[:_MOST]],
            "state": state,
            "states": State.values,
            "more": found[_MOST - 1].pk if len(found) > _MOST else None,
        }


def _seen(case: AnomalyCase) -> list[tuple[Text, Any]]:
    """What was seen, in words where we have them."""
    return [
        (_EVIDENCE[name], _shown(name, value))
        for name, value in case.evidence.items()
        if name in _EVIDENCE
    ]


def _shown(name: str, value: Any) -> Any:
    if name in ("since", "until", "hour"):
        return moment(dt.datetime.fromisoformat(value))
    if name in ("units", "usual"):
        return units_text(value)
    if name == "subject":
        return masks.subject(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else value


_EVIDENCE: dict[str, Text] = {
    "invoice": _("Invoice"),
    "amount": _("Amount"),
    "mean": _("Usual amount"),
    "currency": _("Currency"),
    "months": _("Months looked at"),
    "hour": _("Hour"),
    "units": _("Tokens"),
    "requests": _("Requests"),
    "usual": _("Usual tokens"),
    "hours_known": _("Hours looked at"),
    "factor": _("Limit: times the usual"),
    "subject": _("Number"),
    "since": _("From"),
    "until": _("To"),
    "days": _("Days"),
    "hours_a_day": _("Hours a day"),
    "calls": _("Calls looked at"),
    "networks": _("Networks"),
    "end_users": _("End users"),
    "some": _("Some of them"),
}


@page
class AnomalyPage(Record):
    name = "anomaly"
    address = "anomalies/<int:case_id>/"
    title = _("Anomaly")
    roles = ROLES
    parent = "anomalies"
    template_name = "console/anomaly.html"
    case: AnomalyCase

    def heading(self) -> Text:
        return f"{word(self.case.kind)} · {self.case.subscriber.external_id}"

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.case = cases.find(self.operator, kwargs["case_id"])
        decisions = [
            (
                site.pages[_NAMES[state]].title,
                reverse(f"admin:{_NAMES[state]}", args=[self.case.pk]),
            )
            for state in _DECISIONS.get(State(self.case.state), ())
            if self.visit.may(site.pages[_NAMES[state]].permission())
        ]
        return self.show(
            case=self.case,
            seen=_seen(self.case),
            steps=cases.steps_of(self.case),
            decisions=decisions,
        )


class Decision(Deed):
    roles = ROLES
    parent = "anomalies"
    state: State
    done: Text
    case: AnomalyCase

    def find(self, **kwargs: Any) -> None:
        self.case = cases.find(self.operator, kwargs["case_id"])

    def whose(self) -> Subscriber:
        return self.case.subscriber

    def about(self) -> str:
        return f"anomaly/{self.case.pk}"

    def before(self) -> dict[str, Any]:
        return {"state": self.case.state}

    def after(self, said: dict[str, Any]) -> dict[str, Any]:
        return {"state": str(self.state)}

    def back(self) -> str:
        return reverse("admin:anomaly", args=[self.case.pk])

    def facts(self) -> list[tuple[Text, Any]]:
        return [
            (_("Subscriber"), self.case.subscriber.external_id),
            (_("What it is"), word(self.case.kind)),
            *_seen(self.case),
        ]

    def do(self, said: dict[str, Any]) -> Text:
        cases.decide(
            self.operator,
            self.case.pk,
            self.state,
            by=self.by(),
            reason=said["reason"],
            at=self.now,
        )
        return now_(str(self.done))


@page
class Freeze(Decision):
    name = "freeze_case"
    address = "anomalies/<int:case_id>/freeze/"
    title = _("Freeze the line")
    help = _("From now on nothing of the subscriber's own is used, until the case is released.")
    state, button, danger, done = State.FROZEN, _("Freeze"), True, _("The line is frozen.")


@page
class Release(Decision):
    name = "release_case"
    address = "anomalies/<int:case_id>/release/"
    title = _("Release the line")
    help = _("The line runs again at once.")
    state, button, done = State.RELEASED, _("Release"), _("The line runs again.")


@page
class Confirm(Decision):
    name = "confirm_case"
    address = "anomalies/<int:case_id>/confirm/"
    title = _("Confirm")
    help = _("It is what it looks like. A frozen line stays frozen.")
    state, done = State.CONFIRMED, _("The case is confirmed.")
    button = pgettext_lazy("deed", "Confirm")


@page
class Dismiss(Decision):
    name = "dismiss_case"
    address = "anomalies/<int:case_id>/dismiss/"
    title = _("Dismiss")
    help = _("It is all right, for a reason. What was seen does not come again.")
    state, button, done = State.DISMISSED, _("Dismiss"), _("The case is dismissed.")
