"""Usage as it came, what became of each batch, hourly totals, and what could not be charged."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Coalesce

from subscriptions.fields import TransactionField, units_field
from subscriptions.models import ApiKey, Gateway, Operator


class UsageRecord(models.Model):
    """What one request used (3GPP CDR, TMF635 Usage), stored once and charged once.

    The five token classes are exclusive; `units` is computed once, from the weights of the rate
    card version at `occurred_at`. Partitioned by UTC day of `occurred_at`; each partition has a
    unique index on (subscriber_id, gateway_id, source, record_id). No surrogate key, no foreign
    keys: this is the hottest table. Written by metering/ingest.py only.
    """

    pk = models.CompositePrimaryKey(
        "subscriber_id", "gateway_id", "source", "record_id", "occurred_at"
    )
    subscriber_id = models.BigIntegerField()
    gateway_id = models.BigIntegerField()
    source = models.CharField(max_length=256)  # empty for native records
    record_id = models.CharField(max_length=512)
    occurred_at = models.DateTimeField()
    batch_id = models.BigIntegerField()
    subject_id = models.BigIntegerField()  # the binding, hence the subject's name
    weight_id = models.BigIntegerField()  # the RateCardWeight that made the units
    units = units_field()
    uncached_input_tokens = models.IntegerField()
    cached_input_tokens = models.IntegerField()
    cache_write_tokens = models.IntegerField()
    output_tokens = models.IntegerField()  # without reasoning
    reasoning_tokens = models.IntegerField()
    model = models.CharField(max_length=256)
    outcome = models.CharField(max_length=32)  # empty: complete
    attributes = models.JSONField(null=True)

    objects: models.Manager[UsageRecord]

    def __str__(self) -> str:
        return self.record_id


class UsageBatch(models.Model):
    """One accepted POST (or the part of it in one shard): committed with its records or not at all.

    `folded_at` is null until its records are in the hourly totals; the oldest such batch, by
    `stored_at`, is the rollup watermark that month close waits for.
    """

    id = models.BigIntegerField(primary_key=True)  # from the sequence subscriptions_batch_id
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    gateway = models.ForeignKey(
        Gateway, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    charged_at = models.DateTimeField()  # the operator's time when it was charged
    stored_at = models.DateTimeField()  # the wall's, for lag
    records = models.IntegerField()
    units = units_field()
    occurred_from = models.DateTimeField()
    occurred_to = models.DateTimeField()  # inclusive
    folded_at = models.DateTimeField(null=True)
    stored_by = TransactionField()

    objects: models.Manager[UsageBatch]

    class Meta:
        indexes = [
            models.Index(fields=["id"], name="batch_unfolded", condition=Q(folded_at__isnull=True)),
            # What was stored since a snapshot: records.looks_around.
            models.Index(fields=["stored_by"], name="batch_stored_by"),
            # Batches come nearly in the order of time: some kilobytes that cost the charge nothing.
            BrinIndex(
                fields=["occurred_from", "occurred_to"],
                name="batch_times",
                pages_per_range=8,
                autosummarize=True,
            ),
            BrinIndex(
                fields=["charged_at"],
                name="batch_charged",
                pages_per_range=8,
                autosummarize=True,
            ),
        ]

    def __str__(self) -> str:
        return f"batch {self.id}"


class Adjustment(models.Model):
    """One decision on usage that was charged, of one subscriber: one journal batch, and its audit.

    `units` is what its records cost more (less: < 0) than before. Written by
    metering/adjusting.py only.
    """

    class Kind(models.IntegerChoices):
        VOID = 1  # the usage never was
        CORRECTION = 2  # it was other than told
        RERATING = 3  # it weighs something else

    pk = models.CompositePrimaryKey("subscriber_id", "batch_id")
    subscriber_id = models.BigIntegerField()
    batch_id = models.BigIntegerField()  # from the sequence subscriptions_batch_id
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    kind = models.PositiveSmallIntegerField(choices=Kind.choices)
    reason = models.CharField(max_length=500)
    made_by = models.CharField(max_length=100)  # the key's name
    made_at = models.DateTimeField()  # the operator's time
    records = models.IntegerField()
    units = units_field()
    occurred_from = models.DateTimeField()
    occurred_to = models.DateTimeField()  # inclusive

    objects: models.Manager[Adjustment]

    class Meta:
        indexes = [
            # The audit's list, across subscribers on purpose.
            models.Index(fields=["operator", "batch_id"], name="adjustment_list"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.batch_id}"


class Rerating(models.Model):
    """A range of usage under another rate card: previewed, then applied as it was previewed.

    `applying` is entered by whoever orders it, and left when no share of it waits any more.
    Written by metering/rerating.py only.
    """

    class State(models.TextChoices):
        PREVIEWING = "previewing"
        PREVIEWED = "previewed"
        APPLYING = "applying"
        APPLIED = "applied"
        REFUSED = "refused"  # something is not as it was previewed: nothing was moved

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    rate_card = models.CharField(max_length=64)  # the code of the card that is to weigh
    replaces = models.CharField(max_length=64, blank=True, default="")  # only what this one weighed
    since = models.DateTimeField()
    until = models.DateTimeField()
    card_stamp = models.BigIntegerField()  # the operator's newest card version at the preview
    large = models.BooleanField(default=False)  # done behind the request that orders it
    state = models.CharField(max_length=10, choices=State.choices, default=State.PREVIEWING)
    reason = models.CharField(max_length=500)
    made_by = models.CharField(max_length=100)
    made_at = models.DateTimeField()
    # When all of it was found to be as previewed: from then on shares are applied.
    compared_at = models.DateTimeField(null=True)
    applied_at = models.DateTimeField(null=True)

    objects: models.Manager[Rerating]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="rerating_applied_when_compared",
                condition=models.Q(applied_at=None)
                | models.Q(state="applied", compared_at__isnull=False),
            ),
        ]
        indexes = [
            models.Index(
                fields=["id"],
                name="rerating_waiting",
                condition=models.Q(state__in=["previewing", "applying"]),
            ),
        ]

    def __str__(self) -> str:
        return f"re-rating {self.pk}"


class ReratingShare(models.Model):
    """What a re-rating changes for one subscriber: the queue of whoever works at it.

    It waits to be previewed while it has no digest, and to be applied while it has neither a
    `batch_id` (0: nothing changes) nor is `stale`: other than it was previewed, and left so.
    `digest` is of all that is in force in the range.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "run_id")
    subscriber_id = models.BigIntegerField()
    run_id = models.BigIntegerField()
    records = models.IntegerField(default=0)  # that change
    units_before = units_field(default=0)
    units_after = units_field(default=0)
    digest = models.BinaryField(max_length=32, null=True)
    batch_id = models.BigIntegerField(null=True)
    stale = models.BooleanField(default=False)
    problem = models.CharField(max_length=500, blank=True, default="")  # why it still waits

    objects: models.Manager[ReratingShare]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="rerating_share_applied_or_stale",
                condition=models.Q(batch_id=None) | models.Q(stale=False, digest__isnull=False),
            ),
        ]
        indexes = [
            models.Index(fields=["run_id", "subscriber_id"], name="rerating_shares"),
        ]

    def __str__(self) -> str:
        return f"of re-rating {self.run_id}"


class AdjustedRecord(models.Model):
    """A row against a usage record, or in its place: a record itself is never edited.

    Rows of a record alternate, `nr` from 1: an odd one takes back what was in force until then
    (all counts negative, `requests` -1), an even one of the same batch says what is in force since
    (`requests` 1). A void has no even one. `draws` holds [bucket, units] in the order drawn, their
    sum is `units`: the first odd row so freezes the split that followed from the record's own
    batch. Partitioned as the records are; written by metering/adjusting.py only.
    """

    pk = models.CompositePrimaryKey(
        "subscriber_id", "gateway_id", "source", "record_id", "occurred_at", "nr"
    )
    subscriber_id = models.BigIntegerField()
    gateway_id = models.BigIntegerField()
    source = models.CharField(max_length=256)
    record_id = models.CharField(max_length=512)
    occurred_at = models.DateTimeField()
    nr = models.IntegerField()
    batch_id = models.BigIntegerField()  # the adjustment's
    requests = models.SmallIntegerField()
    weight_id = models.BigIntegerField()
    units = units_field()
    uncached_input_tokens = models.IntegerField()
    cached_input_tokens = models.IntegerField()
    cache_write_tokens = models.IntegerField()
    output_tokens = models.IntegerField()
    reasoning_tokens = models.IntegerField()
    model = models.CharField(max_length=256)
    outcome = models.CharField(max_length=32)
    draws = models.JSONField()

    objects: models.Manager[AdjustedRecord]

    def __str__(self) -> str:
        return f"{self.record_id} {self.nr}"


class Totals(models.Model):
    """What was used of something in some time; units in thousandths."""

    requests = models.BigIntegerField()
    uncached_input_tokens = models.BigIntegerField()
    cached_input_tokens = models.BigIntegerField()
    cache_write_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    units = units_field()

    class Meta:
        abstract = True


class UsageHour(Totals):
    """Totals of a subscriber's hour (of the operator's zone) and model; written by rollups.py."""

    pk = models.CompositePrimaryKey("subscriber_id", "hour", "model")
    subscriber_id = models.BigIntegerField()
    hour = models.DateTimeField()
    model = models.CharField(max_length=256)

    objects: models.Manager[UsageHour]

    class Meta:
        indexes = [
            # Hours come nearly in the order of time: who asks for one of all subscribers finds it
            # in some kilobytes, and the fold keeps its updates within a page.
            BrinIndex(fields=["hour"], name="usage_hour_time", autosummarize=True),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%dT%H} {self.model}"


class SubjectHour(Totals):
    """The same totals by subject instead of model: which key, device or colleague used what.

    A subject is a binding, as a record has it. Folded with those by model, by rollups.py.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "hour", "subject_id")
    subscriber_id = models.BigIntegerField()
    hour = models.DateTimeField()
    subject_id = models.BigIntegerField()

    objects: models.Manager[SubjectHour]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%dT%H} of {self.subject_id}"


class UsageDay(Totals):
    """The same totals of a local day; written by rollups.py with those of its hours."""

    pk = models.CompositePrimaryKey("subscriber_id", "day", "model")
    subscriber_id = models.BigIntegerField()
    day = models.DateField()
    model = models.CharField(max_length=256)

    objects: models.Manager[UsageDay]

    def __str__(self) -> str:
        return f"{self.day} {self.model}"


class SubjectDay(Totals):
    """The same by subject."""

    pk = models.CompositePrimaryKey("subscriber_id", "day", "subject_id")
    subscriber_id = models.BigIntegerField()
    day = models.DateField()
    subject_id = models.BigIntegerField()

    objects: models.Manager[SubjectDay]

    def __str__(self) -> str:
        return f"{self.day} of {self.subject_id}"


class QuarantinedRecord(models.Model):
    """A record that could be read but not charged, kept as it came with the reason.

    Sent again while open, it is the same row. A retry that succeeds resolves it.
    """

    class Resolution(models.TextChoices):
        CHARGED = "charged"
        DUPLICATE = "duplicate"
        DISMISSED = "dismissed"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="quarantine")
    gateway = models.ForeignKey(Gateway, models.PROTECT, related_name="+")
    source = models.CharField(max_length=256, blank=True, default="")
    record_id = models.CharField(max_length=512, blank=True, default="")
    subject = models.CharField(max_length=256, blank=True, default="")
    cause = models.CharField(max_length=32)
    detail = models.TextField()
    payload = models.TextField()  # the record's JSON as it was sent, without any prompt text
    digest = models.BinaryField(max_length=32)  # SHA-256 of source and payload
    received_at = models.DateTimeField()
    # As the record says, where that can be read.
    occurred_at = models.DateTimeField(null=True, blank=True)
    sequence = models.BigIntegerField(null=True, blank=True)  # the gateway's number of it
    attempts = models.PositiveIntegerField(default=1)
    resolution = models.CharField(max_length=16, choices=Resolution.choices, blank=True, default="")
    resolved_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[QuarantinedRecord]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "-id"], name="quarantine_list"),
            models.Index(
                fields=["operator", "cause", "-id"],
                name="quarantine_waiting",
                condition=Q(resolved_at__isnull=True),
            ),
            # By what people look for: a record's id, or whom the gateway named.
            models.Index(fields=["operator", "record_id", "-id"], name="quarantine_by_record"),
            models.Index(fields=["operator", "subject", "-id"], name="quarantine_by_subject"),
            models.Index(
                F("gateway"), Coalesce("occurred_at", "received_at"), name="quarantine_by_time"
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "digest"],
                condition=Q(resolved_at__isnull=True),
                name="quarantine_open_once",
            ),
            models.CheckConstraint(
                name="quarantine_resolution_has_a_time",
                condition=Q(resolution="", resolved_at__isnull=True)
                | (~Q(resolution="") & Q(resolved_at__isnull=False)),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.cause} {self.record_id}"


class SuspectedRepeat(models.Model):
    """A charged record that may be an earlier one told again under a made-up id.

    Both stay charged until somebody decides. Written by metering/repeats.py only.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    gateway = models.ForeignKey(Gateway, models.PROTECT, related_name="+")
    source = models.CharField(max_length=256)
    record_id = models.CharField(max_length=512)
    first_record_id = models.CharField(max_length=512)
    subject = models.CharField(max_length=256)
    model = models.CharField(max_length=256)
    occurred_at = models.DateTimeField()
    units = units_field()  # of this record: what is too much if it is a repeat
    flagged_at = models.DateTimeField()

    objects: models.Manager[SuspectedRepeat]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "id"], name="repeat_list"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "source", "record_id"], name="repeat_flagged_once"
            ),
            models.CheckConstraint(
                name="repeat_of_another_record", condition=~Q(record_id=F("first_record_id"))
            ),
        ]

    def __str__(self) -> str:
        return f"{self.record_id} like {self.first_record_id}"


class RepeatDismissal(models.Model):
    """Somebody looked at a suspected repeat and found that it is none. Never changed or deleted.

    Written by metering/repeats.py only.
    """

    repeat = models.OneToOneField(SuspectedRepeat, models.PROTECT, related_name="dismissal")
    reason = models.CharField(max_length=200)
    dismissed_at = models.DateTimeField()
    key = models.ForeignKey(ApiKey, models.PROTECT, related_name="+")  # whose decision it was

    objects: models.Manager[RepeatDismissal]

    def __str__(self) -> str:
        return f"not a repeat: {self.reason}"


class DuplicateBatch(models.Model):
    """The records of one request that were charged before: they are stored nowhere else.

    `times` are those that the records carried this time. Written by metering/duplicates.py only.
    """

    pk = models.CompositePrimaryKey("batch_id", "source")
    batch_id = models.BigIntegerField()  # from the sequence subscriptions_batch_id
    source = models.CharField(max_length=256)
    gateway = models.ForeignKey(
        Gateway, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    charged_at = models.DateTimeField()
    occurred_from = models.DateTimeField()
    occurred_to = models.DateTimeField()  # inclusive
    times = ArrayField(models.DateTimeField())

    objects: models.Manager[DuplicateBatch]

    class Meta:
        indexes = [
            models.Index(fields=["gateway", "occurred_to"], name="duplicates_of_gateway"),
        ]

    def __str__(self) -> str:
        return f"duplicates of batch {self.batch_id}"


class UsageWindow(models.Model):
    """A span of a gateway's time of which it has told its own totals (`usage-counters`).

    What it holds is the usage with `window_start <= occurred_at < window_end`, of one source or
    (null) of all. `findings` are what the last comparison found. It is due to be compared while
    `state` is open, or `touches`, which goes up when usage of that time is folded, is past
    `compared_touches`. Written by metering/usage_windows.py only.
    """

    class State(models.TextChoices):
        OPEN = "open"  # counters have come and are not compared yet
        DIFFERS = "differs"
        CLOSED = "closed"  # no difference, or one that somebody accepted

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    gateway = models.ForeignKey(Gateway, models.PROTECT, related_name="+")
    source = models.CharField(max_length=256, null=True)  # noqa: DJ001 - "" are native records
    window_start = models.DateTimeField()
    window_end = models.DateTimeField()
    state = models.CharField(max_length=8, choices=State.choices, default=State.OPEN)
    revision = models.PositiveIntegerField(default=0)  # that of the counter which holds
    touches = models.BigIntegerField(default=0)
    compared_touches = models.BigIntegerField(default=0)
    compared_at = models.DateTimeField(null=True)
    findings = models.JSONField(null=True)
    late_requests = models.BigIntegerField(default=0)  # those that came when it was closed
    # A resend that is asked for: of the missing numbers, or of all that the window holds.
    asked_at = models.DateTimeField(null=True)
    asked_whole = models.BooleanField(default=False)
    asked_reason = models.CharField(max_length=200, blank=True, default="")
    closed_at = models.DateTimeField(null=True)
    closed_reason = models.CharField(max_length=200, blank=True, default="")

    objects: models.Manager[UsageWindow]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "id"], name="window_list"),
            models.Index(fields=["gateway", "window_end"], name="window_touch"),
            models.Index(
                fields=["operator", "id"],
                name="window_due",
                condition=Q(state="open") | ~Q(touches=F("compared_touches")),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "source", "window_start", "window_end"],
                nulls_distinct=False,
                name="window_once",
            ),
            models.CheckConstraint(
                name="window_forward", condition=Q(window_end__gt=F("window_start"))
            ),
            models.CheckConstraint(
                name="window_closed_has_a_time",
                condition=Q(state="closed", closed_at__isnull=False)
                | (~Q(state="closed") & Q(closed_at__isnull=True, closed_reason="")),
            ),
            models.CheckConstraint(
                name="window_compared_has_findings",
                condition=Q(state="open")
                | Q(compared_at__isnull=False, findings__isnull=False, revision__gt=0),
            ),
            models.CheckConstraint(
                name="window_compared_what_was_touched",
                condition=Q(compared_touches__lte=F("touches"), late_requests__gte=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.window_start:%Y-%m-%dT%H:%M} to {self.window_end:%Y-%m-%dT%H:%M}"


class UsageCounter(models.Model):
    """A gateway's own totals of a window. A later one takes its place; it is never changed.

    Inclusive, as in records: input holds cached and cache-write tokens, output holds reasoning.
    What the gateway does not tell is null, and not compared. `sequences` are the numbers that it
    gave its records: objects of source, first and last. Written by metering/usage_windows.py only.
    """

    window = models.ForeignKey(UsageWindow, models.PROTECT, related_name="counters")
    revision = models.PositiveIntegerField()
    requests = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    cached_input_tokens = models.BigIntegerField(null=True)
    cache_write_tokens = models.BigIntegerField(null=True)
    output_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField(null=True)
    sequences = models.JSONField(default=list)
    received_at = models.DateTimeField()
    key = models.ForeignKey(ApiKey, models.PROTECT, related_name="+")

    objects: models.Manager[UsageCounter]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["window", "revision"], name="counter_revision_once"),
            models.CheckConstraint(
                name="counter_not_negative",
                condition=Q(requests__gte=0, input_tokens__gte=0, output_tokens__gte=0),
            ),
        ]

    def __str__(self) -> str:
        return f"revision {self.revision}"


class WindowEvent(models.Model):
    """Something that happened to a window, for whoever asks later. Never changed or deleted.

    `key`, or `by` of the staff, is whose doing it was; neither: the comparison's. Written by
    metering/usage_windows.py only.
    """

    class Kind(models.TextChoices):
        COUNTED = "counted"  # counters came, or others in their place
        ASKED = "asked"  # for a resend
        CLOSED = "closed"
        LATE = "late"  # usage came when it was closed
        REOPENED = "reopened"

    window = models.ForeignKey(UsageWindow, models.PROTECT, related_name="events")
    kind = models.CharField(max_length=8, choices=Kind.choices)
    at = models.DateTimeField()
    reason = models.CharField(max_length=200, blank=True, default="")
    detail = models.JSONField(default=dict)
    key = models.ForeignKey(ApiKey, models.PROTECT, related_name="+", null=True)
    by = models.CharField(max_length=100, blank=True, default="")

    objects: models.Manager[WindowEvent]

    def __str__(self) -> str:
        return f"{self.kind} {self.at:%Y-%m-%dT%H:%M}"
