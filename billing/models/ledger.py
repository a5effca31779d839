"""Money as it moves: double entry, append-only, per operator."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from subscriptions.fields import amount_field
from subscriptions.models import Operator


class Account(models.Model):
    """A line of an operator's chart of accounts, in one currency; made when first posted to.

    `code` says what for: `receivable`, `revenue:light:0.06`, `vat:0.06`, `cash:alipay`, … Written
    by billing/ledger.py only; never changed or deleted (a trigger refuses it).
    """

    class Kind(models.TextChoices):
        ASSET = "asset"
        LIABILITY = "liability"
        INCOME = "income"
        EXPENSE = "expense"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    code = models.CharField(max_length=120)
    kind = models.CharField(max_length=9, choices=Kind.choices)
    currency = models.CharField(max_length=3)

    objects: models.Manager[Account]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "code", "currency"], name="account_once"),
        ]

    def __str__(self) -> str:
        return self.code


class Posting(models.Model):
    """One movement of money at `at` (the operator's time), whose entries add up to zero.

    `key` names what happened, so that it is posted once however often it is tried. `entries` is
    how many there are: all come by one statement, whose trigger refuses any other number, any
    other sum than zero, and an account of another operator or currency. Never changed or deleted
    (triggers refuse it). Written by billing/ledger.py only.
    """

    id = models.BigIntegerField(primary_key=True)  # from the sequence billing_posting_id
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    key = models.CharField(max_length=160)
    kind = models.CharField(max_length=20)
    at = models.DateTimeField()
    currency = models.CharField(max_length=3)
    description = models.CharField(max_length=200, blank=True, default="")
    entries = models.PositiveSmallIntegerField()

    objects: models.Manager[Posting]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "key"], name="posting_once"),
            models.CheckConstraint(name="posting_has_two_sides", condition=Q(entries__gte=2)),
        ]

    def __str__(self) -> str:
        return self.key


class Entry(models.Model):
    """One side of a posting: `amount` > 0 is a debit, < 0 a credit.

    `subscriber_id` is whose money it is, null for what concerns no single one.
    """

    pk = models.CompositePrimaryKey("posting_id", "nr")
    posting = models.ForeignKey(
        Posting, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    nr = models.PositiveSmallIntegerField()
    account = models.ForeignKey(
        Account, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    subscriber_id = models.BigIntegerField(null=True)
    amount = amount_field()

    objects: models.Manager[Entry]

    class Meta:
        indexes = [
            models.Index(
                fields=["subscriber_id", "account"],
                name="entry_of_subscriber",
                condition=Q(subscriber_id__isnull=False),
            ),
        ]
        constraints = [
            models.CheckConstraint(name="entry_moves_something", condition=~Q(amount=0)),
        ]

    def __str__(self) -> str:
        return f"{self.amount} on account {self.account_id}"
