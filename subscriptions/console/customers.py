"""Lists of who buys and what they hold."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from subscriptions.console.cells import Column
from subscriptions.console.lists import Choice, List, Open, exact, number, of_subscriber
from subscriptions.console.pages import Section, page
from subscriptions.models import (
    Bucket,
    BucketEntry,
    Redemption,
    Reservation,
    Role,
    Subject,
    Subscriber,
    Subscription,
    SubscriptionPeriod,
    Suspension,
)

_WHO = _("Phone number, name, e-mail, customer number or subject")
_SERVICE = (Role.AGENT, Role.FINANCE, Role.OPERATIONS)


@page
class Subscribers(List):
    name, address, title = "subscribers", "subscribers/", _("Subscribers")
    help = _("Who buys from this operator. Personal data is masked until you say why you need it.")
    section, icon, order = Section.CUSTOMERS, "group", 15
    sort = ("id",)
    roles = (*_SERVICE, Role.PRODUCT)
    model = Subscriber
    columns = (
        Column("external_id"),
        Column("name", personal="name"),
        Column("kind"),
        Column("msisdn"),
        Column("email"),
        Column("created_at"),
    )
    search = (of_subscriber("pk"),)
    search_help = _WHO
    empty = _("Nobody buys here yet. The carrier's CRM adds subscribers, or you import them.")
    leads_to = ("subscriber", "pk")


@page
class Subjects(List):
    name, address, title = "subjects", "subjects/", _("Subjects")
    help = _("What gateways call a subscriber, and from when until when.")
    section, icon, order = Section.CUSTOMERS, "badge", 20
    roles = _SERVICE
    model = Subject
    related = ("subscriber",)
    columns = (
        Column("subject", personal="subject"),
        Column("subscriber.external_id"),
        Column("valid_from"),
        Column("valid_until"),
        Column("free_from"),
    )
    search = (exact("subject"), of_subscriber())
    search_help = _WHO
    filters = (Open("valid_until", _("In use"), _("Given back")),)


@page
class Subscriptions(List):
    name, address, title = "subscriptions", "subscriptions/", _("Subscriptions")
    help = _("Which plans a subscriber holds, held, and will hold.")
    section, icon, order = Section.CUSTOMERS, "card_membership", 25
    roles = (*_SERVICE, Role.PRODUCT)
    model = Subscription
    narrow = True
    related = ("subscriber", "plan")
    sort = ("subscriber_id", "id")
    columns = (
        Column("id"),
        Column("subscriber.external_id"),
        Column("plan.name"),
        Column("starts_at"),
        Column("ends_at"),
        Column("opened_until"),
    )
    search = (of_subscriber(),)
    search_help = _WHO


@page
class Periods(List):
    name, address, title = "periods", "periods/", _("Billing periods")
    help = _("The periods of a subscriber's plans; a bill is made when one has ended.")
    roles = _SERVICE
    model = SubscriptionPeriod
    narrow = True
    related = ("plan",)
    sort = ("subscriber_id", "subscription_id", "starts_at")
    columns = (
        Column("starts_at"),
        Column("ends_at"),
        Column("plan.name"),
        Column("turned_at"),
        Column("closed_at"),
    )
    search = (of_subscriber(),)
    search_help = _WHO


@page
class Suspensions(List):
    name, address, title = "suspensions", "suspensions/", _("Suspensions")
    help = _("When a line was suspended or frozen, and why.")
    roles = _SERVICE
    model = Suspension
    narrow = True
    sort = ("subscriber_id", "starts_at")
    columns = (Column("starts_at"), Column("ends_at"), Column("frozen"), Column("reason"))
    search = (of_subscriber(),)
    search_help = _WHO


@page
class Buckets(List):
    name, address, title = "buckets", "buckets/", _("Buckets")
    help = _("Tokens a subscriber may use, in the order in which they burn.")
    section, icon, order = Section.CUSTOMERS, "water_drop", 30
    roles = _SERVICE
    model = Bucket
    narrow = True
    related = ("subscriber",)
    sort = ("subscriber_id", "id")
    columns = (
        Column("id"),
        Column("kind"),
        Column("priority"),
        Column("granted"),
        Column("used"),
        Column("reserved"),
        Column("valid_from"),
        Column("valid_until"),
        Column("note"),
    )
    search = (of_subscriber(),)
    search_help = _WHO
    filters = (Choice("kind"),)
    hidden = frozenset({"generation"})


@page
class Entries(List):
    name, address, title = "bucket_entries", "bucket-entries/", _("Journal of tokens")
    help = _("Every movement of a subscriber's tokens; what leaves a bucket is above zero.")
    section, icon, order = Section.CUSTOMERS, "list_alt", 35
    roles = _SERVICE
    model = BucketEntry
    narrow = True
    sort = ("subscriber_id", "batch_id", "bucket_id", "kind", "charged_at")
    columns = (
        Column("charged_at"),
        Column("bucket_id"),
        Column("kind"),
        Column("units"),
        Column("batch_id"),
    )
    search = (of_subscriber(),)
    search_within = (number("bucket_id"), number("batch_id"))
    search_help = _WHO


@page
class Reservations(List):
    name, address, title = "reservations", "reservations/", _("Reservations")
    help = _("Tokens held for requests under way.")
    roles = (Role.OPERATIONS, Role.AGENT)
    model = Reservation
    narrow = True
    sort = ("subscriber_id", "gateway_id", "name")
    columns = (
        Column("name"),
        Column("state"),
        Column("created_at"),
        Column("expires_at"),
        Column("settled_at"),
    )
    search = (of_subscriber(),)
    search_within = (exact("name"),)
    search_help = _WHO
    hidden = frozenset({"commit_fingerprint", "fingerprint"})


@page
class Redemptions(List):
    name, address, title = "redemptions", "redemptions/", _("Redeemed coupons")
    help = _("Which coupons a subscriber redeemed.")
    roles = (Role.AGENT, Role.PRODUCT)
    model = Redemption
    narrow = True
    related = ("coupon",)
    sort = ("subscriber_id", "coupon_id")
    columns = (Column("coupon.code"), Column("at"), Column("first_period"))
    search = (of_subscriber(),)
    search_help = _WHO
