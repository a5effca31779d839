"""Complaints of subscribers, some about a line of a bill, and what was answered."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.models import Operator, Subscriber

LONGEST = 4000


class ComplaintPolicy(models.Model):
    """Within how many days an operator answers; without a row: 15. Written by
    billing/complaints.py only, as complaints are."""

    operator = models.OneToOneField(Operator, models.PROTECT, related_name="+", primary_key=True)
    reply_days = models.PositiveSmallIntegerField()

    objects: models.Manager[ComplaintPolicy]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="complaint_answered_within_two_months",
                condition=Q(reply_days__gte=1, reply_days__lte=60),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.reply_days} days"


class Complaint(models.Model):
    """What a subscriber is not content with.

    open -> answered by staff -> open again where the subscriber writes once more; closed for good.
    `due_at` is when the answer is due while it is open. Of an invoice's line there is one, ever;
    `stops_dunning` until it is answered.
    """

    class Kind(models.TextChoices):
        CHARGE = "charge"  # a line of an invoice
        USAGE = "usage"
        SERVICE = "service"
        REFUND = "refund"
        PRIVACY = "privacy"
        OTHER = "other"

    class State(models.TextChoices):
        OPEN = "open"
        ANSWERED = "answered"
        CLOSED = "closed"

    pk = models.CompositePrimaryKey("subscriber_id", "id")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    id = models.BigIntegerField()  # from the sequence billing_complaint_id
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    number = models.CharField(max_length=40)
    key = models.CharField(max_length=80)  # makes a form sent twice one complaint
    kind = models.CharField(max_length=8, choices=Kind.choices)
    invoice_id = models.BigIntegerField(null=True, blank=True)
    line = models.PositiveSmallIntegerField(null=True, blank=True)
    state = models.CharField(max_length=8, choices=State.choices, default=State.OPEN)
    stops_dunning = models.BooleanField(default=False)
    messages = models.PositiveSmallIntegerField(default=1)
    opened_at = models.DateTimeField()  # the operator's time, as all here
    due_at = models.DateTimeField()
    changed_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[Complaint]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "id"], name="complaint_list"),
            models.Index(
                fields=["operator", "due_at"], name="complaint_due", condition=Q(state="open")
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["operator", "number"], name="complaint_number_once"),
            models.UniqueConstraint(fields=["subscriber_id", "key"], name="complaint_lodged_once"),
            models.UniqueConstraint(
                fields=["subscriber_id", "invoice_id", "line"],
                name="complaint_one_of_a_line",
                condition=Q(invoice_id__isnull=False),
            ),
            models.CheckConstraint(
                name="complaint_of_a_line_names_it",
                condition=Q(kind="charge", invoice_id__isnull=False, line__isnull=False)
                | (~Q(kind="charge") & Q(invoice_id__isnull=True, line__isnull=True)),
            ),
            models.CheckConstraint(
                name="complaint_closed_has_a_time",
                condition=Q(state="closed", closed_at__isnull=False)
                | (~Q(state="closed") & Q(closed_at__isnull=True)),
            ),
            models.CheckConstraint(
                name="complaint_due_after_it_was_made", condition=Q(due_at__gt=F("opened_at"))
            ),
            models.CheckConstraint(
                name="complaint_stops_dunning_while_open",
                condition=Q(stops_dunning=False) | Q(state="open", kind="charge"),
            ),
        ]

    def __str__(self) -> str:
        return self.number


class ComplaintMessage(models.Model):
    """What was said of a complaint, by whom. Append-only (triggers refuse all else)."""

    class By(models.TextChoices):
        SUBSCRIBER = "subscriber"
        STAFF = "staff"

    pk = models.CompositePrimaryKey("subscriber_id", "complaint_id", "nr")
    subscriber_id = models.BigIntegerField()
    complaint_id = models.BigIntegerField()
    nr = models.PositiveSmallIntegerField()
    by = models.CharField(max_length=10, choices=By.choices)
    author = models.CharField(max_length=100)  # of staff; else how it came in
    text = models.TextField(max_length=LONGEST)
    at = models.DateTimeField()

    objects: models.Manager[ComplaintMessage]

    def __str__(self) -> str:
        return f"{self.by} at {self.at}"
