"""Units a subscriber may burn, the journal of every movement, and what others must hear of."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import units_field
from subscriptions.models.subscribers import Subscriber


class Bucket(models.Model):
    """Units that pay for usage from `valid_from` until `valid_until` (TMF654 Bucket).

    Always: `used` = the sum of the bucket's journal entries but grants; `granted` = its grants,
    less what was returned; remaining = granted - used, 0 <= reserved <= remaining. `granted` is
    null where there is no limit (`uncovered`, uncapped `overage`). Written only by
    subscriptions/buckets.py.

    A `pool` bucket is a member's: what usage drew through it was lent by one bucket of the main
    line just then, so that `granted` = `used` (see subscriptions/pools.py).
    """

    class Kind(models.TextChoices):
        ROLLOVER = "rollover"
        GIFT = "gift"
        ALLOWANCE = "allowance"
        BOOSTER = "booster"
        POOL = "pool"
        OVERAGE = "overage"
        UNCOVERED = "uncovered"

    pk = models.CompositePrimaryKey("subscriber_id", "id")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="buckets", db_constraint=False, db_index=False
    )
    id = models.BigIntegerField()  # from the sequence subscriptions_bucket_id
    kind = models.CharField(max_length=10, choices=Kind.choices)
    priority = models.PositiveSmallIntegerField()  # the lowest burns first
    granted = units_field(null=True)
    used = units_field(default=0)
    reserved = units_field(default=0)
    # What a process remembers of the subscriber holds while this stays: it goes up when a bucket
    # comes that could burn earlier, and when a subject, plan or suspension changes.
    generation = models.IntegerField(default=0)
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField()
    # Of which subscription, where it belongs to one's period; a booster or gift has none.
    subscription_id = models.BigIntegerField(null=True)
    grant_key = models.CharField(max_length=120)  # makes granting repeatable
    note = models.CharField(max_length=200, blank=True, default="")
    created_at = models.DateTimeField()

    objects: models.Manager[Bucket]

    class Meta:
        indexes = [
            models.Index(fields=["subscriber_id", "valid_until"], name="bucket_live"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber_id", "grant_key"], name="bucket_granted_once"
            ),
            models.CheckConstraint(
                name="bucket_remaining_and_reserved_within_grant",
                condition=Q(granted__isnull=True) | Q(granted__gte=F("used") + F("reserved")),
            ),
            models.CheckConstraint(
                name="bucket_used_and_reserved_not_negative",
                condition=Q(used__gte=0, reserved__gte=0),
            ),
            models.CheckConstraint(
                name="bucket_only_overflow_is_unlimited",
                condition=Q(granted__isnull=False) | Q(kind__in=["overage", "uncovered"]),
            ),
            models.CheckConstraint(
                name="bucket_forward", condition=Q(valid_until__gt=F("valid_from"))
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class BucketEntry(models.Model):
    """One movement of units in one bucket: append-only, one row per (batch, bucket, kind).

    `units` > 0 leaves the bucket (usage, a transfer to another bucket), < 0 enters it (a grant,
    a refill). Partitioned by day of `charged_at`, the operator's time of the movement.
    """

    class Kind(models.IntegerChoices):
        GRANT = 1  # enters: allowance, booster, gift, block, rolled over
        USAGE = 2  # leaves: drawn by usage records
        ROLLOVER = 3  # leaves: moved to the next period's rollover bucket
        WITHDRAWAL = 4  # leaves: a grant taken back before it could be used
        REVERSAL = 5  # enters: drawn for usage that is void or less by now
        LAPSE = 6  # leaves, with a reversal into a bucket that has ended: nobody may use it
        REFUND = 7  # leaves: its price was given back
        HANDOVER = 8  # leaves: moved to a bucket of another subscriber
        SHARED = 9  # leaves: lent to a member's pool bucket, which usage drew in the same batch
        UNSHARED = 10  # enters: lent for usage that is void or less by now
        # Leaves a pool bucket, with the reversal that it had, or an overage bucket whose limit is
        # lower from now on: it was granted less.
        RETURNED = 11
        GIVEN = 12  # leaves: a gift to another of the family

    pk = models.CompositePrimaryKey("subscriber_id", "batch_id", "bucket_id", "kind", "charged_at")
    subscriber_id = models.BigIntegerField()
    batch_id = models.BigIntegerField()  # from the sequence subscriptions_batch_id
    bucket_id = models.BigIntegerField()
    kind = models.PositiveSmallIntegerField(choices=Kind.choices)
    units = units_field()
    charged_at = models.DateTimeField()

    objects: models.Manager[BucketEntry]

    def __str__(self) -> str:
        return f"{self.units} of bucket {self.bucket_id}"


class OutboxEvent(models.Model):
    """Something that happened to a subscriber and that somebody must hear of, once.

    Written in the transaction that made it true; `sent_at` is when it was handed on to those who
    tell people and systems. `key` names the happening, so that it is written once however often it
    is seen. Written only by subscriptions/outbox.py, and by the draw in PostgreSQL.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "key")
    subscriber_id = models.BigIntegerField()
    key = models.CharField(max_length=120)
    kind = models.CharField(max_length=40)  # bucket.threshold, bucket.exhausted, …
    payload = models.JSONField()
    occurred_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[OutboxEvent]

    class Meta:
        indexes = [
            # The sender's queue, across subscribers on purpose.
            models.Index(
                fields=["occurred_at"], name="outbox_queue", condition=Q(sent_at__isnull=True)
            ),
            # What is replayed, and what is old.
            models.Index(
                fields=["occurred_at"], name="outbox_told", condition=Q(sent_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return self.key
