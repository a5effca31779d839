"""What somebody is about to pay for, each attempt to pay it, and how its state came about."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from billing.models.providers import ProviderAccount
from subscriptions.fields import amount_field
from subscriptions.models import Booster, Operator, Plan, Subscriber


class Order(models.Model):
    """An amount that buys one thing, once: a plan, a booster, money in the wallet, an invoice.

    Its `state` goes only the ways that a trigger knows, and what it buys never changes. It can be
    paid until `expires_at`, by the operator's clock; what it buys is granted in the transaction
    that marks it paid. What a plan or booster cost is owed to the subscriber until an invoice
    names it: then (`settled_at`) `applied` of it has lowered that invoice, and the rest is
    `refunded`, which counts all that went back or is on its way. What of `applied` went back
    since is `unapplied`: a credit note says it. Written by billing/orders/keeping.py only.
    """

    class Kind(models.TextChoices):
        PLAN = "plan"
        BOOSTER = "booster"
        TOP_UP = "top_up"
        INVOICE = "invoice"
        PERIOD = "period"  # of a plan that is paid before; made by itself

    class State(models.TextChoices):
        CREATED = "created"
        WAITING = "waiting"
        PAID = "paid"
        FAILED = "failed"
        EXPIRED = "expired"
        CANCELLED = "cancelled"
        REFUNDING = "refunding"
        REFUNDED = "refunded"
        PARTLY_REFUNDED = "partly_refunded"

    # What can still be paid, and what was.
    OPEN = (State.CREATED, State.WAITING, State.FAILED)
    PAID = (State.PAID, State.REFUNDING, State.REFUNDED, State.PARTLY_REFUNDED)
    pk = models.CompositePrimaryKey("subscriber_id", "id")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="orders", db_constraint=False, db_index=False
    )
    id = models.BigIntegerField()  # from the sequence billing_order_id
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    number = models.CharField(max_length=40)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    state = models.CharField(max_length=15, choices=State.choices, default=State.CREATED)
    steps = models.PositiveSmallIntegerField(default=1)  # rows of its history
    key = models.CharField(max_length=260)  # makes ordering repeatable
    currency = models.CharField(max_length=3)
    amount = amount_field()
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    paid_at = models.DateTimeField(null=True, blank=True)
    way = models.CharField(max_length=32, blank=True, default="")  # how it was paid
    applied = amount_field(default=0)
    refunded = amount_field(default=0)
    unapplied = amount_field(default=0)
    settled_at = models.DateTimeField(null=True, blank=True)
    # What it buys; what that became is known when it is paid.
    plan = models.ForeignKey(
        Plan, models.PROTECT, related_name="+", null=True, blank=True, db_index=False
    )
    booster = models.ForeignKey(
        Booster, models.PROTECT, related_name="+", null=True, blank=True, db_index=False
    )
    invoice_id = models.BigIntegerField(null=True, blank=True)
    subscription_id = models.BigIntegerField(null=True, blank=True)
    period_start = models.DateTimeField(null=True, blank=True)
    bucket_id = models.BigIntegerField(null=True, blank=True)

    objects: models.Manager[Order]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "id"], name="order_list"),
            models.Index(
                fields=["operator", "expires_at"],
                name="order_expiry_queue",
                condition=Q(state__in=["created", "waiting", "failed"]),
            ),
            # What a close looks for: money that waits for an invoice.
            models.Index(
                fields=["operator", "subscriber_id"],
                name="order_waits_for_invoice",
                condition=Q(paid_at__isnull=False, settled_at__isnull=True)
                & ~Q(kind__in=["top_up", "invoice"]),
            ),
            models.Index(
                fields=["operator", "subscriber_id"],
                name="order_of_plan_waits",
                condition=Q(kind="plan", paid_at__isnull=False, settled_at__isnull=True),
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["operator", "number"], name="order_number_once"),
            models.UniqueConstraint(fields=["operator", "key"], name="order_once"),
            models.UniqueConstraint(
                fields=["subscriber_id", "subscription_id", "period_start"],
                name="order_pays_a_period_once",
                condition=Q(kind="period") & ~Q(state__in=["expired", "cancelled", "refunded"]),
            ),
            models.CheckConstraint(name="order_of_something", condition=Q(amount__gt=0)),
            models.CheckConstraint(
                name="order_paid_before_it_expires",
                condition=Q(paid_at__isnull=True) | Q(paid_at__lt=F("expires_at")),
            ),
            models.CheckConstraint(
                name="order_paid_in_a_way",
                condition=Q(
                    state__in=["created", "waiting", "failed", "expired", "cancelled"],
                    paid_at__isnull=True,
                    settled_at__isnull=True,
                    way="",
                    applied=0,
                    refunded=0,
                )
                | (
                    Q(state__in=["paid", "refunding", "refunded", "partly_refunded"])
                    & Q(paid_at__isnull=False)
                    & ~Q(way="")
                ),
            ),
            models.CheckConstraint(
                name="order_used_within_amount",
                condition=Q(applied__gte=0, refunded__gte=0, unapplied__gte=0)
                & Q(applied__gte=F("unapplied"))
                & Q(amount__gte=F("applied") - F("unapplied") + F("refunded")),
            ),
            models.CheckConstraint(
                name="order_refunded_is_refunded",
                condition=Q(state__in=["refunded"], refunded=F("amount"))
                | Q(state="partly_refunded", refunded__gt=0, refunded__lt=F("amount"))
                | Q(state="refunding", refunded__gt=0)
                | Q(state__in=["created", "waiting", "paid", "failed", "expired", "cancelled"])
                & Q(refunded=0),
            ),
            models.CheckConstraint(
                name="order_settled_whole",
                condition=Q(settled_at__isnull=True)
                | Q(amount=F("applied") - F("unapplied") + F("refunded")),
            ),
            models.CheckConstraint(
                name="order_names_what_it_buys",
                condition=Q(kind="plan", plan__isnull=False, booster__isnull=True)
                | Q(kind="booster", plan__isnull=True, booster__isnull=False)
                | Q(kind="top_up", plan__isnull=True, booster__isnull=True)
                | Q(
                    kind="invoice",
                    plan__isnull=True,
                    booster__isnull=True,
                    invoice_id__isnull=False,
                )
                | Q(
                    kind="period",
                    plan__isnull=False,
                    booster__isnull=True,
                    subscription_id__isnull=False,
                    period_start__isnull=False,
                ),
            ),
        ]

    def __str__(self) -> str:
        return self.number


class OrderStep(models.Model):
    """A state that an order came into, when, and why. Append-only (triggers refuse all else)."""

    pk = models.CompositePrimaryKey("subscriber_id", "order_id", "nr")
    subscriber_id = models.BigIntegerField()
    order_id = models.BigIntegerField()
    nr = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=15, choices=Order.State.choices)
    at = models.DateTimeField()
    reason = models.CharField(max_length=200, blank=True, default="")

    objects: models.Manager[OrderStep]

    def __str__(self) -> str:
        return f"{self.state} at {self.at}"


class PaymentIntent(models.Model):
    """One attempt to pay an order in one way, written before anybody outside hears of it.

    `key` is what the provider is told as its idempotency key, `reference` what it calls the
    attempt, `action` what the payer is to do. Written by billing/orders/keeping.py only.
    """

    class State(models.TextChoices):
        INTENDED = "intended"  # the provider has perhaps been told
        WAITING = "waiting"  # for the payer
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    pk = models.CompositePrimaryKey("subscriber_id", "order_id", "nr")
    subscriber_id = models.BigIntegerField()
    order_id = models.BigIntegerField()
    nr = models.PositiveSmallIntegerField()
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    way = models.CharField(max_length=32)
    account = models.ForeignKey(
        ProviderAccount, models.PROTECT, related_name="+", null=True, blank=True, db_index=False
    )  # at the provider that is asked, where one is
    method = models.CharField(max_length=255, blank=True, default="")  # a saved one
    return_url = models.CharField(max_length=2000, blank=True, default="")
    key = models.CharField(max_length=64)
    currency = models.CharField(max_length=3)
    amount = amount_field()
    state = models.CharField(max_length=9, choices=State.choices, default=State.INTENDED)
    reference = models.CharField(max_length=255, blank=True, default="")
    action = models.JSONField(default=dict)
    reason = models.CharField(max_length=200, blank=True, default="")
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    # By the wall's time: when a payer who came back had the provider asked.
    asked_at = models.DateTimeField(null=True, blank=True)
    # The provider is still to hear that it may not be paid any more.
    recall_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[PaymentIntent]

    class Meta:
        indexes = [
            # What a crash may have left open between the provider's answer and ours.
            models.Index(
                fields=["operator", "created_at"],
                name="intent_unanswered",
                condition=Q(state="intended"),
            ),
            models.Index(fields=["operator", "created_at"], name="intents_by_time"),
            models.Index(
                fields=["operator", "recall_at"],
                name="intent_recall_queue",
                condition=Q(recall_at__isnull=False),
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["operator", "key"], name="intent_once"),
            models.UniqueConstraint(
                fields=["subscriber_id", "order_id"],
                name="intent_succeeds_once",
                condition=Q(state="succeeded"),
            ),
            models.CheckConstraint(name="intent_of_something", condition=Q(amount__gt=0)),
            models.CheckConstraint(
                name="intent_ended",
                condition=Q(state__in=["intended", "waiting"], ended_at__isnull=True)
                | Q(state__in=["succeeded", "failed", "cancelled"], ended_at__isnull=False),
            ),
            models.CheckConstraint(
                name="intent_recalled_when_ended",
                condition=Q(recall_at__isnull=True)
                | Q(ended_at__isnull=False, account__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.key
