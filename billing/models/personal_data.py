"""What a user has the platform hand out of all that is kept about them."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from subscriptions.models import Operator, Subscriber


class PersonalDataExport(models.Model):
    """A file of all that is kept about a user's account at an operator, made in the background.

    `made` until `expires_at`, then its bytes are gone. Nobody but its user is given it. Written by
    billing/personal_data/keeping.py only, as parts are.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        MADE = "made"
        FAILED = "failed"
        EXPIRED = "expired"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    subscriber = models.ForeignKey(Subscriber, models.PROTECT, related_name="+", db_index=False)
    state = models.CharField(max_length=7, choices=State.choices, default=State.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    parts = models.PositiveIntegerField(default=0)
    size = models.BigIntegerField(default=0)  # bytes
    ordered_at = models.DateTimeField()  # the operator's time, as all here
    made_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[PersonalDataExport]

    class Meta:
        indexes = [
            models.Index(fields=["id"], name="personal_data_waiting", condition=Q(state="waiting")),
            models.Index(
                fields=["operator", "expires_at"],
                name="personal_data_outlived",
                condition=Q(state="made"),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["user", "operator"],
                name="personal_data_one_at_a_time",
                condition=Q(state="waiting"),
            ),
            models.CheckConstraint(
                name="personal_data_made_expires",
                condition=Q(
                    state__in=["made", "expired"],
                    made_at__isnull=False,
                    expires_at__isnull=False,
                    parts__gte=1,
                )
                | Q(state__in=["waiting", "failed"], made_at__isnull=True, expires_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.state} {self.pk}"


class PersonalDataPart(models.Model):
    """Some bytes of the file; gone when it has expired."""

    pk = models.CompositePrimaryKey("export_id", "nr")
    export = models.ForeignKey(PersonalDataExport, models.PROTECT, related_name="+", db_index=False)
    nr = models.PositiveIntegerField()
    content = models.BinaryField()

    objects: models.Manager[PersonalDataPart]

    def __str__(self) -> str:
        return f"part {self.nr} of {self.export_id}"
