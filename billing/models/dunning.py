"""What is done about debts: policies, who owes beyond a due date, and every step with its date."""

from __future__ import annotations

from decimal import Decimal

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from subscriptions.fields import tax_rate_field
from subscriptions.models import Operator, Subscriber


def reminder_days() -> list[int]:
    """The days from a due date on which a reminder is due, unless a policy names others."""
    return [-3, 1, 7, 15, 25]


class DunningPolicy(models.Model):
    """What an operator does about invoices issued from `effective_from` on. Never changed.

    All days are counted from an invoice's due date, in 24 hours; `terminate_after_days` from the
    suspension. A reminder of a day below 0 is one before the due date. For an operator without a
    row nothing is done about debts; these are the defaults of its first. Written by
    billing/dunning.py only.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    effective_from = models.DateTimeField()
    reminder_days = ArrayField(models.SmallIntegerField(), default=reminder_days)
    # A share of what is owed, a day; the law's limit is 3 in a thousand.
    late_fee_rate = models.DecimalField(max_digits=6, decimal_places=5, default=Decimal("0.003"))
    # The most that an invoice's late fee may come to, as a share of what was owed.
    late_fee_cap = models.DecimalField(max_digits=5, decimal_places=4, default=Decimal(1))
    # Days that cost nothing.
    late_fee_grace_days = models.PositiveSmallIntegerField(default=0)
    late_fee_tax_rate = tax_rate_field(default=Decimal(0))
    suspend_after_days = models.PositiveSmallIntegerField(default=30)
    terminate_after_days = models.PositiveSmallIntegerField(default=60)

    objects: models.Manager[DunningPolicy]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["operator", "effective_from"], name="dunning_policy_once"
            ),
            # The step `overdue` is of that day.
            models.CheckConstraint(
                name="dunning_no_reminder_on_the_due_date",
                condition=~Q(reminder_days__contains=[0]),
            ),
            models.CheckConstraint(
                name="dunning_late_fee_within_the_law",
                condition=Q(late_fee_rate__gte=0, late_fee_rate__lte=Decimal("0.003")),
            ),
            models.CheckConstraint(
                name="dunning_late_fee_never_above_the_debt",
                condition=Q(late_fee_cap__gte=0, late_fee_cap__lte=1),
            ),
            models.CheckConstraint(
                name="dunning_late_fee_tax_rate_below_one",
                condition=Q(late_fee_tax_rate__gte=0, late_fee_tax_rate__lt=1),
            ),
        ]

    def __str__(self) -> str:
        return f"from {self.effective_from:%Y-%m-%d}"


class DunningCase(models.Model):
    """A subscriber's arrears in one currency: how far they have gone, and what is next.

    `invoice_id` is the oldest invoice that is overdue, `since` its due date: both are null when
    nothing is. `reminded` is the day of its last reminder. `suspended_at` is when the line was
    suspended in fact, which the termination is counted from. `next_at` is when there is something
    to do; null: never. Written by billing/dunning.py only.
    """

    class State(models.TextChoices):
        OVERDUE = "overdue"
        SUSPENDED = "suspended"
        TERMINATED = "terminated"
        SETTLED = "settled"

    pk = models.CompositePrimaryKey("subscriber_id", "currency")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    currency = models.CharField(max_length=3)
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    state = models.CharField(max_length=10, choices=State.choices)
    invoice_id = models.BigIntegerField(null=True, blank=True)
    since = models.DateTimeField(null=True, blank=True)
    reminded = models.PositiveSmallIntegerField(default=0)
    suspended_at = models.DateTimeField(null=True, blank=True)
    changed_at = models.DateTimeField()  # when its state became what it is
    next_at = models.DateTimeField(null=True, blank=True)
    events = models.PositiveIntegerField(default=0)  # how many there are

    objects: models.Manager[DunningCase]

    class Meta:
        indexes = [
            models.Index(
                fields=["operator", "next_at"],
                name="dunning_queue",
                condition=Q(next_at__isnull=False),
            ),
            models.Index(
                fields=["operator", "changed_at", "subscriber_id", "currency"], name="dunning_list"
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="dunning_case_names_what_is_owed",
                condition=Q(
                    state="settled",
                    invoice_id__isnull=True,
                    since__isnull=True,
                    next_at__isnull=True,
                )
                | (~Q(state="settled") & Q(invoice_id__isnull=False, since__isnull=False)),
            ),
            models.CheckConstraint(
                name="dunning_case_suspended_has_a_time",
                condition=Q(state__in=["suspended", "terminated"], suspended_at__isnull=False)
                | Q(state__in=["overdue", "settled"], suspended_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.state} since {self.since}"


class DunningEvent(models.Model):
    """One step of a case: `at` is the date it fell due, `done_at` when it was done.

    The two differ where nobody was there to do it. Append-only (triggers refuse all else): who
    sends notices reads it. Written by billing/dunning.py only.
    """

    class Kind(models.TextChoices):
        OVERDUE = "overdue"
        REMINDER = "reminder"
        SUSPENDED = "suspended"
        RESTORED = "restored"
        TERMINATED = "terminated"
        SETTLED = "settled"

    pk = models.CompositePrimaryKey("subscriber_id", "currency", "nr")
    subscriber_id = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    nr = models.PositiveIntegerField()  # 1, 2, … of the case
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    kind = models.CharField(max_length=10, choices=Kind.choices)
    at = models.DateTimeField()
    done_at = models.DateTimeField()
    invoice_id = models.BigIntegerField()
    reason = models.CharField(max_length=200)

    objects: models.Manager[DunningEvent]

    class Meta:
        constraints = [
            # Whatever rings twice or dies half way: a step of an invoice is done once.
            models.UniqueConstraint(
                fields=["subscriber_id", "invoice_id", "kind", "at"], name="dunning_step_once"
            ),
            models.CheckConstraint(
                name="dunning_step_not_before_its_date", condition=Q(done_at__gte=F("at"))
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.at:%Y-%m-%d}"


class DunningStop(models.Model):
    """A time in which nothing is done about debts and no late fee accrues: of an invoice that is
    disputed, of all invoices of one subscriber, or of everybody's.

    Written by billing/dunning.py only.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", null=True, blank=True
    )  # null: all of the operator's
    invoice_id = models.BigIntegerField(null=True, blank=True)  # null: all of the subscriber's
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=200)
    resumed_because = models.CharField(max_length=200, blank=True, default="")

    objects: models.Manager[DunningStop]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["operator", "subscriber", "invoice_id"],
                name="dunning_stopped_once_at_a_time",
                condition=Q(ends_at__isnull=True),
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                name="dunning_stop_of_somebodys_invoice",
                condition=Q(invoice_id__isnull=True) | Q(subscriber__isnull=False),
            ),
            models.CheckConstraint(
                name="dunning_stop_forward",
                condition=Q(ends_at__isnull=True) | Q(ends_at__gte=F("starts_at")),
            ),
        ]

    def __str__(self) -> str:
        return self.reason


class DunningCursor(models.Model):
    """The last invoice number of an operator whose due date has been looked at.

    Numbers are in order of issue, so that who becomes overdue is found by them, and the invoices
    need no index on their dates. Its lock is the claim to look further. Written by
    billing/dunning.py only.
    """

    operator = models.OneToOneField(Operator, models.PROTECT, related_name="+", primary_key=True)
    year = models.PositiveSmallIntegerField(default=0)
    nr = models.PositiveBigIntegerField(default=0)

    objects: models.Manager[DunningCursor]

    def __str__(self) -> str:
        return f"{self.year}-{self.nr}"


class ReminderCursor(models.Model):
    """The last invoice number whose reminder of `days` before its due date has been looked at.

    As DunningCursor, for each day before a due date that a policy names. Written by
    billing/dunning.py only.
    """

    pk = models.CompositePrimaryKey("operator_id", "days")
    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    days = models.PositiveSmallIntegerField()
    year = models.PositiveSmallIntegerField()
    nr = models.PositiveBigIntegerField()

    objects: models.Manager[ReminderCursor]

    class Meta:
        constraints = [
            models.CheckConstraint(name="reminder_ahead_of_its_date", condition=Q(days__gte=1)),
        ]

    def __str__(self) -> str:
        return f"{self.days} days before: {self.year}-{self.nr}"
