"""The sandbox's own books. An account is a merchant, by a number that the merchant chose."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field


class Method(models.Model):
    """A card that a customer of a merchant has let the sandbox keep. Written by company.py."""

    class Behaviour(models.TextChoices):
        PAYS = "pays"
        ASKS = "asks"  # for a step with the card's issuer (3-D Secure)
        DECLINES = "declines"

    id = models.CharField(primary_key=True, max_length=40)
    account = models.BigIntegerField()
    customer = models.CharField(max_length=64)  # the merchant's name for them
    behaviour = models.CharField(max_length=8, choices=Behaviour.choices)
    brand = models.CharField(max_length=16)
    last4 = models.CharField(max_length=4)
    expires_on = models.DateField()
    created_at = models.DateTimeField()
    removed_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[Method]

    class Meta:
        indexes = [models.Index(fields=["account", "customer"], name="sandbox_method_list")]

    def __str__(self) -> str:
        return f"{self.brand} {self.last4}"


class Payment(models.Model):
    """What a merchant asked to be paid, and what became of it. Written by company.py.

    `key` is the merchant's, and asks once however often it is sent; only a payer who pays twice
    makes a second payment (`nr` 2) of it. `secret` is the address of its page.
    """

    class State(models.TextChoices):
        WAITING = "waiting"  # for the payer
        PROCESSING = "processing"  # until settles_at
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        EXPIRED = "expired"

    OPEN = (State.WAITING, State.PROCESSING)

    id = models.CharField(primary_key=True, max_length=40)
    account = models.BigIntegerField()
    key = models.CharField(max_length=64)
    nr = models.PositiveSmallIntegerField(default=1)
    secret = models.CharField(max_length=64, unique=True)
    way = models.CharField(max_length=32)
    merchant = models.CharField(max_length=200)
    order = models.CharField(max_length=64)
    customer = models.CharField(max_length=64)
    currency = models.CharField(max_length=3)
    amount = amount_field()
    refunded = amount_field(default=0)  # asked back, and not refused
    return_url = models.CharField(max_length=1000, blank=True, default="")
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    reason = models.CharField(max_length=64, blank=True, default="")
    method = models.ForeignKey(
        Method, models.PROTECT, related_name="+", null=True, blank=True, db_index=False
    )
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    settles_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[Payment]

    class Meta:
        indexes = [
            models.Index(
                fields=["account", "settles_at"],
                name="sandbox_payment_queue",
                condition=Q(state="processing"),
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["account", "key", "nr"], name="sandbox_payment_once"),
            models.CheckConstraint(name="sandbox_payment_amount", condition=Q(amount__gt=0)),
            models.CheckConstraint(
                name="sandbox_payment_refunded_within",
                condition=Q(refunded__gte=0, refunded__lte=F("amount"))
                & (Q(refunded=0) | Q(state="succeeded")),
            ),
            models.CheckConstraint(
                name="sandbox_payment_ended",
                condition=Q(state="waiting", ended_at__isnull=True, settles_at__isnull=True)
                | Q(state="processing", ended_at__isnull=True, settles_at__isnull=False)
                | Q(state__in=["succeeded", "failed", "expired"], ended_at__isnull=False),
            ),
            # What the payer began in time may settle later.
            models.CheckConstraint(
                name="sandbox_payment_paid_in_time",
                condition=~Q(state="succeeded")
                | Q(ended_at__lt=F("expires_at"))
                | Q(settles_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.id


class Refund(models.Model):
    """A part or all of a payment on its way back. Written by company.py."""

    class State(models.TextChoices):
        WAITING = "waiting"  # until settles_at
        SUCCEEDED = "succeeded"
        FAILED = "failed"

    id = models.CharField(primary_key=True, max_length=40)
    payment = models.ForeignKey(Payment, models.PROTECT, related_name="refunds")
    account = models.BigIntegerField()
    key = models.CharField(max_length=64)
    amount = amount_field()
    state = models.CharField(max_length=9, choices=State.choices, default=State.WAITING)
    reason = models.CharField(max_length=64, blank=True, default="")
    created_at = models.DateTimeField()
    settles_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[Refund]

    class Meta:
        indexes = [
            models.Index(
                fields=["account", "settles_at"],
                name="sandbox_refund_queue",
                condition=Q(state="waiting"),
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["account", "key"], name="sandbox_refund_once"),
            models.CheckConstraint(name="sandbox_refund_amount", condition=Q(amount__gt=0)),
        ]

    def __str__(self) -> str:
        return self.id


class Dispute(models.Model):
    """A payer says that a payment was not right; the sandbox decides. Written by company.py."""

    class State(models.TextChoices):
        OPEN = "open"  # the merchant may answer until due_at
        WON = "won"  # by the merchant
        LOST = "lost"

    id = models.CharField(primary_key=True, max_length=40)
    payment = models.OneToOneField(Payment, models.PROTECT, related_name="dispute")
    account = models.BigIntegerField()
    amount = amount_field()
    reason = models.CharField(max_length=64)
    state = models.CharField(max_length=4, choices=State.choices, default=State.OPEN)
    evidence = models.JSONField(default=dict)
    created_at = models.DateTimeField()
    due_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[Dispute]

    class Meta:
        constraints = [
            models.CheckConstraint(name="sandbox_dispute_amount", condition=Q(amount__gt=0)),
        ]

    def __str__(self) -> str:
        return self.id


class BalanceTransaction(models.Model):
    """What a merchant's balance with the sandbox moved by, and what for. Written by company.py."""

    class Kind(models.TextChoices):
        PAYMENT = "payment"
        REFUND = "refund"
        REFUND_FAILED = "refund_failed"
        DISPUTE = "dispute"
        DISPUTE_WON = "dispute_won"

    id = models.CharField(primary_key=True, max_length=40)
    account = models.BigIntegerField()
    kind = models.CharField(max_length=13, choices=Kind.choices)
    source = models.CharField(max_length=40)  # a payment, a refund, a dispute
    key = models.CharField(max_length=64)  # the merchant's, of the payment or the refund
    way = models.CharField(max_length=32)
    currency = models.CharField(max_length=3)
    amount = amount_field()
    fee = amount_field(default=0)
    at = models.DateTimeField()

    objects: models.Manager[BalanceTransaction]

    class Meta:
        indexes = [models.Index(fields=["account", "at"], name="sandbox_balance_list")]
        constraints = [
            models.UniqueConstraint(fields=["source", "kind"], name="sandbox_balance_once"),
        ]

    def __str__(self) -> str:
        return self.id


class Notice(models.Model):
    """Something a merchant is told, until it has taken it `copies` times. Written by notices.py.

    `body` is what is sent, byte for byte, each time.
    """

    id = models.CharField(primary_key=True, max_length=40)
    account = models.BigIntegerField()
    body = models.TextField()
    copies = models.PositiveSmallIntegerField(default=1)
    taken = models.PositiveSmallIntegerField(default=0)
    tries = models.PositiveSmallIntegerField(default=0)
    occurred_at = models.DateTimeField()  # by the merchant's clock
    next_try_at = models.DateTimeField(null=True, blank=True)  # by the wall; none: at once
    given_up = models.BooleanField(default=False)

    objects: models.Manager[Notice]

    class Meta:
        indexes = [
            models.Index(
                fields=["occurred_at"],
                name="sandbox_notice_queue",
                condition=Q(taken__lt=F("copies"), given_up=False),
            ),
        ]

    def __str__(self) -> str:
        return self.id
