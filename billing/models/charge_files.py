"""What was handed to the carrier's own billing, to be collected with the phone bill."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field
from subscriptions.models import Operator


class ChargeFile(models.Model):
    """A file of charges: `sequence` counts an operator's files without a gap.

    All that its bytes are made of is here, in its lines and in what never changes of an invoice,
    so that it can be made again, byte for byte; `sha256` is of all of them. Never changed or
    deleted (triggers refuse it). Written by billing/exports/charge_files.py only.
    """

    pk = models.CompositePrimaryKey("operator_id", "sequence")
    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    sequence = models.PositiveIntegerField()
    operator_code = models.CharField(max_length=64)  # as it was then
    time_zone = models.CharField(max_length=64)
    currency = models.CharField(max_length=3)
    # Of what was issued in `[since, until)` all that no file held yet; null: without that bound.
    since = models.DateTimeField(null=True)
    until = models.DateTimeField(null=True)
    count = models.PositiveIntegerField()
    charges = amount_field()  # the sum of what is asked for
    credits = amount_field()  # the sum of what is given back, <= 0
    total = amount_field()
    sha256 = models.CharField(max_length=64)
    made_at = models.DateTimeField()  # the operator's time

    objects: models.Manager[ChargeFile]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="charge_file_total_is_charges_and_credits",
                condition=Q(
                    total=F("charges") + F("credits"),
                    charges__gte=0,
                    credits__lte=0,
                ),
            ),
            models.CheckConstraint(
                name="charge_file_holds_something", condition=Q(count__gte=1, sequence__gte=1)
            ),
            models.CheckConstraint(
                name="charge_file_span_forward",
                condition=Q(since__isnull=True) | Q(until__isnull=True) | Q(since__lt=F("until")),
            ),
        ]

    def __str__(self) -> str:
        return f"charge file {self.sequence}"


class ChargeLine(models.Model):
    """What a file says of one invoice or credit note; its key lets each be said once.

    A `reversal` takes back the charge of an invoice that was made void after its file had left, or
    what was then written off of it.
    `notes` is how many credit notes had lowered what was due when the charge was written: those
    that came later are credits of their own. Never changed or deleted (triggers refuse it).
    """

    class Kind(models.TextChoices):
        CHARGE = "charge"
        CREDIT = "credit"
        REVERSAL = "reversal"

    pk = models.CompositePrimaryKey("subscriber_id", "invoice_id", "kind")
    subscriber_id = models.BigIntegerField()
    invoice_id = models.BigIntegerField()
    kind = models.CharField(max_length=8, choices=Kind.choices)
    operator_id = models.BigIntegerField()
    sequence = models.PositiveIntegerField()
    nr = models.PositiveIntegerField()
    msisdn = models.CharField(max_length=32, blank=True)  # as it was then
    external_id = models.CharField(max_length=128)
    amount = amount_field()
    notes = models.PositiveSmallIntegerField()

    objects: models.Manager[ChargeLine]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["operator_id", "sequence", "nr"], name="charge_line_in_its_place"
            ),
            models.CheckConstraint(name="charge_line_moves_something", condition=~Q(amount=0)),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount}"
