"""Money that subscribers have with an operator before anything is bought with it."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field
from subscriptions.models import Operator


class Wallet(models.Model):
    """What a subscriber has in one currency; made when money first goes in.

    Invariant: `balance` = the sum of the wallet's movements = what the ledger's account `wallet`
    owes the subscriber, and never below zero. Written by billing/wallets.py only.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "currency")
    subscriber_id = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    balance = amount_field(default=0)
    movements = models.PositiveIntegerField(default=0)

    objects: models.Manager[Wallet]

    class Meta:
        constraints = [
            models.CheckConstraint(name="wallet_never_negative", condition=Q(balance__gte=0)),
        ]

    def __str__(self) -> str:
        return f"{self.balance} {self.currency}"


class WalletMovement(models.Model):
    """A line of a wallet's statement: `amount` > 0 went in, < 0 went out, `balance` was there then.

    `key` makes it happen once. Append-only (triggers refuse all else).
    """

    class Kind(models.TextChoices):
        TOP_UP = "top_up"
        PAYMENT = "payment"
        REFUND = "refund"
        PAYOUT = "payout"  # back to where it came from, or held for a dispute

    pk = models.CompositePrimaryKey("subscriber_id", "currency", "nr")
    subscriber_id = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    nr = models.PositiveIntegerField()
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    kind = models.CharField(max_length=8, choices=Kind.choices)
    amount = amount_field()
    balance = amount_field()
    key = models.CharField(max_length=128)
    at = models.DateTimeField()
    note = models.CharField(max_length=200, blank=True, default="")  # what it was for

    objects: models.Manager[WalletMovement]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber_id", "currency", "key"], name="wallet_moved_once"
            ),
            models.CheckConstraint(
                name="wallet_movement_of_something", condition=~Q(amount=0) & Q(balance__gte=0)
            ),
            models.CheckConstraint(
                name="wallet_movement_goes_its_way",
                condition=Q(kind__in=["payment", "payout"], amount__lt=0)
                | Q(kind__in=["top_up", "refund"], amount__gt=0),
            ),
            models.CheckConstraint(
                name="wallet_movement_follows",
                condition=Q(balance__gte=F("amount")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"
