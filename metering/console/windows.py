"""Windows of gateways' time: what they counted, what we charged, and what lacks."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from metering import usage_windows
from metering.models import UsageWindow
from subscriptions.console.deeds import Deed, Record, Why
from subscriptions.console.pages import Page, Section, Text, page
from subscriptions.models import Role
from subscriptions.templatetags.figures import moment

State = UsageWindow.State
_MOST = 50


@page
class Windows(Page):
    name = "usage_windows"
    address = "windows/"
    title = _("Reconciliation")
    help = _(
        "What gateways say they sent, against what was charged. A window closes by itself"
        " when both agree."
    )
    section, icon, order = Section.USAGE, "difference", 20
    roles = (Role.OPERATIONS, Role.FINANCE)
    template_name = "console/windows.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        state = self.request.GET.get("state", State.DIFFERS)
        state = state if state in State.values else State.DIFFERS
        rows = UsageWindow.objects.filter(operator=self.operator, state=state)
        before = self.request.GET.get("before", "")
        if before.isdecimal() and len(before) < 19:
            rows = rows.filter(pk__lt=int(before))
        found = list(rows.select_related("gateway").order_by("-pk")[: _MOST + 1])
        counters = usage_windows.counters_of(found[:_MOST])
        return {
            "windows": [(one, counters.get(one.pk), _lacks(one)) for one in found[:_MOST]],
            "state": state,
            "states": State.values,
            "more": found[_MOST - 1].pk if len(found) > _MOST else None,
        }


def _lacks(window: UsageWindow) -> int | None:
    """How many requests differ by the last comparison; > 0 are missing here."""
    if not window.findings:
        return None
    return int(window.findings.get("difference", {}).get("requests") or 0)


@page
class WindowPage(Record):
    name = "usage_window"
    address = "windows/<int:window_id>/"
    title = _("Window")
    roles = Windows.roles
    parent = "usage_windows"
    template_name = "console/window.html"
    window: UsageWindow

    def heading(self) -> Text:
        return f"{self.window.gateway.name} · {moment(self.window.window_start)}"

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.window = usage_windows.find(self.operator.pk, kwargs["window_id"])
        counters = usage_windows.counters_of([self.window])
        shown = usage_windows.as_json(self.window, counters[self.window.pk])
        return self.show(
            window=self.window,
            said=shown,
            table=[
                (label, *(_of(shown[part], name) for part in ("counted", "charged", "difference")))
                for name, label in _CLASSES
            ],
            ranges=((shown.get("missing") or {}).get("ranges") or [])[:50],
            parts=[
                (
                    label,
                    (shown.get(name) or {}).get("requests")
                    if isinstance(shown.get(name), dict)
                    else shown.get(name),
                )
                for name, label in _PARTS
            ],
            history=usage_windows.history_of(self.window)["events"],
            may=self.visit.may(AskAgain.permission()),
        )

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        """Compare now, as happens by itself soon."""
        if not self.visit.may(AskAgain.permission()):
            raise PermissionDenied
        self.window = usage_windows.find(self.operator.pk, kwargs["window_id"])
        usage_windows.compare(self.window.pk, at=self.now, seconds=usage_windows.PATIENCE_SECONDS)
        return HttpResponseRedirect(reverse("admin:usage_window", args=[self.window.pk]))


_CLASSES = (
    ("requests", _("Requests")),
    ("input_tokens", _("Input tokens")),
    ("cached_input_tokens", _("Cached input tokens")),
    ("cache_write_tokens", _("Cache write tokens")),
    ("output_tokens", _("Output tokens")),
    ("reasoning_tokens", _("Reasoning tokens")),
)
_PARTS = (
    ("duplicates", _("Sent twice")),
    ("rejected", _("Refused")),
    ("quarantined", _("In the quarantine")),
    ("outside", _("Outside of the window")),
)


def _of(numbers: Any, name: str) -> Any:
    return numbers.get(name) if isinstance(numbers, dict) else None


class OfWindow(Deed):
    roles = (Role.OPERATIONS,)
    parent = "usage_windows"
    window: UsageWindow

    def find(self, **kwargs: Any) -> None:
        self.window = usage_windows.find(self.operator.pk, kwargs["window_id"])

    def about(self) -> str:
        return f"window/{self.window.pk}"

    def back(self) -> str:
        return reverse("admin:usage_window", args=[self.window.pk])

    def facts(self) -> list[tuple[Text, Any]]:
        return [
            (_("Gateway"), self.window.gateway.name),
            (_("From"), moment(self.window.window_start)),
            (_("To"), moment(self.window.window_end)),
            (_("Requests that differ"), _lacks(self.window)),
        ]


class Again(Why):
    whole = forms.BooleanField(
        label=_("All of the window"),
        required=False,
        help_text=_("Not only the numbers that never came. Nothing is charged twice by it."),
    )


@page
class AskAgain(OfWindow):
    name = "ask_for_resend"
    address = "windows/<int:window_id>/again/"
    title = _("Ask for it again")
    help = _(
        "The gateway hears of it when it looks at the window next, and sends again what lacks."
    )
    form_class, button = Again, _("Ask")

    def do(self, said: dict[str, Any]) -> Text:
        usage_windows.ask_again(
            self.window.pk,
            reason=said["reason"],
            whole=said["whole"],
            by=self.by(),
            at=self.now,
        )
        return _("The gateway is asked to send again.")


@page
class CloseWindow(OfWindow):
    name = "close_window"
    address = "windows/<int:window_id>/close/"
    title = _("Accept the difference")
    help = _("The window is closed as it is. Usage that comes later opens it again.")
    button, danger = _("Accept"), True

    def do(self, said: dict[str, Any]) -> Text:
        usage_windows.close(self.window.pk, reason=said["reason"], by=self.by(), at=self.now)
        return _("The window is closed.")
