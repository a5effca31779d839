"""Tables of this room, one file per subject."""

from subscriptions.models.buckets import Bucket, BucketEntry, OutboxEvent
from subscriptions.models.changes import Ending, Upgrade
from subscriptions.models.coupons import Coupon, Redemption
from subscriptions.models.expected import ExpectedPeriod
from subscriptions.models.families import Family, FamilyGift, FamilyInvite, FamilyMember
from subscriptions.models.freezes import Freeze
from subscriptions.models.guards import Guard, SafetyStep, UsageAlert
from subscriptions.models.jobs import Job
from subscriptions.models.notices import Channel, Notice, NoticePolicy, NoticePreference
from subscriptions.models.offerings import (
    Booster,
    Plan,
    PlanComponent,
    PlanRetirement,
    PlanTier,
    PlanWindow,
    RateCard,
    RateCardWeight,
)
from subscriptions.models.operators import ApiKey, Gateway, IdempotentRequest, Operator
from subscriptions.models.reservations import Reservation, ReservationName
from subscriptions.models.staff import AuditEntry, Role, Staff, StaffNetwork
from subscriptions.models.subscriber_keys import (
    KeyMisses,
    KeySecret,
    KeyStep,
    SubscriberKey,
)
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
    "AuditEntry",
    "Booster",
    "Bucket",
    "BucketEntry",
    "Channel",
    "Coupon",
    "Ending",
    "ExpectedPeriod",
    "Family",
    "FamilyGift",
    "FamilyInvite",
    "FamilyMember",
    "Freeze",
    "Gateway",
    "Guard",
    "IdempotentRequest",
    "Job",
    "KeyMisses",
    "KeySecret",
    "KeyStep",
    "Notice",
    "NoticePolicy",
    "NoticePreference",
    "Operator",
    "OutboxEvent",
    "Plan",
    "PlanComponent",
    "PlanRetirement",
    "PlanTier",
    "PlanWindow",
    "RateCard",
    "RateCardWeight",
    "Redemption",
    "Reservation",
    "ReservationName",
    "Role",
    "SafetyStep",
    "Staff",
    "StaffNetwork",
    "Subject",
    "Subscriber",
    "SubscriberKey",
    "Subscription",
    "SubscriptionPeriod",
    "Suspension",
    "TaxRate",
    "Upgrade",
    "UsageAlert",
    "User",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
]
