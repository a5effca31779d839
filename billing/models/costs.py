"""What the models themselves cost: suppliers, their prices, and what was used of them, by day."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field, units_field
from subscriptions.models import Gateway, Operator


def _price_field() -> models.DecimalField[Any, Any]:
    """Money per million tokens, six places."""
    return models.DecimalField(max_digits=12, decimal_places=6)


class Supplier(models.Model):
    """Who runs models for an operator and is paid for it by the token.

    With `settles_with` it is another operator of this platform, whose models this one's
    subscribers use: to its books this one is a customer like any other, and neither sees a row of
    the other's.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    code = models.CharField(max_length=64)
    name = models.CharField(max_length=200)
    settles_with = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", null=True, blank=True
    )

    objects: models.Manager[Supplier]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "code"], name="supplier_once"),
            models.CheckConstraint(
                name="supplier_is_another_operator",
                condition=Q(settles_with__isnull=True) | ~Q(settles_with=F("operator")),
            ),
        ]

    def __str__(self) -> str:
        return self.code


class SupplierGateway(models.Model):
    """A gateway all of whose models come from one supplier from a local day on."""

    gateway = models.OneToOneField(Gateway, models.PROTECT, related_name="+", primary_key=True)
    supplier = models.ForeignKey(Supplier, models.PROTECT, related_name="gateways")
    effective_from = models.DateField()

    objects: models.Manager[SupplierGateway]

    def __str__(self) -> str:
        return f"gateway {self.gateway_id}"


class CostCard(models.Model):
    """A version of a supplier's prices, for usage from the local day `effective_from` on.

    Of versions for the same day the later counts. Never changed or deleted (triggers refuse it).
    """

    supplier = models.ForeignKey(Supplier, models.PROTECT, related_name="cards")
    version = models.PositiveIntegerField()
    effective_from = models.DateField()
    created_at = models.DateTimeField()

    objects: models.Manager[CostCard]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["supplier", "version"], name="cost_card_version_once"),
        ]

    def __str__(self) -> str:
        return f"v{self.version} from {self.effective_from}"


class CostPrice(models.Model):
    """What a million tokens of each class cost, of the models that a pattern names.

    In the operator's currency, as the supplier counts its tax. Never changed or deleted.
    """

    card = models.ForeignKey(CostCard, models.PROTECT, related_name="prices")
    model = models.CharField(max_length=256)
    uncached_input = _price_field()
    cached_input = _price_field()
    cache_write = _price_field()
    output = _price_field()
    reasoning = _price_field()

    objects: models.Manager[CostPrice]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["card", "model"], name="cost_price_once"),
            models.CheckConstraint(
                name="cost_price_not_negative",
                condition=Q(
                    uncached_input__gte=0,
                    cached_input__gte=0,
                    cache_write__gte=0,
                    output__gte=0,
                    reasoning__gte=0,
                ),
            ),
        ]

    def __str__(self) -> str:
        return self.model


class CostDay(models.Model):
    """A local day whose usage was priced, and what there was of it to price then.

    Any batch or adjustment more, or a card for a day before (`stale`), and it is priced again.
    """

    pk = models.CompositePrimaryKey("operator_id", "day")
    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    day = models.DateField()
    batches = models.PositiveBigIntegerField()
    adjustments = models.PositiveBigIntegerField()
    stale = models.BooleanField(default=False)
    priced_at = models.DateTimeField()  # the operator's time

    objects: models.Manager[CostDay]

    def __str__(self) -> str:
        return f"{self.day}"


class Settlement(models.Model):
    """A statement of what a supplier is owed for a month; numbers count an operator's, no gap.

    It holds all that no statement held before of days up to the month's end: what came late, or
    was voided, of a month that is settled is on the next. Never changed or deleted.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    supplier = models.ForeignKey(Supplier, models.PROTECT, related_name="+")
    sequence = models.PositiveIntegerField()
    number = models.CharField(max_length=32)
    month = models.DateField()  # its first day
    currency = models.CharField(max_length=3)
    total = amount_field()
    made_at = models.DateTimeField()  # the operator's time

    objects: models.Manager[Settlement]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "sequence"], name="settlement_number_once"),
            models.UniqueConstraint(fields=["supplier", "month"], name="settlement_month_once"),
            models.CheckConstraint(
                name="settlement_month_is_a_first", condition=Q(month__day=1, sequence__gte=1)
            ),
        ]

    def __str__(self) -> str:
        return self.number


class SettlementLine(models.Model):
    """What a statement says of one model at one price, of the usage of one month."""

    pk = models.CompositePrimaryKey("settlement_id", "nr")
    settlement = models.ForeignKey(Settlement, models.PROTECT, related_name="lines", db_index=False)
    nr = models.PositiveIntegerField()
    month = models.DateField()
    model = models.CharField(max_length=256)
    price = models.ForeignKey(CostPrice, models.PROTECT, related_name="+", db_index=False)
    requests = models.BigIntegerField()
    uncached_input_tokens = models.BigIntegerField()
    cached_input_tokens = models.BigIntegerField()
    cache_write_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    amount = amount_field()

    objects: models.Manager[SettlementLine]

    def __str__(self) -> str:
        return f"{self.model} {self.amount}"


class CostEntry(models.Model):
    """What a day's usage is more (or less) than the day's earlier entries say.

    The entries of a day, plan, gateway, model and price add up to what was used; their `cost`,
    exact, to what it costs. `plan` is empty for usage without one, `price` null where no card
    names the model. Only `settlement` changes, once, from none (a trigger refuses all else).
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    day = models.DateField()
    plan = models.CharField(max_length=64, blank=True)
    gateway = models.ForeignKey(Gateway, models.PROTECT, related_name="+", db_index=False)
    model = models.CharField(max_length=256)
    price = models.ForeignKey(
        CostPrice, models.PROTECT, related_name="+", null=True, db_index=False
    )
    supplier = models.ForeignKey(
        Supplier, models.PROTECT, related_name="+", null=True, db_index=False
    )
    requests = models.BigIntegerField()
    uncached_input_tokens = models.BigIntegerField()
    cached_input_tokens = models.BigIntegerField()
    cache_write_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    units = units_field()  # that subscribers were charged
    cost = models.DecimalField(max_digits=28, decimal_places=12)
    settlement = models.ForeignKey(Settlement, models.PROTECT, related_name="+", null=True)

    objects: models.Manager[CostEntry]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "day"], name="cost_entries_of_day"),
            models.Index(
                fields=["supplier", "day"],
                name="cost_entries_to_settle",
                condition=Q(settlement__isnull=True, supplier__isnull=False),
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="cost_entry_is_priced_or_costs_nothing",
                condition=Q(price__isnull=False, supplier__isnull=False)
                | Q(price__isnull=True, supplier__isnull=True, cost=0, settlement__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.model} {self.cost}"
