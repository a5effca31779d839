"""Lists of what others are told: subscribers by notices, the carrier's systems by webhooks."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from subscriptions.console.cells import Column
from subscriptions.console.lists import Choice, List, Open, exact, number, of_subscriber
from subscriptions.console.pages import Section, page
from subscriptions.models import (
    Notice,
    OutboxEvent,
    Role,
    WebhookDelivery,
    WebhookEndpoint,
)

_WHO = _("Phone number, name, e-mail, customer number or subject")


@page
class Notices(List):
    name, address, title = "notices", "notices/", _("Notices")
    help = _("What a subscriber was told by e-mail and text message, and what failed.")
    section, icon, order = Section.CUSTOMERS, "mail", 70
    roles = (Role.AGENT, Role.OPERATIONS)
    model = Notice
    narrow = True
    sort = ("subscriber_id", "id")
    columns = (
        Column("occurred_at"),
        Column("channel"),
        Column("kind"),
        Column("state"),
        Column("attempts"),
        Column("reason"),
    )
    search = (of_subscriber(),)
    search_within = (exact("event_key"),)
    search_help = _WHO
    filters = (Choice("state"), Choice("channel"))


@page
class Events(List):
    name, address, title = "events", "events/", _("Events")
    help = _("What happened to a subscriber, as the carrier's systems are told.")
    section, icon, order = Section.CUSTOMERS, "notifications", 75
    roles = (Role.AGENT, Role.OPERATIONS)
    model = OutboxEvent
    narrow = True
    sort = ("subscriber_id", "key")
    columns = (
        Column("occurred_at"),
        Column("kind"),
        Column("key", _("Event")),
        Column("sent_at"),
    )
    search = (of_subscriber(),)
    search_within = (exact("key"),)
    search_help = _WHO


@page
class Endpoints(List):
    name, address, title = "webhook_endpoints", "webhook-endpoints/", _("Webhooks")
    help = _("Where the carrier's systems hear of events; which fail, and since when.")
    section, icon, order = Section.PLATFORM, "webhook", 40
    roles = (Role.OPERATIONS,)
    model = WebhookEndpoint
    columns = (
        Column("id"),
        Column("url"),
        Column("description"),
        Column("failing_since"),
        Column("failures"),
        Column("disabled_at"),
        Column("deleted_at"),
    )
    filters = (Open("disabled_at", _("Switched on"), _("Switched off")),)
    empty = _("No system listens yet. The carrier's systems add webhooks with their key.")
    hidden = frozenset({"secret", "old_secret"})


@page
class Deliveries(List):
    name, address, title = "webhook_deliveries", "webhook-deliveries/", _("Webhook deliveries")
    help = _("Each event to each webhook. Search by subscriber, or by the number of a webhook.")
    section, icon, order = Section.PLATFORM, "outbox", 45
    roles = (Role.OPERATIONS, Role.AGENT)
    model = WebhookDelivery
    of_operator = "endpoint__operator"
    narrow = True
    related = ("endpoint",)
    sort = ("id",)
    columns = (
        Column("occurred_at"),
        Column("kind"),
        Column("endpoint.url"),
        Column("state"),
        Column("attempts"),
        Column("next_at"),
    )
    search = (number("endpoint_id"), of_subscriber())
    search_within = (exact("event_key"),)
    search_help = _WHO
    filters = (Choice("state"),)
