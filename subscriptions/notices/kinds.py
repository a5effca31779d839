"""What subscribers are told of, and what they cannot decline."""

from __future__ import annotations

KINDS = (
    "bucket.threshold",
    "bucket.expiring",
    "usage.alert",
    "overage.started",
    "bill.abnormal",
    "invoice.reminder",
    "invoice.payment_failed",
    "method.expiring",
    "complaint.answered",
    "subscription.renewal_due",
    "subscription.suspended",
    "subscription.restored",
    "subscription.ended",
    "family.invited",
    "family.joined",
    "family.removed",
    "family.gift",
)
# Rules on telecom services want the subscriber to know, whatever it wished: that usage costs extra
# from now on and how much, a bill out of all proportion at once, what leads to a suspension before
# it does, the suspension itself, and a renewal five days ahead.
REQUIRED = frozenset(
    {
        "overage.started",
        "bill.abnormal",
        "invoice.reminder",
        "invoice.payment_failed",
        "subscription.renewal_due",
        "subscription.suspended",
        "subscription.ended",
    }
)
DECLINABLE = tuple(kind for kind in KINDS if kind not in REQUIRED)
