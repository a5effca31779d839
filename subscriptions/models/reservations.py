"""What gateways asked for before the tokens were spent, and the units held for it."""

from __future__ import annotations

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q

from subscriptions.fields import units_field
from subscriptions.models.operators import Gateway, Operator


class ReservationName(models.Model):
    """An id that a gateway gave to something it asked for, and the first answer to it.

    Not a hot table's key: ids are unique across a gateway's subscribers, hence a table of their
    own. `subscriber_id` is null where nobody was called that then.
    """

    pk = models.CompositePrimaryKey("gateway_id", "name")
    gateway = models.ForeignKey(
        Gateway, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    name = models.CharField(max_length=512)
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    subscriber_id = models.BigIntegerField(null=True)
    fingerprint = models.BinaryField(max_length=32)  # SHA-256 of what was asked
    answer = models.JSONField()
    created_at = models.DateTimeField()

    objects: models.Manager[ReservationName]

    class Meta:
        indexes = [
            # Rows come in the order of time and are only looked up to be forgotten.
            BrinIndex(fields=["created_at"], name="reservation_name_age", pages_per_range=32),
        ]

    def __str__(self) -> str:
        return self.name


class Reservation(models.Model):
    """Units held for usage to come, and what became of them. It is its own journal.

    `holds` lists [bucket id, units] in burn order, and whose it is where the bucket is a main
    line's; `held` is their sum. While it is open these units are part of the buckets' `reserved`; a
    settled one keeps what it held last. `promised` are units of packs that will be bought when
    usage asks for them: no bucket holds those.

    One with `slice_units` is a slice, drawn down by many reports and renewed; `final`: what it was
    granted last was all there was. Written only by subscriptions/reservations.py.
    """

    class State(models.IntegerChoices):
        OPEN = 1
        COMMITTED = 2  # its usage was charged
        RELEASED = 3  # given back by the gateway
        EXPIRED = 4  # given back by the sweep
        DENIED = 5  # nothing was ever held

    pk = models.CompositePrimaryKey("subscriber_id", "gateway_id", "name")
    subscriber_id = models.BigIntegerField()
    gateway_id = models.BigIntegerField()
    name = models.CharField(max_length=512)
    operator_id = models.BigIntegerField()
    state = models.PositiveSmallIntegerField(choices=State.choices)
    holds = models.JSONField()
    held = units_field()
    promised = units_field()
    slice_units = units_field(null=True)
    final = models.BooleanField(default=False)
    rated_tokens = models.BigIntegerField(default=0)  # counted by the plan's rate limit
    subject = models.CharField(max_length=256, default="")  # of a slice: who renews it
    ttl_seconds = models.PositiveIntegerField()  # how long a hold lasts; a renewal lasts as long
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    settled_at = models.DateTimeField(null=True)
    # Of the commit: SHA-256 of the record, whether it came too late for the hold, the answer.
    commit_fingerprint = models.BinaryField(max_length=32, null=True)
    late = models.BooleanField(default=False)
    answer = models.JSONField(null=True)

    objects: models.Manager[Reservation]

    class Meta:
        indexes = [
            # The sweep's queue, across subscribers on purpose; what is settled leaves it.
            models.Index(
                fields=["operator_id", "expires_at"],
                name="reservation_expiry_queue",
                condition=Q(state=1),
            ),
            models.Index(
                fields=["subscriber_id", "expires_at"],
                name="reservation_open",
                condition=Q(state=1),
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="reservation_amounts_not_negative",
                condition=Q(held__gte=0, promised__gte=0)
                & (Q(slice_units__isnull=True) | Q(slice_units__gt=0)),
            ),
            models.CheckConstraint(
                name="reservation_open_until_settled",
                condition=Q(state__in=[1, 5], settled_at__isnull=True)
                | Q(state__in=[2, 3, 4], settled_at__isnull=False),
            ),
            models.CheckConstraint(
                name="reservation_denied_holds_nothing",
                condition=~Q(state=5) | Q(held=0, promised=0),
            ),
            models.CheckConstraint(
                name="reservation_commit_is_answered",
                condition=Q(state=2, commit_fingerprint__isnull=False, answer__isnull=False)
                | (~Q(state=2) & Q(commit_fingerprint__isnull=True, late=False)),
            ),
            models.CheckConstraint(
                name="reservation_forward", condition=Q(expires_at__gte=F("created_at"))
            ),
        ]

    def __str__(self) -> str:
        return self.name
