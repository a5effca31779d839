"""By which rules corrections are made, and above which limits a second person has to look."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from subscriptions.fields import amount_field, units_field
from subscriptions.models import Operator


class CorrectionPolicy(models.Model):
    """An operator's rules from an instant on, until its next row; none: no limit, repaid once.

    Written by billing/corrections.py only.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    since = models.DateTimeField()  # the operator's time
    # Above it a correction waits for approval; null: none does.
    approval_limit = amount_field(null=True, blank=True)
    # Above so many, units that are given by hand or moved by a re-rating wait for approval.
    units_limit = units_field(null=True, blank=True)
    # Whether every version of a plan or rate card does.
    prices_by_two = models.BooleanField(default=False)
    # How often the operator's own over-charge is repaid: 2 is double.
    over_charge_factor = models.DecimalField(max_digits=4, decimal_places=2, default=1)
    made_by = models.CharField(max_length=100)

    objects: models.Manager[CorrectionPolicy]

    class Meta:
        indexes = [models.Index(fields=["operator", "since"], name="correction_policy_since")]
        constraints = [
            models.CheckConstraint(
                name="correction_policy_sane",
                condition=(Q(approval_limit__isnull=True) | Q(approval_limit__gte=0))
                & (Q(units_limit__isnull=True) | Q(units_limit__gte=0))
                & Q(over_charge_factor__gte=1, over_charge_factor__lte=10),
            ),
        ]

    def __str__(self) -> str:
        return f"above {self.approval_limit}, times {self.over_charge_factor}"
