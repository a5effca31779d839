"""An operator's accounts at payment providers, what these tell, and the money they took for us."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field
from subscriptions.models import Operator


class ProviderAccount(models.Model):
    """An account at a provider that an operator has, or had: `ended_at` then, for what was paid
    through it is refunded through it.

    `public_id` stands in the address that its notices come to. Written by billing/ways/accounts.py
    only.
    """

    class Provider(models.TextChoices):
        STRIPE = "stripe"
        SANDBOX = "sandbox"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    provider = models.CharField(max_length=16, choices=Provider.choices)
    public_id = models.CharField(max_length=32, unique=True)
    name = models.CharField(max_length=100, blank=True, default="")  # the provider's own name of it
    live = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    # So long what it tells is kept as it came; then its digest and ids are.
    notices_kept_days = models.PositiveSmallIntegerField(default=180)

    objects: models.Manager[ProviderAccount]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["operator", "provider"],
                name="provider_account_one_at_a_time",
                condition=Q(ended_at__isnull=True),
            ),
            models.CheckConstraint(
                name="provider_account_notices_kept", condition=Q(notices_kept_days__gte=30)
            ),
            models.CheckConstraint(
                name="provider_account_sandbox_is_no_money",
                condition=~Q(provider="sandbox", live=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.name}"


class ProviderSecret(models.Model):
    """A secret of an account, sealed; several of a kind are valid while they are rotated.

    Written by billing/ways/accounts.py only.
    """

    class Kind(models.TextChoices):
        API = "api"
        WEBHOOK = "webhook"

    account = models.ForeignKey(ProviderAccount, models.PROTECT, related_name="secrets")
    kind = models.CharField(max_length=7, choices=Kind.choices)
    sealed = models.TextField()
    hint = models.CharField(max_length=4, blank=True, default="")  # its end, to tell it by
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[ProviderSecret]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="provider_secret_valid_for_a_time",
                condition=Q(valid_until__isnull=True) | Q(valid_until__gte=F("valid_from")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} …{self.hint}"


class ProviderEvent(models.Model):
    """The inbox: a verified notice of a provider, its bytes as they came, once by its id.

    `id` is the order of arrival. `next_try_at` is when it is worked next; none: never again by
    itself. Past its time the body is emptied, and `digest` (SHA-256) says which it was. Written by
    billing/inbox.py only.
    """

    class State(models.TextChoices):
        NEW = "new"
        DONE = "done"
        IGNORED = "ignored"  # it concerns nothing here
        FAILED = "failed"  # `reason` says why; tried again while `next_try_at` is set

    account = models.ForeignKey(
        ProviderAccount, models.PROTECT, related_name="events", db_index=False
    )
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    event_id = models.CharField(max_length=255)
    kind = models.CharField(max_length=100)  # in the provider's words
    body = models.BinaryField()
    digest = models.CharField(  # of a body that is emptied
        max_length=64, blank=True, default="", db_default=""
    )
    received_at = models.DateTimeField()
    state = models.CharField(max_length=7, choices=State.choices, default=State.NEW)
    reason = models.CharField(max_length=200, blank=True, default="")
    attempts = models.PositiveSmallIntegerField(default=0)
    next_try_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[ProviderEvent]

    class Meta:
        indexes = [
            models.Index(
                fields=["operator", "next_try_at"],
                name="provider_event_queue",
                condition=Q(next_try_at__isnull=False),
            ),
            models.Index(
                fields=["account", "received_at"],
                name="provider_event_whole",
                condition=Q(next_try_at__isnull=True, digest=""),
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["account", "event_id"], name="provider_event_once"),
            models.CheckConstraint(
                name="provider_event_body_or_digest",
                condition=Q(digest="") & ~Q(body=b"") | ~Q(digest="") & Q(body=b""),
            ),
            models.CheckConstraint(
                name="provider_event_ends",
                condition=Q(state="new", next_try_at__isnull=False, ended_at__isnull=True)
                | Q(
                    state__in=["done", "ignored"],
                    next_try_at__isnull=True,
                    ended_at__isnull=False,
                )
                | Q(state="failed", ended_at__isnull=True) & ~Q(reason=""),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.event_id}"


class ProviderPayment(models.Model):
    """Money that a provider says it took for the operator, once by the provider's own reference,
    however often and in whatever way it is told; and what it became here.

    Never changes but for an unclear one that staff have resolved (a trigger refuses the rest).
    Written by billing/receiving.py only.
    """

    class Became(models.TextChoices):
        GRANTED = "granted"  # what its order buys
        WALLET = "wallet"  # of its subscriber
        UNCLEAR = "unclear"  # in no book: staff see it and say what it is
        RETURNED = "returned"  # it was unclear, and went back
        SETTLED = "settled"  # it was unclear, and staff saw to it elsewhere

    account = models.ForeignKey(
        ProviderAccount, models.PROTECT, related_name="payments", db_index=False
    )
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    reference = models.CharField(max_length=255)
    way = models.CharField(max_length=32)
    key = models.CharField(max_length=64, blank=True, default="")  # the attempt, as it was told
    currency = models.CharField(max_length=3)
    amount = amount_field()
    at = models.DateTimeField()
    became = models.CharField(max_length=8, choices=Became.choices)
    subscriber_id = models.BigIntegerField(null=True, blank=True)
    order_id = models.BigIntegerField(null=True, blank=True)

    objects: models.Manager[ProviderPayment]

    class Meta:
        indexes = [models.Index(fields=["operator", "at"], name="provider_payment_list")]
        constraints = [
            models.UniqueConstraint(fields=["account", "reference"], name="provider_payment_once"),
            models.UniqueConstraint(
                fields=["subscriber_id", "order_id"],
                name="provider_payment_grants_once",
                condition=Q(became="granted"),
            ),
            models.CheckConstraint(
                name="provider_payment_of_somebody",
                condition=~Q(became__in=["granted", "wallet"])
                | Q(subscriber_id__isnull=False, amount__gt=0),
            ),
            models.CheckConstraint(
                name="provider_payment_grants_an_order",
                condition=~Q(became="granted") | Q(order_id__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.reference


class PaymentTask(models.Model):
    """Something about a payment that only staff can decide; nothing happens until they do.

    `cause` is for machines, `detail` for people. Written by billing/receiving.py only.
    """

    class State(models.TextChoices):
        OPEN = "open"
        RETURNING = "returning"  # staff had it refunded; the provider has not said that it is
        RESOLVED = "resolved"

    class Action(models.TextChoices):
        WALLET = "wallet"
        REFUND = "refund"
        NOTE = "note"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    payment = models.OneToOneField(
        ProviderPayment,
        models.PROTECT,
        related_name="task",
        null=True,
        blank=True,
        db_constraint=False,
    )
    event = models.OneToOneField(
        ProviderEvent, models.PROTECT, related_name="task", null=True, blank=True
    )
    cause = models.CharField(max_length=40)
    detail = models.CharField(max_length=500)
    created_at = models.DateTimeField()
    state = models.CharField(max_length=9, choices=State.choices, default=State.OPEN)
    action = models.CharField(max_length=6, choices=Action.choices, blank=True, default="")
    note = models.CharField(max_length=500, blank=True, default="")
    resolved_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[PaymentTask]

    class Meta:
        indexes = [models.Index(fields=["operator", "id"], name="payment_task_list")]
        constraints = [
            models.CheckConstraint(
                name="payment_task_resolved",
                condition=Q(state="open", action="", resolved_at__isnull=True)
                | Q(state="returning", action="refund", resolved_at__isnull=True)
                | Q(state="resolved", resolved_at__isnull=False) & ~Q(action=""),
            ),
        ]

    def __str__(self) -> str:
        return self.cause
