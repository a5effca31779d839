"""Money that goes back, and money that somebody's bank takes back."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from subscriptions.fields import amount_field, units_field
from subscriptions.models import Operator, Subscriber


class Refund(models.Model):
    """A part or all of what an order paid, on its way back: to where it came from, or a wallet.

    Written, with what follows from it here, before anybody outside hears of it; `key` is what the
    provider is told as its idempotency key, and changes with each of the `tries`. While it is
    pending or failed its money stands on the ledger's account `refund`, and `units` are frozen.
    `fund` is where the money was: `note_id` names the credit note that says it. What is asked for
    never changes, and states go only the ways that a trigger knows. Written by billing/refunds.py
    only.
    """

    class To(models.TextChoices):
        SOURCE = "source"
        WALLET = "wallet"

    class Fund(models.TextChoices):
        PREPAID = "prepaid"  # no invoice has named it yet
        CREDIT_NOTE = "credit_note"
        WALLET = "wallet"

    class Rule(models.TextChoices):
        FULL = "full"
        UNUSED = "unused"  # pro rata of what is unused
        BALANCE = "balance"  # what is still in the wallet
        CREDIT = "credit"  # what a credit note has left

    class State(models.TextChoices):
        PENDING = "pending"
        SUCCEEDED = "succeeded"
        FAILED = "failed"  # staff decide: again, to the wallet, or not at all
        CANCELLED = "cancelled"

    pk = models.CompositePrimaryKey("subscriber_id", "id")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    id = models.BigIntegerField()  # from the sequence billing_refund_id
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    number = models.CharField(max_length=40)
    order_id = models.BigIntegerField()
    once = models.CharField(max_length=280)  # makes asking repeatable
    currency = models.CharField(max_length=3)
    amount = amount_field()
    to = models.CharField(max_length=6, choices=To.choices)
    way = models.CharField(max_length=32)  # how it goes back
    fund = models.CharField(max_length=11, choices=Fund.choices)
    rule = models.CharField(max_length=7, choices=Rule.choices)
    bucket_id = models.BigIntegerField(null=True, blank=True)
    units = units_field(default=0)
    note_id = models.BigIntegerField(null=True, blank=True)
    reason = models.CharField(max_length=200)
    asked_by = models.CharField(max_length=100)
    state = models.CharField(max_length=9, choices=State.choices, default=State.PENDING)
    steps = models.PositiveSmallIntegerField(default=1)  # rows of its history
    tries = models.PositiveSmallIntegerField(default=1)
    key = models.CharField(max_length=64)
    reference = models.CharField(max_length=255, blank=True, default="")
    problem = models.CharField(max_length=200, blank=True, default="")  # for staff to look at
    asked_at = models.DateTimeField()
    look_at = models.DateTimeField(null=True, blank=True)  # when the provider is asked (again)
    looks = models.PositiveSmallIntegerField(default=0)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[Refund]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "id"], name="refund_list"),
            models.Index(fields=["subscriber_id", "order_id"], name="refund_of_order"),
            models.Index(
                fields=["operator", "look_at"],
                name="refund_queue",
                condition=Q(state="pending"),
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["operator", "number"], name="refund_number_once"),
            models.UniqueConstraint(fields=["operator", "once"], name="refund_once"),
            models.UniqueConstraint(fields=["operator", "key"], name="refund_tried_once"),
            models.CheckConstraint(
                name="refund_of_something", condition=Q(amount__gt=0, units__gte=0)
            ),
            models.CheckConstraint(
                name="refund_ended",
                condition=Q(state="pending", ended_at__isnull=True, look_at__isnull=False)
                | Q(state="failed", ended_at__isnull=True, look_at__isnull=True)
                | Q(
                    state__in=["succeeded", "cancelled"],
                    ended_at__isnull=False,
                    look_at__isnull=True,
                ),
            ),
            models.CheckConstraint(
                name="refund_goes_somewhere",
                condition=Q(to="source") & ~Q(way="") | Q(to="wallet", way="wallet"),
            ),
            models.CheckConstraint(
                name="refund_of_a_note_names_it",
                condition=~Q(fund="credit_note") | Q(note_id__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.number


class RefundStep(models.Model):
    """A state that a refund came into, when, why and by whom. Append-only (triggers refuse all
    else)."""

    pk = models.CompositePrimaryKey("subscriber_id", "refund_id", "nr")
    subscriber_id = models.BigIntegerField()
    refund_id = models.BigIntegerField()
    nr = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=9, choices=Refund.State.choices)
    at = models.DateTimeField()
    reason = models.CharField(max_length=200, blank=True, default="")
    reference = models.CharField(max_length=255, blank=True, default="")

    objects: models.Manager[RefundStep]

    def __str__(self) -> str:
        return f"{self.state} at {self.at}"


class Dispute(models.Model):
    """A payment that its payer's bank takes back, until it is decided whose the money is.

    While it is open the provider holds `amount` (the ledger's account `disputed`), what the order
    granted is frozen, and `held` of a top-up is taken out of the wallet. An `inquiry` asks before
    anything is taken: it moves nothing, and is withdrawn or becomes a dispute. Written by
    billing/disputes.py only.
    """

    class State(models.TextChoices):
        INQUIRY = "inquiry"
        WITHDRAWN = "withdrawn"
        OPENED = "opened"
        UNDER_REVIEW = "under_review"
        WON = "won"
        LOST = "lost"

    OPEN = (State.OPENED, State.UNDER_REVIEW)
    TAKEN = (*OPEN, State.LOST)  # the provider has the money
    UNDECIDED = (State.INQUIRY, *OPEN)
    pk = models.CompositePrimaryKey("subscriber_id", "id")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    id = models.BigIntegerField()  # from the sequence billing_refund_id
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    number = models.CharField(max_length=40)
    order_id = models.BigIntegerField()
    way = models.CharField(max_length=32)
    reference = models.CharField(max_length=255)  # the provider's own name for it
    currency = models.CharField(max_length=3)
    amount = amount_field()
    fee = amount_field(default=0)  # what the provider takes for it
    held = amount_field(default=0)
    reason = models.CharField(max_length=64, blank=True, default="")
    state = models.CharField(max_length=12, choices=State.choices, default=State.OPENED)
    steps = models.PositiveSmallIntegerField(default=1)
    due_by = models.DateTimeField(null=True, blank=True)
    evidence = models.JSONField(default=dict)
    submitted_at = models.DateTimeField(null=True, blank=True)
    sent_at = models.DateTimeField(null=True, blank=True)  # the provider has it
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[Dispute]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "id"], name="dispute_list"),
            models.Index(fields=["subscriber_id", "order_id"], name="dispute_of_order"),
            models.Index(
                fields=["operator", "id"],
                name="dispute_open",
                condition=Q(state__in=["inquiry", "opened", "under_review"]),
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["operator", "number"], name="dispute_number_once"),
            models.UniqueConstraint(
                fields=["operator", "way", "reference"], name="dispute_opened_once"
            ),
            models.CheckConstraint(
                name="dispute_of_something", condition=Q(amount__gt=0, fee__gte=0, held__gte=0)
            ),
            models.CheckConstraint(
                name="dispute_closed",
                condition=Q(state__in=["inquiry", "opened", "under_review"], closed_at__isnull=True)
                | Q(state__in=["won", "lost", "withdrawn"], closed_at__isnull=False),
            ),
            models.CheckConstraint(
                name="dispute_inquiry_holds_nothing",
                condition=~Q(state__in=["inquiry", "withdrawn"]) | Q(held=0),
            ),
        ]

    def __str__(self) -> str:
        return self.number


class DisputeStep(models.Model):
    """A state that a dispute came into. Append-only (triggers refuse all else)."""

    pk = models.CompositePrimaryKey("subscriber_id", "dispute_id", "nr")
    subscriber_id = models.BigIntegerField()
    dispute_id = models.BigIntegerField()
    nr = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=12, choices=Dispute.State.choices)
    at = models.DateTimeField()
    reason = models.CharField(max_length=200, blank=True, default="")

    objects: models.Manager[DisputeStep]

    def __str__(self) -> str:
        return f"{self.state} at {self.at}"
