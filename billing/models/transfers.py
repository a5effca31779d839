"""Money that arrived on the operator's bank account, and what staff say that it paid."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from subscriptions.fields import amount_field
from subscriptions.models import Operator


class BankTransfer(models.Model):
    """A line of a bank statement, told by staff; it pays one order, one invoice or one wallet.

    `reference` is the bank's own and names it once. Until it is matched it pays nothing, and
    nothing of it is in the books; `cause` says what was wrong with the last try. Never deleted;
    what the bank said never changes (triggers refuse it). Written by billing/transfers.py only.
    """

    class State(models.TextChoices):
        UNMATCHED = "unmatched"
        MATCHED = "matched"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    reference = models.CharField(max_length=100)
    currency = models.CharField(max_length=3)
    amount = amount_field()
    payer = models.CharField(max_length=200, blank=True, default="")
    remark = models.CharField(max_length=200, blank=True, default="")
    received_at = models.DateTimeField()
    told_at = models.DateTimeField()
    state = models.CharField(max_length=9, choices=State.choices, default=State.UNMATCHED)
    cause = models.CharField(max_length=40, blank=True, default="")
    matched_at = models.DateTimeField(null=True, blank=True)
    subscriber_id = models.BigIntegerField(null=True, blank=True)
    order_id = models.BigIntegerField(null=True, blank=True)
    invoice_id = models.BigIntegerField(null=True, blank=True)  # neither: the wallet

    objects: models.Manager[BankTransfer]

    class Meta:
        indexes = [models.Index(fields=["operator", "id"], name="transfer_list")]
        constraints = [
            models.UniqueConstraint(fields=["operator", "reference"], name="transfer_once"),
            models.UniqueConstraint(
                fields=["subscriber_id", "order_id"],
                name="transfer_pays_an_order_once",
                condition=Q(order_id__isnull=False),
            ),
            models.CheckConstraint(name="transfer_of_something", condition=Q(amount__gt=0)),
            models.CheckConstraint(
                name="transfer_matched_to_one",
                condition=Q(
                    state="unmatched",
                    matched_at__isnull=True,
                    subscriber_id__isnull=True,
                    order_id__isnull=True,
                    invoice_id__isnull=True,
                )
                | Q(state="matched", matched_at__isnull=False, subscriber_id__isnull=False)
                & (Q(order_id__isnull=True) | Q(invoice_id__isnull=True)),
            ),
        ]

    def __str__(self) -> str:
        return self.reference
