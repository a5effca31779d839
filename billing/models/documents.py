"""What bills look like when they are read, and what was made of them."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Func, Q

from subscriptions.models import Operator


class Letterhead(models.Model):
    """How an operator presents itself on its documents; without a row its name is all.

    `logo` is a PNG, already as small as it is printed. With a language in `ahead` workers make the
    documents of all that is issued, in order of number; (`ahead_year`, `ahead_nr`) is the last
    one made. Written by billing/documents/letterheads.py only.
    """

    operator = models.OneToOneField(
        Operator, models.PROTECT, primary_key=True, related_name="letterhead"
    )
    name = models.CharField(max_length=200)
    address = models.CharField(max_length=200, blank=True, default="")
    phone = models.CharField(max_length=40, blank=True, default="")
    tax_id = models.CharField(max_length=40, blank=True, default="")
    bank = models.CharField(max_length=100, blank=True, default="")
    bank_account = models.CharField(max_length=60, blank=True, default="")
    colour = models.CharField(max_length=7)
    payment_url = models.CharField(max_length=200, blank=True, default="")
    logo = models.BinaryField(default=b"")
    ahead = models.CharField(max_length=7, blank=True, default="")
    ahead_year = models.PositiveSmallIntegerField(default=0)
    ahead_nr = models.PositiveBigIntegerField(default=0)

    objects: models.Manager[Letterhead]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="letterhead_colour_is_six_digits",
                condition=Q(colour__regex=r"^#[0-9A-Fa-f]{6}$"),
            ),
            models.CheckConstraint(
                name="letterhead_ahead_is_a_language",
                condition=Q(ahead__in=("", "zh-Hans", "en")),
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Document(models.Model):
    """The bytes of an invoice's PDF: made once, the same ever after (a trigger keeps them).

    A void invoice is another document than the one that was issued: both stay. Written by
    billing/documents/store.py only.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "invoice_id", "language", "usage", "void")
    subscriber_id = models.BigIntegerField()
    invoice_id = models.BigIntegerField()
    language = models.CharField(max_length=7)
    usage = models.BooleanField()  # with the appendix
    void = models.BooleanField()
    made_at = models.DateTimeField()  # the operator's time
    digest = models.BinaryField(max_length=32)  # SHA-256
    content = models.BinaryField()

    objects: models.Manager[Document]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="document_is_what_its_digest_says",
                condition=Q(
                    digest=Func(F("content"), function="sha256", output_field=models.BinaryField())
                ),
            ),
            models.CheckConstraint(
                name="document_in_a_language_there_is",
                condition=Q(language__in=("zh-Hans", "en")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.invoice_id} {self.language}"
