"""e-fapiao: under which tax classes is sold, and what was asked of the tax platform."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field, tax_rate_field
from subscriptions.models import Operator


class FapiaoItem(models.Model):
    """What is sold at a tax rate, as the tax platform classes it.

    Written by billing/fapiao/requests.py only, as requests are.
    """

    pk = models.CompositePrimaryKey("operator_id", "tax_rate")
    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    tax_rate = tax_rate_field()
    tax_class = models.CharField(max_length=19)
    name = models.CharField(max_length=100)

    objects: models.Manager[FapiaoItem]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="fapiao_item_class_has_19_digits", condition=Q(tax_class__regex=r"^[0-9]{19}$")
            ),
        ]

    def __str__(self) -> str:
        return self.name


class FapiaoRequest(models.Model):
    """One e-fapiao, blue or red, that the tax platform is asked for; it alone gives the number.

    requested -> submitted -> issued | failed; an issued blue one -> red_requested while a red one
    of it is asked for, -> red_issued when all of it is taken back, else issued again. What was
    asked never changes (a trigger refuses it). `original` is the blue one that a red one takes
    back from, `credit_note_id` the note that says how much (null: all of it, for it was wrong).
    `counted` are the notes that had lowered the invoice before the blue one was asked for.
    """

    class Kind(models.TextChoices):
        SPECIAL = "01"
        ORDINARY = "02"

    class State(models.TextChoices):
        REQUESTED = "requested"
        SUBMITTED = "submitted"
        ISSUED = "issued"
        FAILED = "failed"
        RED_REQUESTED = "red_requested"
        RED_ISSUED = "red_issued"

    class Reason(models.TextChoices):
        WRONG = "wrong"
        RETURN = "return"
        SERVICE_ENDED = "service_ended"
        ALLOWANCE = "allowance"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    request_id = models.CharField(max_length=64)
    subscriber_id = models.BigIntegerField()
    invoice_id = models.BigIntegerField()
    kind = models.CharField(max_length=2, choices=Kind.choices)
    original = models.ForeignKey("self", models.PROTECT, related_name="reds", null=True, blank=True)
    reason = models.CharField(max_length=13, choices=Reason.choices, blank=True, default="")
    credit_note_id = models.BigIntegerField(null=True, blank=True)
    counted = models.JSONField(default=list)
    seller = models.JSONField()
    buyer_is_person = models.BooleanField()
    buyer_name = models.CharField(max_length=200)
    buyer_tax_id = models.CharField(max_length=20, blank=True, default="")
    lines = models.JSONField()
    currency = models.CharField(max_length=3)
    net = amount_field()
    tax = amount_field()
    gross = amount_field()
    capitals = models.CharField(max_length=100)
    requested_at = models.DateTimeField()  # the operator's time
    state = models.CharField(max_length=13, choices=State.choices, default=State.REQUESTED)
    submitted_at = models.DateTimeField(null=True, blank=True)
    number = models.CharField(max_length=20, null=True, blank=True)  # noqa: DJ001 - none: not issued
    issued_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    problem = models.CharField(max_length=500, blank=True, default="")  # the last one, or why not

    objects: models.Manager[FapiaoRequest]

    class Meta:
        indexes = [
            models.Index(
                fields=["operator", "id"],
                name="fapiao_queue",
                condition=Q(state__in=["requested", "submitted"]),
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["operator", "request_id"], name="fapiao_request_once"),
            models.UniqueConstraint(
                fields=["subscriber_id", "invoice_id"],
                name="fapiao_one_of_an_invoice",
                condition=Q(original__isnull=True) & ~Q(state__in=["failed", "red_issued"]),
            ),
            models.UniqueConstraint(
                fields=["subscriber_id", "credit_note_id"],
                name="fapiao_one_of_a_credit_note",
                condition=Q(credit_note_id__isnull=False) & ~Q(state="failed"),
            ),
            models.UniqueConstraint(fields=["number"], name="fapiao_number_once"),
            models.CheckConstraint(
                name="fapiao_numbered_when_issued",
                condition=Q(
                    state__in=["requested", "submitted", "failed"],
                    number__isnull=True,
                    issued_at__isnull=True,
                )
                | Q(
                    state__in=["issued", "red_requested", "red_issued"],
                    number__isnull=False,
                    number__regex=r"^[0-9]{20}$",
                    issued_at__isnull=False,
                ),
            ),
            models.CheckConstraint(
                name="fapiao_red_takes_back",
                condition=Q(
                    original__isnull=True, reason="", credit_note_id__isnull=True, gross__gt=0
                )
                | Q(
                    original__isnull=False, reason="wrong", credit_note_id__isnull=True, gross__lt=0
                )
                | Q(
                    original__isnull=False,
                    reason__in=["return", "service_ended", "allowance"],
                    credit_note_id__isnull=False,
                    gross__lt=0,
                ),
            ),
            models.CheckConstraint(
                name="fapiao_red_is_not_taken_back",
                condition=Q(original__isnull=True) | ~Q(state__in=["red_requested", "red_issued"]),
            ),
            models.CheckConstraint(
                name="fapiao_gross_is_net_and_tax", condition=Q(gross=F("net") + F("tax"))
            ),
            models.CheckConstraint(
                name="fapiao_special_is_for_taxpayers",
                condition=~Q(kind="01") | (Q(buyer_is_person=False) & ~Q(buyer_tax_id="")),
            ),
            models.CheckConstraint(
                name="fapiao_buyer_tax_id",
                condition=Q(buyer_tax_id="") | Q(buyer_tax_id__regex=r"^[0-9A-Z]{15,20}$"),
            ),
        ]

    def __str__(self) -> str:
        return self.request_id
