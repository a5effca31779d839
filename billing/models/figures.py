"""What an operator's day looked like, for those who run it: figures, not books."""

from __future__ import annotations

from django.db import models

from subscriptions.models import Operator


class DayFigures(models.Model):
    """An operator's figures of one of its days, as they were when last measured.

    `values` is what billing/figures.py describes. Figures are counted from what is booked and may
    be counted again; nothing is ever derived from them. Written by billing/figures.py only.
    """

    operator = models.ForeignKey(Operator, models.CASCADE, related_name="+")
    day = models.DateField()  # in the operator's zone
    measured_at = models.DateTimeField()  # the operator's time
    slow_at = models.DateTimeField()  # when the slow ones among them were
    values = models.JSONField()

    objects: models.Manager[DayFigures]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "day"], name="figures_once_a_day"),
        ]

    def __str__(self) -> str:
        return f"figures of {self.day}"
