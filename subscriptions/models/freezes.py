"""Units that nobody may use while somebody argues about the money that bought them."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from subscriptions.fields import units_field


class Freeze(models.Model):
    """Units of a bucket that are kept from use, and what became of them.

    While it is `frozen` they are part of the bucket's `reserved`, so that every draw passes them
    by as it passes by what a reservation holds; `taken` ones have left the bucket by a journal row,
    `thawed` ones are usable again. `key` says what for. Written by subscriptions/freezing.py only.
    """

    class State(models.TextChoices):
        FROZEN = "frozen"
        THAWED = "thawed"
        TAKEN = "taken"

    pk = models.CompositePrimaryKey("subscriber_id", "bucket_id", "key")
    subscriber_id = models.BigIntegerField()
    bucket_id = models.BigIntegerField()
    key = models.CharField(max_length=64)
    units = units_field()
    state = models.CharField(max_length=6, choices=State.choices, default=State.FROZEN)
    at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[Freeze]

    class Meta:
        constraints = [
            models.CheckConstraint(name="freeze_not_negative", condition=Q(units__gte=0)),
            models.CheckConstraint(
                name="freeze_ended",
                condition=Q(state="frozen", ended_at__isnull=True)
                | Q(state__in=["thawed", "taken"], ended_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.units} of bucket {self.bucket_id}: {self.state}"
