"""Colleagues: who works here in which role, and from where."""

from __future__ import annotations

import secrets
from typing import Any

from django import forms
from django.urls import reverse
from django.utils.translation import gettext as now_
from django.utils.translation import gettext_lazy as _

from subscriptions import clock
from subscriptions.console.cells import Column
from subscriptions.console.deeds import Deed, Why
from subscriptions.console.lists import Choice, List, Open
from subscriptions.console.pages import Section, Text, page
from subscriptions.errors import Conflict, Invalid
from subscriptions.models import Role, Staff, StaffNetwork
from subscriptions.users import staff as employment


@page
class Colleagues(List):
    name, address, title = "staff", "staff/", _("Staff")
    help = _("Who works for this operator. What a role may do is said by the pages themselves.")
    section, icon, order = Section.PLATFORM, "badge", 10
    model = Staff
    related = ("user",)
    columns = (
        Column("user.email", personal="none"),
        Column("role"),
        Column("created_at"),
        Column("ended_at"),
    )
    filters = (Choice("role"), Open("ended_at", _("Works here"), _("Has left")))

    def deeds(self) -> list[tuple[Text, str]]:
        return [
            (page.title, reverse(f"admin:{page.name}"))
            for page in (Appoint, Dismiss)
            if self.visit.may(page.permission())
        ]


class Appointment(Why):
    email = forms.EmailField(
        label=_("E-mail"),
        help_text=_("Somebody new sets a password by “Forgot your password?” on the sign-in page."),
    )
    role = forms.ChoiceField(
        label=_("Role"),
        choices=Role.choices,
        help_text=_("One role each; another one takes the place of the one held before."),
    )


@page
class Appoint(Deed):
    name, address, title = "appoint_staff", "staff-appoint/", _("Appoint somebody")
    help = _("They need a password and a second factor before they see anything.")
    parent = "staff"
    form_class = Appointment
    button = _("Appoint")

    def about(self) -> str:
        return f"staff/{self.request.POST.get('email', '').lower()}"

    def do(self, said: dict[str, Any]) -> Text:
        staff = employment.engage(
            said["email"],
            self.operator,
            said["role"],
            password=secrets.token_urlsafe(32),
            at=clock.wall(),
        )
        return now_("%(who)s works here as %(role)s.") % {
            "who": staff.user.email,
            "role": staff.get_role_display(),
        }


class Leaving(Why):
    email = forms.EmailField(label=_("E-mail"), help_text=_("Of whoever stops working here."))


@page
class Dismiss(Deed):
    name, address, title = "dismiss_staff", "staff-dismiss/", _("End somebody's work here")
    help = _("From their next click on they see nothing. What they did stays in the audit.")
    parent = "staff"
    form_class = Leaving
    button = _("End it")
    danger = True

    def about(self) -> str:
        return f"staff/{self.request.POST.get('email', '').lower()}"

    def do(self, said: dict[str, Any]) -> Text:
        staff = Staff.objects.filter(
            operator=self.operator, user__email__iexact=said["email"], ended_at__isnull=True
        ).first()
        if staff is None:
            raise Invalid("nobody with this address works here")
        employment.dismiss(staff, at=clock.wall())
        return now_("Done.")


@page
class Networks(List):
    name, address, title = "staff_networks", "staff-networks/", _("Networks of the staff")
    help = _(
        "Staff may work from these addresses only; without any, from everywhere. The first one has"
        " to be your own, or you lock yourself out."
    )
    section, icon, order = Section.PLATFORM, "lan", 15
    model = StaffNetwork
    columns = (Column("network"), Column("note"), Column("created_at"))
    empty = _("Staff may work from everywhere.")

    def deeds(self) -> list[tuple[Text, str]]:
        return [
            (page.title, reverse(f"admin:{page.name}"))
            for page in (AllowNetwork, ForbidNetwork)
            if self.visit.may(page.permission())
        ]


class NetworkForm(Why):
    network = forms.CharField(
        label=_("Network"),
        max_length=43,
        help_text=_("An address or a network: 10.20.0.0/16, 2001:db8::/32."),
    )
    note = forms.CharField(
        label=_("Note"), max_length=200, required=False, help_text=_("Which office it is.")
    )


@page
class AllowNetwork(Deed):
    name, address, title = "allow_network", "staff-networks-add/", _("Allow a network")
    parent = "staff_networks"
    form_class = NetworkForm
    button = _("Allow")

    def about(self) -> str:
        return f"network/{self.request.POST.get('network', '')}"

    def do(self, said: dict[str, Any]) -> Text:
        row = employment.allow(self.operator, said["network"], note=said["note"], at=clock.wall())
        if not employment.may_come_from(self.operator, self.visit.address):
            raise Conflict("you would lock yourself out: your own address is not among them")
        return now_("Staff may work from %(network)s.") % {"network": row.network}


class Taken(Why):
    network = forms.CharField(
        label=_("Network"), max_length=43, help_text=_("As it stands in the list.")
    )


@page
class ForbidNetwork(Deed):
    name, address, title = "forbid_network", "staff-networks-remove/", _("Take a network off")
    parent = "staff_networks"
    form_class = Taken
    button = _("Take off")
    danger = True

    def about(self) -> str:
        return f"network/{self.request.POST.get('network', '')}"

    def do(self, said: dict[str, Any]) -> Text:
        row = StaffNetwork.objects.filter(operator=self.operator, network=said["network"]).first()
        if row is None:
            raise Invalid("this network is not on the list")
        employment.forbid(self.operator, row.pk)
        if not employment.may_come_from(self.operator, self.visit.address):
            raise Conflict("you would lock yourself out: your own address is not among the rest")
        return now_("Done.")
