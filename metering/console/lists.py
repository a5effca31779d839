"""Lists of usage: what came, what it cost, what was corrected."""

from __future__ import annotations

import datetime as dt

from django.utils.translation import gettext_lazy as _

from metering.models import Adjustment, SuspectedRepeat, UsageBatch, UsageRecord
from subscriptions.console.cells import Column
from subscriptions.console.lists import List, Rows, exact, number, of_subscriber
from subscriptions.console.pages import Section, page
from subscriptions.models import Role

_WHO = _("Phone number, name, e-mail, customer number or subject")
_RECENT = dt.timedelta(days=1)


@page
class Records(List):
    name, address, title = "usage_records", "usage-records/", _("Usage records")
    help = _("Each request of a subscriber and its units. Choose one, then search by record id.")
    section, icon, order = Section.USAGE, "receipt", 40
    roles = (Role.AGENT, Role.FINANCE, Role.OPERATIONS)
    model = UsageRecord
    narrow = True
    sort = ("subscriber_id", "gateway_id", "source", "record_id", "occurred_at")
    columns = (
        Column("occurred_at"),
        Column("record_id"),
        Column("model"),
        Column("uncached_input_tokens"),
        Column("cached_input_tokens"),
        Column("output_tokens"),
        Column("units"),
        Column("outcome"),
    )
    search = (of_subscriber(),)
    search_within = (exact("record_id"), number("batch_id"))
    search_help = _WHO

    def rows(self) -> Rows:
        # The partitions of what may still be sent again; older ones by the subscriber's own page.
        return super().rows().filter(occurred_at__gte=self.now - dt.timedelta(days=35))


@page
class Batches(List):
    name, address, title = "usage_batches", "usage-batches/", _("Batches")
    help = _("What gateways sent in the last day, each committed whole or not at all.")
    section, icon, order = Section.USAGE, "stacks", 50
    roles = (Role.OPERATIONS,)
    model = UsageBatch
    related = ("gateway",)
    columns = (
        Column("id"),
        Column("gateway.name"),
        Column("charged_at"),
        Column("records"),
        Column("units"),
        Column("occurred_from"),
        Column("occurred_to"),
        Column("folded_at"),
    )
    hidden = frozenset({"stored_by"})
    search = (number("id"),)
    search_help = _("The number of a batch")

    def rows(self) -> Rows:
        return super().rows().filter(charged_at__gt=self.now - _RECENT)


@page
class Repeats(List):
    name, address, title = "suspected_repeats", "suspected-repeats/", _("Suspected repeats")
    help = _("Records that may be earlier ones told again; both are charged until you decide.")
    section, icon, order = Section.USAGE, "content_copy", 60
    roles = (Role.OPERATIONS, Role.FINANCE)
    model = SuspectedRepeat
    related = ("gateway",)
    columns = (
        Column("record_id"),
        Column("first_record_id"),
        Column("gateway.name"),
        Column("subject", personal="subject"),
        Column("model"),
        Column("units"),
        Column("occurred_at"),
    )
    empty = _("No record looks like another one.")


@page
class Adjustments(List):
    name, address, title = "adjustments", "adjustments/", _("Adjustments")
    help = _("What was changed of usage already charged, and why.")
    section, icon, order = Section.USAGE, "tune", 70
    roles = (Role.AGENT, Role.FINANCE, Role.OPERATIONS)
    model = Adjustment
    sort = ("batch_id",)
    columns = (
        Column("batch_id"),
        Column("made_at"),
        Column("kind"),
        Column("records"),
        Column("units"),
        Column("reason"),
        Column("made_by"),
    )
    search = (of_subscriber(),)
    search_help = _WHO
