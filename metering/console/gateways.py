"""Gateways: who sends usage, how much at this moment, how much in vain, and with which keys."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django import forms
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from metering.models import UsageWindow
from subscriptions import keys
from subscriptions.console.deeds import Deed, Record, Why
from subscriptions.console.pages import Page, Section, Text, page
from subscriptions.errors import Invalid, NotFound
from subscriptions.models import ApiKey, Gateway, Role
from subscriptions.templatetags.figures import moment

ROLES = (Role.OPERATIONS,)
# What is called live, and what the share of errors is of.
_LIVE, _HOUR = dt.timedelta(minutes=5), dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a gateway did of late."""

    live: int = 0  # records of the last five minutes
    records: int = 0  # of the last hour
    refused: int = 0  # of the last hour
    waiting: int = 0  # in the quarantine, whenever it came
    last_at: dt.datetime | None = None

    @property
    def per_second(self) -> Decimal:
        return (Decimal(self.live) / int(_LIVE.total_seconds())).quantize(Decimal("0.1"))

    @property
    def errors(self) -> Decimal | None:
        told = self.records + self.refused
        return Decimal(self.refused) / told if told else None


# Batches of the last hour are found by time; the quarantine is small, or something is wrong.
_PULSE_SQL = """
SELECT g.id, coalesce(b.live, 0), coalesce(b.records, 0), coalesce(q.refused, 0),
       coalesce(q.waiting, 0), b.last_at
FROM subscriptions_gateway g
LEFT JOIN (
    SELECT gateway_id, sum(records) FILTER (WHERE charged_at > %(live)s) AS live,
           sum(records) AS records, max(charged_at) AS last_at
    FROM metering_usagebatch
    WHERE operator_id = %(operator)s AND charged_at > %(hour)s AND charged_at <= %(at)s
    GROUP BY gateway_id
) b ON b.gateway_id = g.id
LEFT JOIN (
    SELECT gateway_id, count(*) FILTER (WHERE received_at > %(hour)s) AS refused,
           count(*) FILTER (WHERE resolved_at IS NULL) AS waiting
    FROM metering_quarantinedrecord
    WHERE operator_id = %(operator)s AND (resolved_at IS NULL OR received_at > %(hour)s)
    GROUP BY gateway_id
) q ON q.gateway_id = g.id
WHERE g.operator_id = %(operator)s
ORDER BY g.name
"""


def pulses(operator_id: int, *, at: dt.datetime) -> dict[int, Pulse]:
    """Each gateway's, by its id."""
    with connection.cursor() as cursor:
        cursor.execute(
            _PULSE_SQL,
            {"operator": operator_id, "at": at, "live": at - _LIVE, "hour": at - _HOUR},
        )
        return {
            gateway_id: Pulse(int(live), int(records), int(refused), int(waiting), last_at)
            for gateway_id, live, records, refused, waiting, last_at in cursor.fetchall()
        }


@page
class Gateways(Page):
    name = "gateways"
    address = "gateways/"
    title = _("Gateways")
    help = _(
        "Who sends usage, at this moment. Errors are what could not be charged of the last hour."
    )
    section, icon, order = Section.USAGE, "router", 10
    roles = (Role.OPERATIONS, Role.AGENT, Role.PRODUCT, Role.FINANCE)
    template_name = "console/gateways.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        rows = Gateway.objects.filter(operator=self.operator).order_by("name")
        found = pulses(self.operator.pk, at=self.now)
        return {
            "gateways": [(row, found.get(row.pk, Pulse())) for row in rows],
            "total": sum(one.live for one in found.values()),
            "waiting": sum(one.waiting for one in found.values()),
            "may_issue": self.visit.may(IssueKey.permission()),
        }


@page
class GatewayPage(Record):
    name = "gateway"
    address = "gateways/<int:gateway_id>/"
    title = _("Gateway")
    roles = Gateways.roles
    parent = "gateways"
    template_name = "console/gateway.html"
    gateway: Gateway

    def heading(self) -> Text:
        return self.gateway.name

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.gateway = gateway_of(self.operator.pk, kwargs["gateway_id"])
        windows = UsageWindow.objects.filter(gateway=self.gateway)
        return self.show(
            gateway=self.gateway,
            pulse=pulses(self.operator.pk, at=self.now).get(self.gateway.pk, Pulse()),
            keys=list(ApiKey.objects.filter(gateway=self.gateway).order_by("-pk")[:20]),
            windows=list(windows.order_by("-window_end", "-pk")[:12]),
            may_issue=self.visit.may(IssueKey.permission()),
        )


def gateway_of(operator_id: int, gateway_id: int) -> Gateway:
    """Raises NotFound, also for another operator's."""
    found = Gateway.objects.filter(operator_id=operator_id, pk=min(gateway_id, 2**62)).first()
    if found is None:
        raise NotFound("there is no such gateway")
    return found


# Keys ---------------------------------------------------------------------------------------------


class OfGateway(Deed):
    roles = ROLES
    parent = "gateways"
    gateway: Gateway

    def find(self, **kwargs: Any) -> None:
        self.gateway = gateway_of(self.operator.pk, kwargs["gateway_id"])

    def about(self) -> str:
        return f"gateway/{self.gateway.name}"

    def back(self) -> str:
        return reverse("admin:gateway", args=[self.gateway.pk])

    def facts(self) -> list[tuple[Text, Any]]:
        return [(_("Gateway"), self.gateway.name)]


class NewGateway(Why):
    name = forms.SlugField(
        label=_("Name"),
        max_length=100,
        help_text=_("Letters, digits, - and _. It stays: ids of requests are unique within it."),
    )


class _Shows(Deed):
    """One whose outcome is shown this once, on a page of its own that nobody keeps."""

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.secret = ""
        answer = super().post(request, **kwargs)
        if not self.secret:
            return answer
        return self.show("console/key.html", secret=self.secret, back=self.back())


@page
class AddGateway(_Shows):
    name = "add_gateway"
    address = "gateways/new/"
    title = _("New gateway")
    help = _("It gets a key, which is shown once.")
    roles = ROLES
    parent = "gateways"
    form_class, button = NewGateway, _("Create")

    def about(self) -> str:
        return "gateways"

    def do(self, said: dict[str, Any]) -> Text:
        if Gateway.objects.filter(operator=self.operator, name=said["name"]).exists():
            raise Invalid(f"{said['name']} is a gateway already: issue another key for it")
        self.secret = keys.issue(
            operator_code=self.operator.code,
            role=ApiKey.Role.GATEWAY,
            name=said["name"],
            at=self.now,
        )
        return _("The gateway has a key.")


@page
class IssueKey(OfGateway, _Shows):
    name = "issue_gateway_key"
    address = "gateways/<int:gateway_id>/key/"
    title = _("New key")
    help = _("The others go on until they are revoked: change the gateway's settings first.")
    button = _("Issue")

    def do(self, said: dict[str, Any]) -> Text:
        self.secret = keys.issue(
            operator_code=self.operator.code,
            role=ApiKey.Role.GATEWAY,
            name=self.gateway.name,
            at=self.now,
        )
        return _("The gateway has another key.")


@page
class RevokeKey(OfGateway):
    name = "revoke_gateway_key"
    address = "gateways/<int:gateway_id>/key/<int:key_id>/revoke/"
    title = _("Revoke a key")
    help = _("Whoever uses it is refused from now on.")
    button, danger = _("Revoke"), True
    key: ApiKey

    def find(self, **kwargs: Any) -> None:
        super().find(**kwargs)
        found = ApiKey.objects.filter(gateway=self.gateway, pk=min(kwargs["key_id"], 2**62)).first()
        if found is None:
            raise NotFound("there is no such key")
        self.key = found

    def facts(self) -> list[tuple[Text, Any]]:
        return [*super().facts(), (_("Issued"), moment(self.key.created_at))]

    def after(self, said: dict[str, Any]) -> dict[str, Any]:
        return {"key": self.key.pk}

    def do(self, said: dict[str, Any]) -> Text:
        keys.revoke(self.operator, self.key.pk, at=self.now)
        return _("The key is revoked.")
