"""Tables of this room, one file per subject."""

from subscriptions.models.buckets import Bucket, BucketEntry, OutboxEvent
from subscriptions.models.changes import Ending, Upgrade
from subscriptions.models.coupons import Coupon, Redemption
from subscriptions.models.expected import ExpectedPeriod
from subscriptions.models.freezes import Freeze
from subscriptions.models.jobs import Job
from subscriptions.models.offerings import (
    Booster,
    Plan,
    PlanComponent,
    PlanTier,
    PlanWindow,
    RateCard,
    RateCardWeight,
)
from subscriptions.models.operators import ApiKey, Gateway, IdempotentRequest, Operator
from subscriptions.models.reservations import Reservation, ReservationName
from subscriptions.models.subscribers import (
    Subject,
    Subscriber,
    Subscription,
    SubscriptionPeriod,
    Suspension,
)
from subscriptions.models.taxes import TaxRate
from subscriptions.models.users import Access, User
from subscriptions.models.webhooks import WebhookAttempt, WebhookDelivery, WebhookEndpoint

__all__ = [
    "Access",
    "ApiKey",
    "Booster",
    "Bucket",
    "BucketEntry",
    "Coupon",
    "Ending",
    "ExpectedPeriod",
    "Freeze",
    "Gateway",
    "IdempotentRequest",
    "Job",
    "Operator",
    "OutboxEvent",
    "Plan",
    "PlanComponent",
    "PlanTier",
    "PlanWindow",
    "RateCard",
    "RateCardWeight",
    "Redemption",
    "Reservation",
    "ReservationName",
    "Subject",
    "Subscriber",
    "Subscription",
    "SubscriptionPeriod",
    "Suspension",
    "TaxRate",
    "Upgrade",
    "User",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
]
