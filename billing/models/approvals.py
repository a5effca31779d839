"""What waits until a second person has looked."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field, units_field
from subscriptions.models import Operator

_OF_ITS_KIND = {
    "credit_note": Q(invoice_id__isnull=False, bucket_id__isnull=True),
    "adjustment": Q(
        invoice_id__isnull=True,
        note_id__isnull=True,
        bucket_id__isnull=False,
        drawn__isnull=False,
        billed__isnull=False,
    ),
    "refund": Q(
        invoice_id__isnull=True,
        note_id__isnull=True,
        bucket_id__isnull=True,
        order_id__isnull=False,
        to__in=["source", "wallet"],
    ),
    "units": Q(units__gt=0, until__isnull=False),
    "money": Q(amount__lt=0),
    "write_off": Q(invoice_id__isnull=False, amount__lt=0),
}
# Of a row elsewhere, which knows what is to be done.
ABOUT = ("difference", "handover", "price", "rerating")
# Of what is bought or used by nobody in particular.
_OF_NOBODY = ("difference", "price", "rerating")


def _of_its_kind() -> Q:
    found = Q(kind__in=ABOUT, about_id__isnull=False)
    for kind, condition in _OF_ITS_KIND.items():
        found |= Q(kind=kind, about_id__isnull=True) & condition
    return found


def _made_when_approved() -> Q:
    """Where something is made, the row names it."""
    made = {"credit_note": "note_id", "refund": "refund_id", "units": "made_id", "money": "made_id"}
    found = ~Q(kind__in=list(made))
    for kind, column in made.items():
        found |= Q(kind=kind, state="approved", **{f"{column}__isnull": False})
        found |= Q(kind=kind, **{f"{column}__isnull": True}) & ~Q(state="approved")
    return found


class Approval(models.Model):
    """What is above the operator's limit: nothing of it is done before another person approves.

    It keeps what was asked for and in `effect` the numbers that whoever decides has to see. Of a
    credit note and a write-off that is the invoice; of an adjustment the change that a bill would
    have said: the bucket, what was `drawn` and `billed` of it; if that has changed when a bill is
    made, the row is superseded by another. Of a refund it is the order and where the money is to
    go (`to`), of a gift the `units` or the amount and `until` when. All else is `about` a row of
    its own: a difference of a provider's books, a handover, a draft of prices, a re-rating.
    `amount` is all of it, with compensation: < 0 where the subscriber gets it. What was made is
    `note_id`, `refund_id` or `made_id`: the gift's bucket, or the movement of the wallet.

    Decided once, by another than who asked. Written by billing/approvals.py only.
    """

    class Kind(models.TextChoices):
        CREDIT_NOTE = "credit_note"
        ADJUSTMENT = "adjustment"
        REFUND = "refund"
        UNITS = "units"  # given by hand
        MONEY = "money"  # given by hand, into the wallet
        WRITE_OFF = "write_off"  # of what is due on an invoice
        DIFFERENCE = "difference"  # of a provider's books, written off
        HANDOVER = "handover"
        PRICE = "price"  # a version of a plan or rate card
        RERATING = "rerating"

    class State(models.TextChoices):
        PENDING = "pending"
        APPROVED = "approved"
        REJECTED = "rejected"
        SUPERSEDED = "superseded"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    kind = models.CharField(max_length=11, choices=Kind.choices)
    subscriber_id = models.BigIntegerField(null=True, blank=True)
    invoice_id = models.BigIntegerField(null=True, blank=True)
    whole = models.BooleanField(default=False)  # all that was left of it
    over_charge = models.BooleanField(default=False)  # the operator's own fault
    bucket_id = models.BigIntegerField(null=True, blank=True)  # that an adjustment is of
    drawn = units_field(null=True, blank=True)
    billed = units_field(null=True, blank=True)
    about_id = models.BigIntegerField(null=True, blank=True)
    units = units_field(null=True, blank=True)
    until = models.DateTimeField(null=True, blank=True)
    currency = models.CharField(max_length=3)
    gross = amount_field(default=0)
    amount = amount_field(default=0)
    effect = models.JSONField(default=dict)
    reason = models.CharField(max_length=500)
    asked_by = models.CharField(max_length=100)  # the key's name, or a member of staff
    asked_at = models.DateTimeField()  # the operator's time
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    decided_by = models.CharField(max_length=100, blank=True, default="")
    decided_at = models.DateTimeField(null=True, blank=True)
    decision = models.CharField(max_length=200, blank=True, default="")  # why so
    note_id = models.BigIntegerField(null=True, blank=True)
    order_id = models.BigIntegerField(null=True, blank=True)  # that a refund is of
    to = models.CharField(max_length=6, blank=True, default="")
    once = models.CharField(max_length=280, blank=True, default="")  # makes asking repeatable
    refund_id = models.BigIntegerField(null=True, blank=True)
    made_id = models.BigIntegerField(null=True, blank=True)

    objects: models.Manager[Approval]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "state", "id"], name="approval_list"),
            models.Index(
                fields=["subscriber_id", "bucket_id"],
                name="approval_of_bucket",
                condition=Q(bucket_id__isnull=False),
            ),
            models.Index(
                fields=["kind", "about_id"],
                name="approval_about",
                condition=Q(about_id__isnull=False),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber_id", "bucket_id"],
                name="approval_pending_once",
                condition=Q(bucket_id__isnull=False, state="pending"),
            ),
            models.UniqueConstraint(
                fields=["kind", "about_id"],
                name="approval_pending_once_about",
                condition=Q(about_id__isnull=False, state="pending"),
            ),
            models.UniqueConstraint(
                fields=["operator", "once"],
                name="approval_asked_once",
                condition=~Q(once=""),
            ),
            models.CheckConstraint(
                name="approval_decided_by_another",
                condition=Q(state="pending", decided_by="", decided_at__isnull=True)
                | Q(state="superseded", decided_by="", decided_at__isnull=False)
                | Q(state__in=["approved", "rejected"], decided_at__isnull=False)
                & ~Q(decided_by="")
                & ~Q(decision="")
                & ~Q(decided_by=F("asked_by")),
            ),
            models.CheckConstraint(
                name="approval_of_somebody",
                condition=Q(kind__in=_OF_NOBODY) | Q(subscriber_id__isnull=False),
            ),
            models.CheckConstraint(name="approval_of_its_kind", condition=_of_its_kind()),
            models.CheckConstraint(
                name="approval_made_when_approved", condition=_made_when_approved()
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}: {self.state}"
