"""What is taxed at which rate from which day on."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from subscriptions.fields import tax_rate_field
from subscriptions.models.operators import Operator


class TaxRate(models.Model):
    """The rate of a category of goods from a local day on, until its next one.

    A row is a version: of two with one day the later one holds. A rate is law, not a term of sale:
    it applies to plan versions sold long before. Written by subscriptions/taxes.py only.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="tax_rates")
    category = models.CharField(max_length=64)
    effective_from = models.DateField()
    rate = tax_rate_field()
    created_at = models.DateTimeField()

    objects: models.Manager[TaxRate]

    class Meta:
        constraints = [
            models.CheckConstraint(name="tax_rate_below_one", condition=Q(rate__gte=0, rate__lt=1)),
        ]

    def __str__(self) -> str:
        return f"{self.category} {self.rate} from {self.effective_from}"
