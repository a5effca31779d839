"""Ways that subscribers have saved to be charged by, and what they consented to."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from billing.models.providers import ProviderAccount
from subscriptions.models import Operator


class PaymentMethod(models.Model):
    """A card that a subscriber lets the operator charge later; its number is at the provider only.

    `consent` is the text that was agreed to, at `consent_at`. `reference` is the provider's name of
    it, once it is saved; `described` whether what people know it by (brand, last digits) is here.
    Written by billing/methods.py only.
    """

    class State(models.TextChoices):
        ASKED = "asked"  # the subscriber is typing it
        SAVED = "saved"
        REMOVED = "removed"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    account = models.ForeignKey(ProviderAccount, models.PROTECT, related_name="+", db_index=False)
    subscriber_id = models.BigIntegerField()
    key = models.CharField(max_length=64)
    state = models.CharField(max_length=7, choices=State.choices, default=State.ASKED)
    is_default = models.BooleanField(default=False)
    customer = models.CharField(max_length=100, blank=True, default="")  # the provider's
    reference = models.CharField(max_length=255, blank=True, default="")
    brand = models.CharField(max_length=32, blank=True, default="")
    last4 = models.CharField(max_length=4, blank=True, default="")
    exp_year = models.PositiveSmallIntegerField(null=True, blank=True)
    exp_month = models.PositiveSmallIntegerField(null=True, blank=True)
    described = models.BooleanField(default=False)
    consent = models.TextField()
    consent_at = models.DateTimeField()
    saved_at = models.DateTimeField(null=True, blank=True)
    removed_at = models.DateTimeField(null=True, blank=True)
    forgotten = models.BooleanField(default=False)  # the provider has heard of the removal

    objects: models.Manager[PaymentMethod]

    class Meta:
        indexes = [
            models.Index(fields=["subscriber_id", "id"], name="payment_method_list"),
            # Cards by the month that stands on them.
            models.Index(
                fields=["operator", "exp_year", "exp_month"],
                name="payment_method_expiry",
                condition=Q(state="saved"),
            ),
            # What the provider is still to be asked or told.
            models.Index(
                fields=["operator", "id"],
                name="payment_method_queue",
                condition=Q(state="saved", described=False) | Q(state="removed", forgotten=False),
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["account", "key"], name="payment_method_once"),
            models.UniqueConstraint(
                fields=["subscriber_id"],
                name="payment_method_one_default",
                condition=Q(is_default=True),
            ),
            models.CheckConstraint(
                name="payment_method_saved",
                condition=Q(state="asked", saved_at__isnull=True, is_default=False)
                | Q(state="saved", saved_at__isnull=False, removed_at__isnull=True)
                & ~Q(reference="")
                | Q(state="removed", removed_at__isnull=False, is_default=False),
            ),
            models.CheckConstraint(name="payment_method_by_consent", condition=~Q(consent="")),
        ]

    def __str__(self) -> str:
        return f"{self.brand} {self.last4}"
