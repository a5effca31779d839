"""Money that subscribers have with an operator before anything is bought with it."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field
from subscriptions.models import Operator


class Wallet(models.Model):
    """What a subscriber has in one currency; made when money first goes in.

    Invariant: `balance` = the sum of the wallet's movements, and never below zero. `bonus` of it
    was given, not paid: what its bonuses have left, on the ledger's account `bonus`; the rest is
    the subscriber's own, on the account `wallet`. `held` of it is set aside: what its holds have;
    so `balance - held` can be spent, and that is never below zero either. Written by
    billing/wallets.py only.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "currency")
    subscriber_id = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    balance = amount_field(default=0)
    bonus = amount_field(default=0)
    held = amount_field(default=0)
    movements = models.PositiveIntegerField(default=0)

    objects: models.Manager[Wallet]

    class Meta:
        constraints = [
            models.CheckConstraint(name="wallet_never_negative", condition=Q(balance__gte=0)),
            models.CheckConstraint(
                name="wallet_holds_what_is_there",
                condition=Q(held__gte=0, held__lte=F("balance")),
            ),
            models.CheckConstraint(
                name="wallet_bonus_is_a_part",
                condition=Q(bonus__gte=0, bonus__lte=F("balance")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.balance} {self.currency}"


class WalletMovement(models.Model):
    """A line of a wallet's statement: `amount` > 0 went in, < 0 went out, `balance` was there then.

    `bonus` of it is money that was given, the rest the subscriber's own. `key` makes it happen
    once. Append-only (triggers refuse all else).
    """

    class Kind(models.TextChoices):
        TOP_UP = "top_up"
        PAYMENT = "payment"
        REFUND = "refund"
        PAYOUT = "payout"  # back to where it came from, or held for a dispute
        BONUS = "bonus"  # given with a top-up, or by hand
        LAPSE = "lapse"  # a bonus whose time is over, or whose top-up went back

    pk = models.CompositePrimaryKey("subscriber_id", "currency", "nr")
    subscriber_id = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    nr = models.PositiveIntegerField()
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    kind = models.CharField(max_length=8, choices=Kind.choices)
    amount = amount_field()
    bonus = amount_field(default=0)
    balance = amount_field()
    key = models.CharField(max_length=128)
    at = models.DateTimeField()
    note = models.CharField(max_length=200, blank=True, default="")  # what it was for

    objects: models.Manager[WalletMovement]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber_id", "currency", "key"], name="wallet_moved_once"
            ),
            models.CheckConstraint(
                name="wallet_movement_of_something", condition=~Q(amount=0) & Q(balance__gte=0)
            ),
            models.CheckConstraint(
                name="wallet_movement_goes_its_way",
                condition=Q(kind__in=["payment", "payout", "lapse"], amount__lt=0)
                | Q(kind__in=["top_up", "refund", "bonus"], amount__gt=0),
            ),
            models.CheckConstraint(
                name="wallet_movement_of_its_money",
                condition=Q(kind__in=["bonus", "lapse"], bonus=F("amount"))
                | Q(kind__in=["top_up", "payout"], bonus=0)
                | Q(kind="payment", bonus__lte=0, bonus__gte=F("amount"))
                | Q(kind="refund", bonus__gte=0, bonus__lte=F("amount")),
            ),
            models.CheckConstraint(
                name="wallet_movement_follows",
                condition=Q(balance__gte=F("amount")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"


class WalletBonus(models.Model):
    """Money that an operator gave, with a top-up or by hand: spent like any, never paid out.

    Invariant: `remaining` = the sum of its entries, 0 to `granted`. `spent` says whether it goes
    before the subscriber's own money or after it, `expires_at` when what is left lapses: both are
    what the policy said when the top-up was ordered, or who gave it. Written by
    billing/bonuses.py only.
    """

    class Spent(models.TextChoices):
        FIRST = "first"
        LAST = "last"

    pk = models.CompositePrimaryKey("subscriber_id", "currency", "nr")
    subscriber_id = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    nr = models.PositiveIntegerField()  # of the movement that gave it
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    granted = amount_field()
    remaining = amount_field()
    spent = models.CharField(max_length=5, choices=Spent.choices)
    granted_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    # The top-up that it came with, and the version that said so; null: given by hand.
    order_id = models.BigIntegerField(null=True, blank=True)
    policy_nr = models.PositiveIntegerField(null=True, blank=True)

    objects: models.Manager[WalletBonus]

    class Meta:
        indexes = [
            models.Index(
                fields=["operator", "expires_at"],
                name="wallet_bonus_expiry_queue",
                condition=Q(remaining__gt=0, expires_at__isnull=False),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber_id", "order_id"], name="wallet_bonus_once_a_top_up"
            ),
            models.CheckConstraint(
                name="wallet_bonus_within_grant",
                condition=Q(granted__gt=0, remaining__gte=0, remaining__lte=F("granted")),
            ),
            models.CheckConstraint(
                name="wallet_bonus_with_a_top_up_or_by_hand",
                condition=Q(order_id__isnull=True, policy_nr__isnull=True)
                | Q(order_id__isnull=False, policy_nr__isnull=False),
            ),
            models.CheckConstraint(
                name="wallet_bonus_lives",
                condition=Q(expires_at__isnull=True) | Q(expires_at__gt=F("granted_at")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.remaining} of {self.granted} {self.currency}"


class WalletBonusEntry(models.Model):
    """What a movement gave to a bonus (> 0) or took of it (< 0). Append-only (triggers refuse all
    else)."""

    pk = models.CompositePrimaryKey("subscriber_id", "currency", "bonus_nr", "nr")
    subscriber_id = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    bonus_nr = models.PositiveIntegerField()
    nr = models.PositiveIntegerField()  # the movement
    amount = amount_field()

    objects: models.Manager[WalletBonusEntry]

    class Meta:
        constraints = [
            models.CheckConstraint(name="wallet_bonus_entry_moves", condition=~Q(amount=0)),
        ]

    def __str__(self) -> str:
        return f"{self.amount} of bonus {self.bonus_nr}"


class WalletHold(models.Model):
    """An amount set aside in a wallet for a purpose, until it is taken, let go, or its time ends.

    `captured` is what was taken in the end. Once ended it never changes (triggers refuse it).
    Written by billing/holds.py only.
    """

    class State(models.TextChoices):
        HELD = "held"
        CAPTURED = "captured"
        RELEASED = "released"
        EXPIRED = "expired"

    pk = models.CompositePrimaryKey("subscriber_id", "id")
    subscriber_id = models.BigIntegerField()
    id = models.BigIntegerField()  # from the sequence billing_wallethold_id
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    currency = models.CharField(max_length=3)
    amount = amount_field()
    purpose = models.CharField(max_length=200)
    key = models.CharField(max_length=260)  # makes placing repeatable
    state = models.CharField(max_length=8, choices=State.choices, default=State.HELD)
    placed_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    captured = amount_field(default=0)
    reason = models.CharField(max_length=200, blank=True, default="")  # why it ended so

    objects: models.Manager[WalletHold]

    class Meta:
        indexes = [
            models.Index(
                fields=["operator", "expires_at"],
                name="wallet_hold_expiry_queue",
                condition=Q(state="held"),
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["operator", "key"], name="wallet_hold_once"),
            models.CheckConstraint(
                name="wallet_hold_of_something",
                condition=Q(amount__gt=0, expires_at__gt=F("placed_at")),
            ),
            models.CheckConstraint(
                name="wallet_hold_ended",
                condition=Q(state="held", ended_at__isnull=True, captured=0)
                | Q(
                    state="captured",
                    ended_at__isnull=False,
                    captured__gt=0,
                    captured__lte=F("amount"),
                )
                | Q(state__in=["released", "expired"], ended_at__isnull=False, captured=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}: {self.purpose}"


class TopUpPolicy(models.Model):
    """What an operator's subscribers may put into their wallets, from an instant on, until its next
    row; none: any amount, no bonus. Never changed (triggers refuse it). Written by
    billing/top_up_policies.py only.
    """

    pk = models.CompositePrimaryKey("operator_id", "nr")
    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    nr = models.PositiveIntegerField()
    effective_from = models.DateTimeField()  # the operator's time
    made_by = models.CharField(max_length=100)
    made_at = models.DateTimeField()
    fixed = ArrayField(amount_field())  # amounts offered
    free = models.BooleanField()  # any amount between these too
    least = amount_field()
    most = amount_field()
    # Who has less than this hears of it; null: nobody does.
    low = amount_field(null=True, blank=True)

    objects: models.Manager[TopUpPolicy]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="top_up_policy_offers_something",
                condition=(Q(free=True) | Q(fixed__len__gt=0))
                & Q(least__gt=0, most__gte=F("least"))
                & (Q(low__isnull=True) | Q(low__gt=0)),
            ),
            models.CheckConstraint(
                name="top_up_policy_effective_later",
                condition=Q(effective_from__gte=F("made_at")),
            ),
        ]

    def __str__(self) -> str:
        return f"top-up policy {self.nr}"


class BonusRule(models.Model):
    """Who pays `at_least` gets `amount`, or `percent` of it up to `cap`, for `valid_days`; of
    several rules of a policy, that of the greatest `at_least` paid. Never changed, as its policy is
    not."""

    pk = models.CompositePrimaryKey("operator_id", "policy_nr", "at_least")
    operator_id = models.BigIntegerField()
    policy_nr = models.PositiveIntegerField()
    at_least = amount_field()
    amount = amount_field(null=True, blank=True)
    percent = models.DecimalField(max_digits=5, decimal_places=2, null=True, blank=True)
    cap = amount_field(null=True, blank=True)
    spent = models.CharField(max_length=5, choices=WalletBonus.Spent.choices)
    valid_days = models.PositiveSmallIntegerField(null=True, blank=True)  # null: for good

    objects: models.Manager[BonusRule]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="bonus_rule_gives_one_thing",
                condition=Q(at_least__gt=0)
                & (
                    Q(amount__gt=0, percent__isnull=True, cap__isnull=True)
                    | Q(amount__isnull=True, percent__gt=0, percent__lte=100)
                )
                & (Q(cap__isnull=True) | Q(cap__gt=0))
                & (Q(valid_days__isnull=True) | Q(valid_days__gt=0)),
            ),
        ]

    def __str__(self) -> str:
        return f"from {self.at_least}"
