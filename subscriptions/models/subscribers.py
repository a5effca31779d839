"""Who buys, what gateways call them, and what they hold."""

from __future__ import annotations

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeOperators
from django.db import models
from django.db.models import F, Func, Q
from django.db.models.functions import Upper

from subscriptions.models.offerings import Plan
from subscriptions.models.operators import Operator


class TsTzRange(Func):
    """`[from, until)`; null bounds are open."""

    function = "TSTZRANGE"
    output_field = DateTimeRangeField()


class SubjectName(Func):
    """A subject's name within its operator, as one text.

    An expression on purpose: over bare columns the exclusion's GiST index looks cheap to the
    planner, which then answers the charge's look-ups from it, ten times slower than the B-tree.
    """

    template = "((operator_id)::text || ':' || subject)"
    output_field = models.TextField()


class Subscriber(models.Model):
    """A person or organisation that buys from one operator."""

    class Kind(models.TextChoices):
        PERSON = "person"
        ORGANISATION = "organisation"

    class Language(models.TextChoices):
        CHINESE = "zh-hans"
        ENGLISH = "en"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="subscribers")
    external_id = models.CharField(max_length=128)
    name = models.CharField(max_length=200)
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.PERSON)
    msisdn = models.CharField(max_length=32, blank=True, default="")
    email = models.EmailField(blank=True, default="")
    # What notices are written in.
    language = models.CharField(
        max_length=8, choices=Language.choices, default=Language.CHINESE, db_default="zh-hans"
    )
    created_at = models.DateTimeField()
    # Whom this one has become: closed, its history stays its own.
    merged_into = models.ForeignKey(
        "self", models.PROTECT, related_name="+", null=True, blank=True, db_index=False
    )
    merged_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[Subscriber]

    class Meta:
        indexes = [
            # What staff look for: a phone and an address whole, a name by how it begins. And whose
            # number it is that signs in by phone.
            models.Index(
                fields=["operator", "msisdn"],
                name="subscriber_by_phone",
                condition=~Q(msisdn=""),
            ),
            models.Index(F("operator"), Upper("email"), name="subscriber_by_email"),
            models.Index(
                fields=["operator", "name"],
                opclasses=["int8_ops", "varchar_pattern_ops"],
                name="subscriber_by_name",
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["operator", "external_id"], name="subscriber_id_once"),
            models.CheckConstraint(
                name="subscriber_merged_into_another",
                condition=Q(merged_into__isnull=True, merged_at__isnull=True)
                | Q(merged_into__isnull=False, merged_at__isnull=False) & ~Q(merged_into=F("id")),
            ),
            # What a foreign key names that holds a row to the subscriber's own operator.
            models.UniqueConstraint(fields=["id", "operator"], name="subscriber_of_operator"),
        ]

    def __str__(self) -> str:
        return self.external_id


class Subject(models.Model):
    """What gateways call a subscriber, while the binding lasts.

    The binding that counts for a record is the one at its `occurred_at`, so that a resend meets
    the same subscriber after the name went to another. A name's first binding has no start:
    usage that a gateway sends before the carrier's CRM has told us belongs to it too.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    subject = models.CharField(max_length=256)
    subscriber = models.ForeignKey(Subscriber, models.PROTECT, related_name="subjects")
    valid_from = models.DateTimeField(null=True, blank=True)
    valid_until = models.DateTimeField(null=True, blank=True)
    # A recycled name belongs to nobody else before (its cooling-off).
    free_from = models.DateTimeField(null=True, blank=True)
    # What usage by a key of the subscriber's arrives under: no name that the CRM lists.
    of_key = models.BooleanField(default=False, db_default=False)

    objects: models.Manager[Subject]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "subject"], name="subject_lookup"),
        ]
        constraints = [
            ExclusionConstraint(
                name="subject_names_one_subscriber_at_a_time",
                expressions=[
                    (SubjectName(), RangeOperators.EQUAL),
                    (TsTzRange("valid_from", "valid_until"), RangeOperators.OVERLAPS),
                ],
            ),
            models.CheckConstraint(
                name="subject_interval_forward",
                condition=Q(valid_from__isnull=True)
                | Q(valid_until__isnull=True)
                | Q(valid_until__gte=F("valid_from")),
            ),
        ]

    def __str__(self) -> str:
        return self.subject


class Subscription(models.Model):
    """A plan that a subscriber holds from `starts_at` until `ends_at` (open while null).

    One base plan at a time, kept by an exclusion constraint. `plan` is the version sold;
    `next_plan` takes over at the end of the current period. Written by `lifecycle.py` only.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "id")
    subscriber = models.ForeignKey(
        Subscriber,
        models.PROTECT,
        related_name="subscriptions",
        db_constraint=False,
        db_index=False,
    )
    id = models.BigIntegerField()  # from the sequence subscriptions_subscription_id
    # The subscriber's, here again so that the opening job's queue is one operator's: each has a
    # time of its own.
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    plan = models.ForeignKey(
        Plan, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    next_plan = models.ForeignKey(
        Plan,
        models.PROTECT,
        related_name="+",
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
    )
    # The version held before a pause, to go on with after it.
    paused_plan = models.ForeignKey(
        Plan,
        models.PROTECT,
        related_name="+",
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
    )
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    # The first instant for which no period is opened yet: what the opening job looks for.
    opened_until = models.DateTimeField()
    # The local day of the month, 1 to 31, on which `subscription_day` periods begin.
    anchor_day = models.PositiveSmallIntegerField()
    # How often periods opened ahead were taken back: makes the next opening's grant keys new.
    reopenings = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField()

    objects: models.Manager[Subscription]

    class Meta:
        indexes = [
            # The opening job's queue, across subscribers on purpose; what has ended leaves it.
            models.Index(
                fields=["operator", "opened_until", "subscriber_id", "id"],
                name="subscription_opening_queue",
                condition=Q(ends_at__isnull=True) | Q(ends_at__gt=F("opened_until")),
            ),
        ]
        constraints = [
            ExclusionConstraint(
                name="subscription_one_base_plan_at_a_time",
                expressions=[
                    ("subscriber_id", RangeOperators.EQUAL),
                    (TsTzRange("starts_at", "ends_at"), RangeOperators.OVERLAPS),
                ],
            ),
            models.CheckConstraint(
                name="subscription_ends_after_it_starts",
                condition=Q(ends_at__isnull=True) | Q(ends_at__gte=F("starts_at")),
            ),
        ]

    def __str__(self) -> str:
        return f"subscription {self.id}"


class SubscriptionPeriod(models.Model):
    """One billing period of a subscription, `[starts_at, ends_at)`, and the plan it runs under.

    Made ahead of its first second. `turned_at` is null until its first second has been kept:
    what the period before left over is moved into it, and another plan takes over. Where neither
    can happen the period is born turned. `closed_at` is null until it has been billed.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "subscription_id", "starts_at")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="periods", db_constraint=False, db_index=False
    )
    subscription_id = models.BigIntegerField()
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    plan = models.ForeignKey(
        Plan, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    turned_at = models.DateTimeField(null=True, blank=True)
    closed_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[SubscriptionPeriod]

    class Meta:
        indexes = [
            models.Index(
                fields=["operator", "starts_at"],
                name="period_turn_queue",
                condition=Q(turned_at__isnull=True),
            ),
            models.Index(
                fields=["operator", "ends_at", "subscriber_id"],
                name="period_close_queue",
                condition=Q(closed_at__isnull=True),
            ),
            # The charge asks for the one or two periods that have not ended.
            models.Index(fields=["subscriber_id", "ends_at"], name="period_by_end"),
        ]
        constraints = [
            models.CheckConstraint(name="period_forward", condition=Q(ends_at__gt=F("starts_at"))),
        ]

    def __str__(self) -> str:
        return f"{self.starts_at:%Y-%m-%d} of subscription {self.subscription_id}"


class Suspension(models.Model):
    """A time in which a subscriber's usage draws no bucket of its own: all of it is uncovered.

    `frozen` only tells gateways why: a line is suspended for what it owes, frozen to protect it
    (a lost device, usage out of all proportion).
    """

    pk = models.CompositePrimaryKey("subscriber_id", "starts_at")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="suspensions", db_constraint=False, db_index=False
    )
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=200)
    frozen = models.BooleanField(default=False)

    objects: models.Manager[Suspension]

    class Meta:
        constraints = [
            ExclusionConstraint(
                name="suspension_one_at_a_time",
                expressions=[
                    ("subscriber_id", RangeOperators.EQUAL),
                    (TsTzRange("starts_at", "ends_at"), RangeOperators.OVERLAPS),
                ],
            ),
        ]

    def __str__(self) -> str:
        return self.reason
