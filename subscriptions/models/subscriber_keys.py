"""Keys that subscribers present to the carrier's gateways, and who tries ones that are none."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from subscriptions.fields import units_field
from subscriptions.models.operators import Operator
from subscriptions.models.subscribers import Subject, Subscriber


class SubscriberKey(models.Model):
    """A credential of a subscriber's, and the subject under which usage by it arrives.

    So usage by key is usage by subject, and the charge needs nothing more. `cap` is what gateways
    are let pass by it in a day or month of the operator's zone, `allowed_models` are patterns as in
    rate cards (none: all). What it is found by are its `KeySecret`s. Written only by
    subscriptions/subscriber_keys/keeping.py.
    """

    class Per(models.TextChoices):
        DAY = "day"
        MONTH = "month"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    subscriber = models.ForeignKey(Subscriber, models.PROTECT, related_name="keys")
    binding = models.OneToOneField(Subject, models.PROTECT, related_name="+")
    subject = models.CharField(max_length=256)  # the binding's, which stays
    name = models.CharField(max_length=100)
    cap = units_field(null=True, blank=True)
    cap_per = models.CharField(max_length=5, choices=Per.choices, blank=True, default="")
    allowed_models = ArrayField(models.CharField(max_length=256), default=list, blank=True)
    created_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[SubscriberKey]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber", "name"],
                name="subscriber_key_name_once",
                condition=Q(revoked_at__isnull=True),
            ),
            models.CheckConstraint(
                name="subscriber_key_cap_has_a_time",
                condition=Q(cap__isnull=True, cap_per="")
                | Q(cap__gt=0, cap_per__in=["day", "month"]),
            ),
            models.CheckConstraint(
                name="subscriber_key_revoked_after_created",
                condition=Q(revoked_at__isnull=True) | Q(revoked_at__gte=F("created_at")),
            ),
        ]

    def __str__(self) -> str:
        return self.name


class KeySecret(models.Model):
    """What a key is presented as, kept as its SHA-256: it has 256 random bits of its own.

    A rotated one is good until `ends_at`. `hint` is its beginning and end, to be told by.
    """

    digest = models.BinaryField(max_length=32, unique=True)
    key = models.ForeignKey(SubscriberKey, models.PROTECT, related_name="secrets")
    hint = models.CharField(max_length=24)
    created_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[KeySecret]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="key_secret_forward",
                condition=Q(ends_at__isnull=True) | Q(ends_at__gte=F("created_at")),
            ),
        ]

    def __str__(self) -> str:
        return self.hint


class KeyStep(models.Model):
    """What was done to a key, by whom and when: append-only (a trigger refuses all else)."""

    class Kind(models.TextChoices):
        CREATED = "created"
        CHANGED = "changed"
        ROTATED = "rotated"
        REVOKED = "revoked"

    pk = models.CompositePrimaryKey("key_id", "nr")
    key = models.ForeignKey(SubscriberKey, models.PROTECT, related_name="steps", db_index=False)
    nr = models.PositiveIntegerField()
    kind = models.CharField(max_length=8, choices=Kind.choices)
    at = models.DateTimeField()
    by = models.CharField(max_length=100)  # `portal`, or the name of the operator's key
    detail = models.JSONField(default=dict)

    objects: models.Manager[KeyStep]

    def __str__(self) -> str:
        return f"{self.kind} {self.nr}"


class KeyMisses(models.Model):
    """Keys that are none, as presented through a gateway, and since when: a guard against guessing.

    `who` is the gateway, or one of its clients. Written only by
    subscriptions/subscriber_keys/guessing.py.
    """

    pk = models.CompositePrimaryKey("gateway_id", "who")
    gateway = models.ForeignKey(
        "subscriptions.Gateway", models.PROTECT, related_name="+", db_index=False
    )
    who = models.CharField(max_length=140)
    since = models.DateTimeField()
    misses = models.PositiveIntegerField(default=0)
    locked_until = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[KeyMisses]

    def __str__(self) -> str:
        return self.who
