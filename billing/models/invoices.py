"""What a subscriber is asked to pay, and what each line of it was computed from."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field, tax_rate_field, units_field
from subscriptions.models import Operator, Plan, Subscriber


class Invoice(models.Model):
    """A bill (TMF678 CustomerBill) for one period of a subscription, or a credit note against one.

    A `final` one says what was sold and what changed after the last period of a subscriber who
    gets no further bill; where it never held a plan, no subscription and plan are named.

    A draft has no number. From its issue on only `state` and `paid` change: triggers refuse all
    else, and an issue whose totals are not the sums of its lines. `original_id` is the invoice
    that a credit note corrects; its amounts are negative. What is due is gross - paid. Written by
    billing/invoicing.py only.
    """

    class Kind(models.TextChoices):
        PERIOD = "period"
        FINAL = "final"
        CREDIT_NOTE = "credit_note"

    class State(models.TextChoices):
        DRAFT = "draft"
        OPEN = "open"
        PAID = "paid"
        VOID = "void"
        UNCOLLECTIBLE = "uncollectible"

    pk = models.CompositePrimaryKey("subscriber_id", "id")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="invoices", db_constraint=False, db_index=False
    )
    id = models.BigIntegerField()  # from the sequence billing_invoice_id
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    kind = models.CharField(max_length=12, choices=Kind.choices, default=Kind.PERIOD)
    subscription_id = models.BigIntegerField(null=True, blank=True)
    plan = models.ForeignKey(
        Plan,
        models.PROTECT,
        related_name="+",
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
    )
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    original_id = models.BigIntegerField(null=True, blank=True)
    state = models.CharField(max_length=13, choices=State.choices, default=State.DRAFT)
    number = models.CharField(max_length=32, null=True, blank=True)  # noqa: DJ001 - none: a draft
    issued_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True)
    currency = models.CharField(max_length=3)
    net = amount_field()
    tax = amount_field()
    gross = amount_field()
    paid = amount_field(default=0)
    reason = models.CharField(max_length=200, blank=True, default="")  # of a credit note, of a void

    objects: models.Manager[Invoice]

    class Meta:
        indexes = [models.Index(fields=["operator", "id"], name="invoice_list")]
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber_id", "subscription_id", "period_start"],
                name="invoice_of_a_period_once",
                condition=Q(kind="period"),
            ),
            models.UniqueConstraint(
                fields=["subscriber_id", "period_start"],
                name="invoice_final_once",
                condition=Q(kind="final"),
            ),
            models.CheckConstraint(
                name="invoice_of_a_period_names_its_plan",
                condition=~Q(kind="period") | Q(subscription_id__isnull=False, plan__isnull=False),
            ),
            models.CheckConstraint(
                name="invoice_gross_is_net_and_tax", condition=Q(gross=F("net") + F("tax"))
            ),
            models.CheckConstraint(
                name="invoice_numbered_when_issued",
                condition=Q(
                    state="draft",
                    number__isnull=True,
                    issued_at__isnull=True,
                    due_at__isnull=True,
                    paid=0,
                )
                | (
                    ~Q(state="draft")
                    & Q(
                        number__isnull=False,
                        number__regex=r"^[A-Z0-9-]+$",
                        issued_at__isnull=False,
                        due_at__isnull=False,
                    )
                ),
            ),
            models.CheckConstraint(
                name="invoice_paid_within_gross",
                condition=Q(paid=0)
                | Q(paid__gt=0, paid__lte=F("gross"))
                | Q(paid__lt=0, paid__gte=F("gross")),
            ),
            models.CheckConstraint(
                name="invoice_paid_is_paid_whole", condition=~Q(state="paid") | Q(paid=F("gross"))
            ),
            models.CheckConstraint(
                name="invoice_period_forward", condition=Q(period_end__gt=F("period_start"))
            ),
            models.CheckConstraint(
                name="invoice_credit_note_names_its_original",
                condition=Q(kind__in=["period", "final"], original_id__isnull=True)
                | Q(kind="credit_note", original_id__isnull=False, gross__lte=0),
            ),
        ]

    def __str__(self) -> str:
        return self.number or f"draft {self.id}"


class InvoiceLine(models.Model):
    """One line, taxed by itself; `basis` holds all that it was computed from.

    `description` is what was sold, by its name; the words around it are made where it is shown.
    `bucket_id` is the bucket that a line bills, where it bills one: each is billed once, what
    changes later is an `adjustment` that names it again. Only a draft's lines can change.
    """

    class Kind(models.TextChoices):
        FEE = "fee"
        OVERAGE = "overage"
        BLOCK = "block"
        BOOSTER = "booster"
        GIFT = "gift"
        DISCOUNT = "discount"
        UPGRADE = "upgrade"
        REFUND = "refund"
        ADJUSTMENT = "adjustment"
        LATE_FEE = "late_fee"
        COMPENSATION = "compensation"

    pk = models.CompositePrimaryKey("subscriber_id", "invoice_id", "nr")
    subscriber_id = models.BigIntegerField()
    invoice_id = models.BigIntegerField()
    nr = models.PositiveSmallIntegerField()
    kind = models.CharField(max_length=12, choices=Kind.choices)
    description = models.CharField(max_length=200)
    bucket_id = models.BigIntegerField(null=True, blank=True)
    units = units_field(null=True, blank=True)
    net = amount_field()
    tax_rate = tax_rate_field()
    tax = amount_field()
    gross = amount_field()
    basis = models.JSONField()

    objects: models.Manager[InvoiceLine]

    class Meta:
        indexes = [
            # What of a bucket is billed already.
            models.Index(
                fields=["subscriber_id", "bucket_id"],
                name="invoice_line_of_bucket",
                condition=Q(bucket_id__isnull=False),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber_id", "bucket_id"],
                name="invoice_line_bills_a_bucket_once",
                condition=Q(kind__in=["overage", "block", "booster", "gift"]),
            ),
            models.CheckConstraint(
                name="invoice_line_gross_is_net_and_tax", condition=Q(gross=F("net") + F("tax"))
            ),
            models.CheckConstraint(
                name="invoice_line_tax_rate_below_one",
                condition=Q(tax_rate__gte=0, tax_rate__lt=1),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.gross}"


class InvoiceCounter(models.Model):
    """The last number given in an operator's year; locked by the short step that issues."""

    pk = models.CompositePrimaryKey("operator_id", "year")
    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    year = models.PositiveSmallIntegerField()  # of the issue, in the operator's zone
    last = models.PositiveBigIntegerField()

    objects: models.Manager[InvoiceCounter]

    def __str__(self) -> str:
        return f"{self.year}: {self.last}"


class InvoiceNumber(models.Model):
    """Whose a number is. A table of its own: a number is unique across subscribers."""

    pk = models.CompositePrimaryKey("operator_id", "year", "nr")
    operator_id = models.BigIntegerField()
    year = models.PositiveSmallIntegerField()
    nr = models.PositiveBigIntegerField()
    subscriber_id = models.BigIntegerField()
    invoice_id = models.BigIntegerField()

    objects: models.Manager[InvoiceNumber]

    def __str__(self) -> str:
        return f"{self.year}-{self.nr}"
