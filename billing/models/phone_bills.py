"""What the phone bill carries of orders, and what the carrier said of it."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field
from subscriptions.models import Operator


class PhoneBillCharge(models.Model):
    """An order that was paid by putting it on the phone bill: the carrier owes it to the operator
    from then on.

    `sequence` and `nr` are its line in a charge file, set once; all else never changes (triggers
    refuse it). Written by billing/phone_bills.py only.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "order_id")
    subscriber_id = models.BigIntegerField()
    order_id = models.BigIntegerField()
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    at = models.DateTimeField()
    currency = models.CharField(max_length=3)
    amount = amount_field()
    msisdn = models.CharField(max_length=32)  # as it was then
    external_id = models.CharField(max_length=128)
    sequence = models.PositiveIntegerField(null=True, blank=True)
    nr = models.PositiveIntegerField(null=True, blank=True)

    objects: models.Manager[PhoneBillCharge]

    class Meta:
        indexes = [
            models.Index(
                fields=["operator", "at"],
                name="phone_bill_to_be_told",
                condition=Q(sequence__isnull=True),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["operator", "sequence", "nr"], name="phone_bill_charge_in_its_place"
            ),
            models.CheckConstraint(
                name="phone_bill_charge_of_something",
                condition=Q(amount__gt=0)
                & (Q(sequence__isnull=True, nr__isnull=True) | Q(sequence__gte=1, nr__gte=1)),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount} {self.currency} of order {self.order_id}"


class PhoneBillAnswer(models.Model):
    """What the carrier said of a charge, once: it has collected it, or rejects it.

    A rejected one is a debt again: what no invoice had named yet (`unnamed`) is asked for by the
    invoice to come, what an invoice had taken is `owed` on it again, what had gone into the wallet
    is taken `from_wallet`, as far as it is there; the rest is `lost`. Append-only (triggers refuse
    all else). Written by billing/phone_bills.py only.
    """

    class Kind(models.TextChoices):
        COLLECTED = "collected"
        REJECTED = "rejected"

    pk = models.CompositePrimaryKey("subscriber_id", "order_id")
    subscriber_id = models.BigIntegerField()
    order_id = models.BigIntegerField()
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    kind = models.CharField(max_length=9, choices=Kind.choices)
    at = models.DateTimeField()
    reason = models.CharField(max_length=200, blank=True, default="")
    amount = amount_field()
    unnamed = amount_field(default=0)
    owed = amount_field(default=0)
    from_wallet = amount_field(default=0)
    lost = amount_field(default=0)

    objects: models.Manager[PhoneBillAnswer]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="phone_bill_answer_says_all",
                condition=Q(
                    kind="collected", unnamed=0, owed=0, from_wallet=0, lost=0, amount__gt=0
                )
                | Q(
                    kind="rejected",
                    unnamed__gte=0,
                    owed__gte=0,
                    from_wallet__gte=0,
                    lost__gte=0,
                    amount=F("unnamed") + F("owed") + F("from_wallet") + F("lost"),
                )
                & ~Q(reason=""),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount}"
