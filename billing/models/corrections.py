"""By which rules corrections are made, and those that wait for a second person."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field, units_field
from subscriptions.models import Operator


class CorrectionPolicy(models.Model):
    """An operator's rules from an instant on, until its next row; none: no limit, repaid once.

    Written by billing/corrections.py only, as approvals are.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    since = models.DateTimeField()  # the operator's time
    # Above it a correction waits for approval; null: none does.
    approval_limit = amount_field(null=True, blank=True)
    # How often the operator's own over-charge is repaid: 2 is double.
    over_charge_factor = models.DecimalField(max_digits=4, decimal_places=2, default=1)
    made_by = models.CharField(max_length=100)

    objects: models.Manager[CorrectionPolicy]

    class Meta:
        indexes = [models.Index(fields=["operator", "since"], name="correction_policy_since")]
        constraints = [
            models.CheckConstraint(
                name="correction_policy_sane",
                condition=(Q(approval_limit__isnull=True) | Q(approval_limit__gte=0))
                & Q(over_charge_factor__gte=1, over_charge_factor__lte=10),
            ),
        ]

    def __str__(self) -> str:
        return f"above {self.approval_limit}, times {self.over_charge_factor}"


class Approval(models.Model):
    """A correction above the limit: nothing of it is posted before another person approves.

    Of a credit note it keeps what was asked for, and `note_id` once it is issued. Of an adjustment
    it keeps the change that a bill would have said: the bucket, what was `drawn` and `billed` of
    it; if that has changed when a bill is made, the row is superseded by another. Of a refund it
    keeps the order, where the money is to go (`to`) and, once it is made, `refund_id`. `amount` is
    what the correction is in all, with compensation: < 0 where the subscriber gets it.
    """

    class Kind(models.TextChoices):
        CREDIT_NOTE = "credit_note"
        ADJUSTMENT = "adjustment"
        REFUND = "refund"

    class State(models.TextChoices):
        PENDING = "pending"
        APPROVED = "approved"
        REJECTED = "rejected"
        SUPERSEDED = "superseded"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    kind = models.CharField(max_length=11, choices=Kind.choices)
    subscriber_id = models.BigIntegerField()
    invoice_id = models.BigIntegerField(null=True, blank=True)  # that a credit note is against
    whole = models.BooleanField(default=False)  # all that was left of it
    over_charge = models.BooleanField(default=False)  # the operator's own fault
    bucket_id = models.BigIntegerField(null=True, blank=True)  # that an adjustment is of
    drawn = units_field(null=True, blank=True)
    billed = units_field(null=True, blank=True)
    currency = models.CharField(max_length=3)
    gross = amount_field()
    amount = amount_field()
    reason = models.CharField(max_length=200)
    asked_by = models.CharField(max_length=100)  # the key's name
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

    objects: models.Manager[Approval]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "state", "id"], name="approval_list"),
            models.Index(
                fields=["subscriber_id", "bucket_id"],
                name="approval_of_bucket",
                condition=Q(bucket_id__isnull=False),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber_id", "bucket_id"],
                name="approval_pending_once",
                condition=Q(bucket_id__isnull=False, state="pending"),
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
                name="approval_of_a_note_or_an_adjustment",
                condition=Q(kind="credit_note", invoice_id__isnull=False, bucket_id__isnull=True)
                | Q(
                    kind="adjustment",
                    invoice_id__isnull=True,
                    note_id__isnull=True,
                    bucket_id__isnull=False,
                    drawn__isnull=False,
                    billed__isnull=False,
                )
                | Q(
                    kind="refund",
                    invoice_id__isnull=True,
                    note_id__isnull=True,
                    bucket_id__isnull=True,
                    order_id__isnull=False,
                    to__in=["source", "wallet"],
                ),
            ),
            models.CheckConstraint(
                name="approval_note_when_approved",
                condition=Q(kind="adjustment")
                | Q(kind="refund", state="approved", refund_id__isnull=False)
                | Q(kind="refund", refund_id__isnull=True) & ~Q(state="approved")
                | Q(kind="credit_note", state="approved", note_id__isnull=False)
                | Q(kind="credit_note", note_id__isnull=True) & ~Q(state="approved"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount}: {self.state}"
