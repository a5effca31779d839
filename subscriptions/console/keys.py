"""The keys that speak for an operator and its gateways."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from subscriptions.console.cells import Column
from subscriptions.console.lists import Choice, List, Open, begins
from subscriptions.console.pages import Section, page
from subscriptions.models import ApiKey, Role


@page
class ApiKeys(List):
    name, address, title = "api_keys", "api-keys/", _("API keys")
    help = _("Keys of systems and gateways. Of a key only a digest is kept: nobody can read it.")
    section, icon, order = Section.PLATFORM, "key", 50
    roles = (Role.OPERATIONS,)
    model = ApiKey
    related = ("gateway",)
    columns = (
        Column("name"),
        Column("role"),
        Column("gateway.name"),
        Column("created_at"),
        Column("revoked_at"),
    )
    search = (begins("name"),)
    search_help = _("How the name begins")
    filters = (Choice("role"), Open("revoked_at", _("In use"), _("Revoked")))
    hidden = frozenset({"digest"})
