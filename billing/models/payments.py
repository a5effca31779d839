"""Money that came in, and what it paid."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from billing.models.invoices import Invoice
from subscriptions.fields import amount_field
from subscriptions.models import Operator


class Payment(models.Model):
    """A payment of an invoice, whole or in part, at `at` (the operator's time).

    `key` names it, so that it counts once however often it is told; `way` is how it came, hence
    the account `cash:<way>`. One below zero takes another back (`back:` and its key), whose money
    has not come after all. Append-only (triggers refuse all else). Written by
    billing/payments.py only.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "invoice_id", "nr")
    subscriber_id = models.BigIntegerField()
    invoice_id = models.BigIntegerField()
    nr = models.PositiveSmallIntegerField()  # 1, 2, … of the invoice's
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    key = models.CharField(max_length=128)
    way = models.CharField(max_length=32)
    at = models.DateTimeField()
    currency = models.CharField(max_length=3)
    amount = amount_field()

    objects: models.Manager[Payment]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "key"], name="payment_once"),
            models.CheckConstraint(
                name="payment_of_something",
                condition=Q(amount__gt=0) | Q(amount__lt=0, key__startswith="back:"),
            ),
            models.CheckConstraint(
                name="payment_way_is_a_word", condition=Q(way__regex=r"^[a-z0-9_]+$")
            ),
        ]

    def __str__(self) -> str:
        return self.key

    def of(self, invoice: Invoice) -> bool:
        """Whether it paid this invoice."""
        return (self.subscriber_id, self.invoice_id) == (invoice.subscriber_id, invoice.id)
