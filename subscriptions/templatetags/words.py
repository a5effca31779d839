"""States and kinds, as rows hold them, in words for people."""

from __future__ import annotations

from django import template
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from subscriptions.users import devices

register = template.Library()

_WORDS: dict[str, str | Promise] = {
    # states
    "open": pgettext_lazy("state", "Open"),
    "paid": _("Paid"),
    "void": _("Void"),
    "uncollectible": _("Written off"),
    "draft": _("Draft"),
    "created": _("Not paid yet"),
    "waiting": _("Waiting"),
    "failed": _("Failed"),
    "expired": _("Expired"),
    "cancelled": _("Cancelled"),
    "refunding": _("Being refunded"),
    "refunded": _("Refunded"),
    "partly_refunded": _("Partly refunded"),
    "sent": _("Sent"),
    "dropped": _("Not sent"),
    "delivered": _("Delivered"),
    "suspended": _("Suspended"),
    "frozen": _("Frozen"),
    "released": _("Released"),
    "confirmed": _("Confirmed"),
    "dismissed": _("Dismissed"),
    "differs": _("Differs"),
    "closed": _("Closed"),
    "counted": _("The gateway told its totals"),
    "asked": _("Asked for again"),
    "late": _("Usage came when it was closed"),
    "reopened": _("Opened again"),
    "checking": _("Being checked"),
    "checked": _("Checked"),
    "applying": _("Being applied"),
    "done": _("Done"),
    "working": _("Being written"),
    "pending": _("Waits for approval"),
    "rejected": _("Rejected"),
    "made": _("Made, not sold"),
    "activated": _("Sold"),
    "redeemed": _("Redeemed"),
    "answered": _("Answered"),
    "charged": _("Charged"),
    "duplicate": _("Was charged before"),
    # kinds
    "allowance": _("Allowance"),
    "booster": _("Booster"),
    "gift": _("Gift"),
    "rollover": _("Carried over"),
    "overage": _("Overage"),
    "uncovered": _("Not covered"),
    "plan": _("Plan"),
    "period": _("Period"),
    "top_up": _("Top-up"),
    "invoice": _("Invoice"),
    "bill": _("High bill"),
    "velocity": _("Sudden usage"),
    "networks": _("Many networks"),
    "end_users": _("Resale"),
    "always_busy": _("Never idle"),
    "transfer": _("Transfer"),
    "recycle": _("Recycling"),
    "merge": _("Merger"),
    "subscribers": _("Subscribers"),
    "coupons": _("Coupons"),
    "vouchers": _("Vouchers"),
    "email": _("E-mail"),
    "sms": _("Text message"),
    "hotline": _("Hotline"),
    "portal": _("Portal"),
    "keep": _("It stays where it is"),
    "move": _("It moves along"),
    "forfeit": _("It is forfeited"),
    "alipay": _("Alipay"),
    "wechat_pay": _("WeChat Pay"),
    "card": _("Card"),
    "bank": _("Bank transfer"),
    "wallet": _("Wallet"),
    "phone_bill": _("Phone bill"),
    # what happened
    "bucket.threshold": _("Tokens used up to a mark"),
    "bucket.exhausted": _("Tokens used up"),
    "bucket.expiring": _("Tokens expire soon"),
    "overage.started": _("Overage began"),
    "bill.abnormal": _("Abnormal bill"),
    "invoice.issued": _("Invoice issued"),
    "invoice.paid": _("Invoice paid"),
    "invoice.reminder": _("Reminder of a debt"),
    "invoice.payment_failed": _("Collecting an invoice failed"),
    "complaint.opened": _("Complaint made"),
    "complaint.answered": _("Complaint answered"),
    "order.paid": _("Order paid"),
    "order.failed": _("Order failed"),
    "order.refunded": _("Order refunded"),
    "refund.failed": _("Refund failed"),
    "dispute.inquiry": _("Payment asked about"),
    "dispute.opened": _("Dispute opened"),
    "dispute.closed": _("Dispute closed"),
    "wallet.topped_up": _("Wallet topped up"),
    "wallet.low": _("Wallet low"),
    "wallet.auto_top_up_off": _("Automatic top-up switched off"),
    "method.expiring": _("Card expires soon"),
    "usage.alert": _("Own alert of usage"),
    "family.invited": _("Invited into a family"),
    "family.joined": _("Joined a family"),
    "family.removed": _("Left a family"),
    "family.gift": _("Units given within a family"),
    "subscription.suspended": _("Line suspended"),
    "subscription.restored": _("Line restored"),
    "subscription.plan_changed": _("Plan changed"),
    "subscription.renewal_due": _("Renewal comes"),
    "subscription.renewed": _("Renewed"),
    "subscription.ended": _("Plan ended"),
    # why a record was not charged
    "unknown_subject": _("The number belongs to nobody"),
    "unknown_model": _("No rate card has this model"),
    "too_old": _("It is too old"),
    "too_early": _("It is in the future"),
    "invalid": _("It breaks a rule of the format"),
    "malformed": _("It cannot be read"),
    "no_plan": _("Nobody has a plan for it"),
    "conflicting": _("Its id is that of another record"),
    "conflict": _("Its id is that of another record"),
    "out_of_window": _("Too old or in the future"),
    "invalid_record": _("It breaks a rule of the format"),
    "no_usage": _("No usage in it"),
    "too_large": _("Too large"),
    # why money fits nothing
    "unknown_order": _("No order of ours is named"),
    "other_account": _("Paid through another account"),
    "other_currency": _("Paid in another currency"),
    "other_amount": _("Another amount was paid"),
    "two_amounts": _("Told with two amounts"),
    "order_paid": _("Its order was paid already"),
    "order_expired": _("Its order had expired"),
    "order_closed": _("Its order is closed"),
    "event_failed": _("A notice could not be worked"),
    "nothing_due": _("Nothing is due"),
    "overpaid": _("More than is due"),
}
_GOOD = {"paid", "sent", "delivered", "done", "charged", "closed", "activated", "redeemed"}
_BAD = {"failed", "void", "uncollectible", "frozen", "rejected", "differs", "pending", "confirmed"}


@register.filter
def word(code: str) -> str:
    """`partly_refunded` -> `Partly refunded`; what nobody has a word for stays as it is."""
    return str(_WORDS.get(code, code))


@register.filter
def tone(code: str) -> str:
    """The class of a badge that says this."""
    if code in _GOOD:
        return "work-badge-good"
    return "work-badge-bad" if code in _BAD else ""


@register.filter
def device(user_agent: str) -> str:
    """`Chrome 126, Android`."""
    return devices.named(user_agent)
