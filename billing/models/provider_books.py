"""What payment providers say they moved, what of it is in our books, and what staff said of the
rest."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field
from subscriptions.models import Operator


class ProviderFile(models.Model):
    """A file of a provider's, imported whole or not at all, once by its content (`digest`).

    `account` is the word of the ledger's account `cash:…` that its money stands on. Never changed
    (triggers refuse it). Written by billing/provider_books/importing.py only.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    layout = models.CharField(max_length=16)
    account = models.CharField(max_length=32)
    name = models.CharField(max_length=200)
    digest = models.CharField(max_length=64)  # SHA-256, in hex
    bytes = models.BigIntegerField()
    rows = models.PositiveIntegerField()  # that the file has
    lines = models.PositiveIntegerField()  # of them new
    first_day = models.DateField()  # the operator's
    last_day = models.DateField()
    imported_by = models.CharField(max_length=100)
    imported_at = models.DateTimeField()

    objects: models.Manager[ProviderFile]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "digest"], name="provider_file_once"),
            models.CheckConstraint(
                name="provider_file_has_lines",
                condition=Q(rows__gte=F("lines"), last_day__gte=F("first_day")),
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ProviderLine(models.Model):
    """A line of a provider's file as it came (`raw`), once by its id: `gross` was moved, > 0 came
    in, and `fee` of it was kept.

    `state` says whether it is in our books: it is matched, or a difference names it; a fee and a
    payout never match, they are booked by what staff do. Only that, and what it matches, is
    written later (a trigger refuses the rest). Written by billing/provider_books/importing.py, and
    by matching.py there.
    """

    class Kind(models.TextChoices):
        PAYMENT = "payment"
        REFUND = "refund"
        FEE = "fee"
        PAYOUT = "payout"
        DISPUTE = "dispute"
        OTHER = "other"

    class State(models.TextChoices):
        NEW = "new"
        MATCHED = "matched"
        DIFFERS = "differs"

    pk = models.CompositePrimaryKey("operator_id", "account", "line_id")
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    account = models.CharField(max_length=32)
    line_id = models.CharField(max_length=128)
    file = models.ForeignKey(
        ProviderFile, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    nr = models.PositiveIntegerField()  # its place in the file
    at = models.DateTimeField()
    day = models.DateField()  # the operator's
    kind = models.CharField(max_length=7, choices=Kind.choices)
    currency = models.CharField(max_length=3)
    gross = amount_field()
    fee = amount_field()
    key = models.CharField(max_length=64, blank=True, default="")  # our own name of it
    reference = models.CharField(max_length=255, blank=True, default="")  # the provider's
    payout = models.CharField(max_length=255, blank=True, default="")
    raw = models.JSONField()
    state = models.CharField(max_length=7, choices=State.choices, default=State.NEW)
    ours = models.CharField(max_length=160, blank=True, default="")  # what it is in our books

    objects: models.Manager[ProviderLine]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "account", "day"], name="provider_line_of_day"),
            models.Index(
                fields=["operator", "account"],
                name="provider_line_new",
                condition=Q(state="new"),
            ),
        ]
        constraints = [
            # What is in our books once is there once at the provider.
            models.UniqueConstraint(
                fields=["operator", "account", "ours"],
                name="provider_line_of_ours_once",
                condition=~Q(ours=""),
            ),
            models.CheckConstraint(
                name="provider_line_matched",
                condition=~Q(state="matched") | ~Q(ours=""),
            ),
        ]

    def __str__(self) -> str:
        return self.line_id


class PaymentDifference(models.Model):
    """What a provider and our books do not say alike: `amount` is theirs less ours, as the ledger's
    account `cash:…` would have to change.

    `about` makes it one: the line's id, what is ours, or a file's fees of a day. It stays until
    staff have said what it is, or what was missing came after all. One that is written off above
    the operator's limit waits for its approval. Written by billing/provider_books/differing.py
    only.
    """

    class Kind(models.TextChoices):
        MISSING_HERE = "missing_here"
        MISSING_THERE = "missing_there"
        AMOUNT = "amount_differs"
        FEES = "fees"
        PAYOUT = "payout"

    class State(models.TextChoices):
        OPEN = "open"
        WAITING = "waiting"  # for a second person
        RESOLVED = "resolved"

    class Resolution(models.TextChoices):
        FEE = "fee"  # booked as the provider's fee
        ARRIVED = "arrived"  # a payout is in the bank
        KNOWN = "known"  # nothing to book
        WRITTEN_OFF = "written_off"  # onto the account payment_differences
        UNCLEAR = "unclear_payment"  # handed to who sees to those
        CAME = "came"  # what was missing, in a later file: by itself

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    account = models.CharField(max_length=32)
    day = models.DateField()
    kind = models.CharField(max_length=14, choices=Kind.choices)
    about = models.CharField(max_length=180)
    line_id = models.CharField(max_length=128, blank=True, default="")
    ours = models.CharField(max_length=160, blank=True, default="")
    currency = models.CharField(max_length=3)
    theirs = amount_field()
    our_amount = amount_field()
    amount = amount_field()
    found_at = models.DateTimeField()
    owner = models.CharField(max_length=100, blank=True, default="")
    note = models.CharField(max_length=500, blank=True, default="")
    state = models.CharField(max_length=8, choices=State.choices, default=State.OPEN)
    resolution = models.CharField(max_length=15, choices=Resolution.choices, blank=True, default="")
    resolved_by = models.CharField(max_length=100, blank=True, default="")
    resolved_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[PaymentDifference]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "state", "id"], name="payment_difference_list"),
            models.Index(fields=["operator", "account", "day"], name="payment_difference_of_day"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["operator", "account", "about"], name="payment_difference_once"
            ),
            models.CheckConstraint(
                name="payment_difference_is_one",
                condition=Q(amount=F("theirs") - F("our_amount")) & ~Q(amount=0),
            ),
            models.CheckConstraint(
                name="payment_difference_resolved",
                condition=Q(
                    state__in=["open", "waiting"],
                    resolution="",
                    resolved_by="",
                    resolved_at__isnull=True,
                )
                | Q(state="resolved", resolved_at__isnull=False)
                & ~Q(resolution="")
                & ~Q(resolved_by="")
                & ~Q(note=""),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount} {self.currency}"
