"""Cards that were sold elsewhere and are worth money or units to whoever has their code."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field, units_field
from subscriptions.models import Booster, Operator, Subscriber


class VoucherBatch(models.Model):
    """Vouchers of one kind, made by workers in sets until there are `count` of them.

    What a code gives is one of: `amount` into the wallet; a `booster`, for which `amount` is its
    price; `units` as a gift for `valid_days`, for which `amount` is 0. Its terms never change (a
    trigger refuses it). `public_key` seals the codes until they are shown, once: who ordered the
    batch has the key that opens them, we have not. Written by billing/vouchers/keeping.py only,
    as vouchers, sets and steps are.
    """

    class Gives(models.TextChoices):
        MONEY = "money"
        BOOSTER = "booster"
        UNITS = "units"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    code = models.CharField(max_length=32)  # begins each serial number
    name = models.CharField(max_length=200)
    gives = models.CharField(max_length=7, choices=Gives.choices)
    currency = models.CharField(max_length=3)
    amount = amount_field()  # of each: what is owed from its activation on
    booster = models.ForeignKey(Booster, models.PROTECT, related_name="+", null=True, blank=True)
    units = units_field(null=True, blank=True)
    valid_days = models.PositiveSmallIntegerField(null=True, blank=True)  # of the gift
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField()  # exclusive
    count = models.PositiveIntegerField()
    made = models.PositiveIntegerField(default=0)
    steps = models.PositiveIntegerField(default=0)  # rows of its history
    public_key = models.BinaryField(max_length=32)
    made_by = models.CharField(max_length=100)  # the key's name
    created_at = models.DateTimeField()  # the operator's time
    shown_at = models.DateTimeField(null=True, blank=True)
    expired_at = models.DateTimeField(null=True, blank=True)  # swept after its end

    objects: models.Manager[VoucherBatch]

    class Meta:
        indexes = [
            # What workers look for.
            models.Index(
                fields=["id"], name="voucher_batch_making", condition=Q(made__lt=F("count"))
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["operator", "code"], name="voucher_batch_once"),
            models.CheckConstraint(
                name="voucher_batch_gives_one_thing",
                condition=Q(gives="money", amount__gt=0, booster__isnull=True, units__isnull=True)
                | Q(gives="booster", amount__gt=0, booster__isnull=False, units__isnull=True)
                | Q(
                    gives="units",
                    amount=0,
                    booster__isnull=True,
                    units__gt=0,
                    valid_days__gt=0,
                ),
            ),
            models.CheckConstraint(
                name="voucher_batch_of_some",
                condition=Q(count__gte=1, count__lte=1_000_000, made__lte=F("count")),
            ),
            models.CheckConstraint(
                name="voucher_batch_forward", condition=Q(valid_until__gt=F("valid_from"))
            ),
            models.CheckConstraint(
                name="voucher_batch_shown_when_made",
                condition=Q(shown_at__isnull=True) | Q(made=F("count")),
            ),
        ]

    def __str__(self) -> str:
        return self.code


class Voucher(models.Model):
    """One card: the `nr`th of its batch, which is its serial number. Its code is not here.

    `digest` is the code's keyed hash (billing/vouchers/codes.py). The state goes only the ways
    that a trigger knows; it is redeemed once, by one subscriber.
    """

    class State(models.TextChoices):
        MADE = "made"  # worth nothing yet: a stolen carton is paper
        ACTIVATED = "activated"  # sold: its amount is owed
        REDEEMED = "redeemed"
        VOID = "void"
        EXPIRED = "expired"

    pk = models.CompositePrimaryKey("batch_id", "nr")
    batch = models.ForeignKey(VoucherBatch, models.PROTECT, related_name="+", db_index=False)
    nr = models.PositiveIntegerField()
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    digest = models.BinaryField(max_length=32)
    state = models.CharField(max_length=9, choices=State.choices, default=State.MADE)
    changed_at = models.DateTimeField()  # the operator's time of its state
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", null=True, blank=True, db_index=False
    )

    objects: models.Manager[Voucher]

    class Meta:
        indexes = [
            models.Index(
                fields=["subscriber", "changed_at"],
                name="voucher_of_subscriber",
                condition=Q(subscriber__isnull=False),
            ),
            models.Index(
                fields=["batch", "nr"],
                name="voucher_unused",
                condition=Q(state__in=["made", "activated"]),
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["digest"], name="voucher_code_once"),
            models.CheckConstraint(
                name="voucher_redeemed_by_somebody",
                condition=Q(state="redeemed", subscriber__isnull=False)
                | ~Q(state="redeemed") & Q(subscriber__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.nr} of batch {self.batch_id}"


class VoucherSet(models.Model):
    """The codes of vouchers from `first` on, sealed; gone once they were shown."""

    pk = models.CompositePrimaryKey("batch_id", "first")
    batch = models.ForeignKey(VoucherBatch, models.PROTECT, related_name="+", db_index=False)
    first = models.PositiveIntegerField()
    sealed = models.BinaryField()

    objects: models.Manager[VoucherSet]

    def __str__(self) -> str:
        return f"from {self.first} of batch {self.batch_id}"


class VoucherStep(models.Model):
    """What was done with many vouchers of a batch at once. Append-only (triggers refuse all else).

    `moved` of the `count` were owed before or are owed now, hence posted.
    """

    class Kind(models.TextChoices):
        ACTIVATED = "activated"
        VOID = "void"
        EXPIRED = "expired"

    pk = models.CompositePrimaryKey("batch_id", "nr")
    batch = models.ForeignKey(VoucherBatch, models.PROTECT, related_name="+", db_index=False)
    nr = models.PositiveIntegerField()
    kind = models.CharField(max_length=9, choices=Kind.choices)
    first = models.PositiveIntegerField()
    last = models.PositiveIntegerField()  # inclusive
    count = models.PositiveIntegerField()
    moved = models.PositiveIntegerField()
    by = models.CharField(max_length=100)
    reason = models.CharField(max_length=200, blank=True, default="")
    at = models.DateTimeField()

    objects: models.Manager[VoucherStep]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="voucher_step_of_some",
                condition=Q(count__gt=0, moved__lte=F("count"), last__gte=F("first")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.count}"


class VoucherMisses(models.Model):
    """How often somebody has tried codes that are none, and until when it is locked out.

    `who` is a subscriber, or where the tries come from. Written by billing/vouchers/guessing.py
    only.
    """

    pk = models.CompositePrimaryKey("operator_id", "who")
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    who = models.CharField(max_length=140)
    since = models.DateTimeField()
    misses = models.PositiveIntegerField(default=0)
    locked_until = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[VoucherMisses]

    def __str__(self) -> str:
        return f"{self.misses} by {self.who}"
