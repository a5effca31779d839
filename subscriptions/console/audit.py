"""What staff saw and did, for whoever has to answer for it."""

from __future__ import annotations

from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from subscriptions.console import words
from subscriptions.console.cells import Column
from subscriptions.console.lists import Choice, List, exact, of_subscriber
from subscriptions.console.pages import Section, page
from subscriptions.models import AuditEntry, Operator, Role, Staff


def by_colleague(operator: Operator, text: str) -> Q | None:
    """By the e-mail address of somebody who works or worked here."""
    if "@" not in text:
        return None
    ids = Staff.objects.filter(operator=operator, user__email__iexact=text).values("user_id")
    return Q(user_id__in=list(ids.values_list("user_id", flat=True)))


@page
class Audit(List):
    name, address, title = "audit", "audit/", _("Audit")
    help = _("Who saw or changed what, when, from where and why. Nothing here can be changed.")
    section, icon, order = Section.PLATFORM, "policy", 20
    roles = (Role.AUDITOR,)
    model = AuditEntry
    columns = (
        Column("at"),
        Column("who"),
        Column("role"),
        Column("action", _("What"), says=words.deed),
        Column("about"),
        Column("reason"),
        Column("address", _("From"), personal="none"),
    )
    search = (by_colleague, exact("action"), exact("about"), of_subscriber())
    search_help = _("E-mail of a colleague, action, what it was about, or a subscriber")
    filters = (Choice("role"),)
    empty = _("Nobody has looked at personal data or changed anything yet.")
