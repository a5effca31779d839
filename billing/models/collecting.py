"""What subscribers agreed to, and how money that is due is collected by itself."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field
from subscriptions.models import Operator, Subscriber


class Consent(models.Model):
    """What a subscriber agreed to, in the very words it was shown, and when it took that back.

    Nothing is agreed to without a row. `subscription_id` null: for all that it holds. Only the
    withdrawal is written later, once (triggers refuse all else). Written by billing/consents.py
    only.
    """

    class Kind(models.TextChoices):
        AUTO_RENEW = "auto_renew"  # what is due is collected by itself, from the wallet first
        SAVED_METHOD = "saved_method"  # … by a saved method too
        PHONE_BILL = "phone_bill"  # the phone bill may carry what is bought

    pk = models.CompositePrimaryKey("subscriber_id", "id")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="consents", db_constraint=False, db_index=False
    )
    id = models.BigIntegerField()  # from the sequence billing_consent_id
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    number = models.CharField(max_length=40)
    kind = models.CharField(max_length=12, choices=Kind.choices)
    subscription_id = models.BigIntegerField(null=True, blank=True)
    text = models.TextField()
    text_version = models.CharField(max_length=64)
    language = models.CharField(max_length=35)
    channel = models.CharField(max_length=32)  # by which it was given: portal, app, hotline
    # What the phone bill may carry a month, where the subscriber said so.
    monthly_cap = amount_field(null=True, blank=True)
    given_at = models.DateTimeField()
    withdrawn_at = models.DateTimeField(null=True, blank=True)
    withdrawn_by = models.CharField(max_length=32, blank=True, default="")  # the channel

    objects: models.Manager[Consent]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "number"], name="consent_number_once"),
            models.UniqueConstraint(
                fields=["subscriber_id", "kind", "subscription_id"],
                name="consent_stands_once",
                condition=Q(withdrawn_at__isnull=True),
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                name="consent_withdrawn_by_a_channel",
                condition=Q(withdrawn_at__isnull=True, withdrawn_by="")
                | Q(withdrawn_at__gte=F("given_at")) & ~Q(withdrawn_by=""),
            ),
            models.CheckConstraint(
                name="consent_in_words", condition=~Q(text="") & ~Q(text_version="")
            ),
            models.CheckConstraint(
                name="consent_caps_the_phone_bill",
                condition=Q(monthly_cap__isnull=True) | Q(kind="phone_bill", monthly_cap__gte=0),
            ),
        ]

    def __str__(self) -> str:
        return self.number


class CollectionPolicy(models.Model):
    """How an operator collects what falls due from an instant on, until its next row.

    A case goes by the policy of its beginning. Never changed (triggers refuse it). Written by
    billing/collecting/policies.py only.
    """

    pk = models.CompositePrimaryKey("operator_id", "nr")
    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    nr = models.PositiveIntegerField()
    effective_from = models.DateTimeField()  # the operator's time
    made_by = models.CharField(max_length=100)
    # Before a period begins: when its order is made, when its subscriber is told, and when the
    # first try is.
    days_ahead = models.PositiveSmallIntegerField()
    notice_days = models.PositiveSmallIntegerField()
    lead_days = models.PositiveSmallIntegerField()
    ways = ArrayField(models.CharField(max_length=32))  # the first is tried first
    retry_days = ArrayField(models.PositiveSmallIntegerField())  # after the first try
    # The hours of the operator's day in which tries are made, [from, until).
    from_hour = models.PositiveSmallIntegerField()
    until_hour = models.PositiveSmallIntegerField()
    grace_days = models.PositiveSmallIntegerField()  # after the due instant
    # What a subscriber's phone bill may carry a month; null: as much as there is.
    phone_bill_cap = amount_field(null=True, blank=True)

    objects: models.Manager[CollectionPolicy]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="collection_policy_in_order",
                condition=Q(
                    days_ahead__gte=F("notice_days"),
                    notice_days__gte=F("lead_days"),
                    days_ahead__lte=30,
                    grace_days__lte=60,
                ),
            ),
            models.CheckConstraint(
                name="collection_policy_hours_of_a_day",
                condition=Q(from_hour__lt=F("until_hour"), until_hour__lte=24),
            ),
            models.CheckConstraint(
                name="collection_policy_tries_at_once",
                condition=Q(retry_days__0=0, retry_days__len__gte=1, ways__len__gte=1),
            ),
            models.CheckConstraint(
                name="collection_policy_caps",
                condition=Q(phone_bill_cap__isnull=True) | Q(phone_bill_cap__gte=0),
            ),
        ]

    def __str__(self) -> str:
        return f"collection policy {self.nr}"


class CollectionCase(models.Model):
    """One thing that is collected by itself: the order of a period that is paid before, or an
    invoice; `about` is its id.

    It runs until it is paid, in whatever way; until all tries and the grace are over; or until it
    is not to be collected any more. While it runs, `next_at` is when it is looked at, and
    `next_way` what is tried then. `first_at` is the first try's time, `noticed_at` when the
    subscriber was told of a renewal: nothing is tried before. Written by
    billing/collecting/cases.py only.
    """

    class Kind(models.TextChoices):
        ORDER = "order"
        INVOICE = "invoice"

    class State(models.TextChoices):
        RUNNING = "running"
        COLLECTED = "collected"
        GAVE_UP = "gave_up"
        STOPPED = "stopped"

    pk = models.CompositePrimaryKey("subscriber_id", "kind", "about")
    subscriber_id = models.BigIntegerField()
    kind = models.CharField(max_length=7, choices=Kind.choices)
    about = models.BigIntegerField()
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    state = models.CharField(max_length=9, choices=State.choices, default=State.RUNNING)
    begun_at = models.DateTimeField()
    first_at = models.DateTimeField()
    due_at = models.DateTimeField()
    noticed_at = models.DateTimeField(null=True, blank=True)
    next_at = models.DateTimeField(null=True, blank=True)
    next_way = models.CharField(max_length=32, blank=True, default="")
    order_id = models.BigIntegerField(null=True, blank=True)  # by which it is paid now
    intent_nr = models.PositiveSmallIntegerField(null=True, blank=True)  # the attempt at it in hand
    steps = models.PositiveSmallIntegerField(default=0)

    objects: models.Manager[CollectionCase]

    class Meta:
        indexes = [
            models.Index(
                fields=["operator", "next_at", "subscriber_id"],
                name="collection_queue",
                condition=Q(next_at__isnull=False),
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="collection_runs_or_is_over",
                condition=Q(state="running", next_at__isnull=False)
                | ~Q(state="running") & Q(next_at__isnull=True, intent_nr__isnull=True),
            ),
            models.CheckConstraint(
                name="collection_of_an_order_names_it",
                condition=Q(kind="invoice") | Q(order_id=F("about")),
            ),
            models.CheckConstraint(
                name="collection_attempt_of_an_order",
                condition=Q(intent_nr__isnull=True) | Q(order_id__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.about}: {self.state}"


class CollectionStep(models.Model):
    """What was done about a case, when, and why it came to nothing. Append-only (triggers refuse
    all else)."""

    class Kind(models.TextChoices):
        NOTICED = "noticed"
        TRIED = "tried"  # the attempt is written down, and made after that
        FAILED = "failed"
        COLLECTED = "collected"
        GAVE_UP = "gave_up"
        STOPPED = "stopped"

    pk = models.CompositePrimaryKey("subscriber_id", "case_kind", "about", "nr")
    subscriber_id = models.BigIntegerField()
    case_kind = models.CharField(max_length=7, choices=CollectionCase.Kind.choices)
    about = models.BigIntegerField()
    nr = models.PositiveSmallIntegerField()
    kind = models.CharField(max_length=9, choices=Kind.choices)
    at = models.DateTimeField()
    way = models.CharField(max_length=32, blank=True, default="")
    order_id = models.BigIntegerField(null=True, blank=True)
    intent_nr = models.PositiveSmallIntegerField(null=True, blank=True)
    reason = models.CharField(max_length=200, blank=True, default="")

    objects: models.Manager[CollectionStep]

    def __str__(self) -> str:
        return f"{self.kind} at {self.at}"
