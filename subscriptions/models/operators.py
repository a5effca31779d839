"""Who runs the platform's books, and the keys that speak for them."""

from __future__ import annotations

import datetime as dt

from django.db import models
from django.db.models import F, Q


class Operator(models.Model):  # type: ignore[django-manager-missing]  # of money models
    """A carrier or its province company: books, offerings, gateways and numbering of its own.

    A test operator has a clock of its own that stands still until it is moved
    (`POST /api/v1/test-clock`); everybody else's time is the wall's. Read by `clock.now`.
    """

    code = models.CharField(max_length=64, unique=True)
    name = models.CharField(max_length=200)
    time_zone = models.CharField(max_length=64, default="Asia/Shanghai")
    currency = models.CharField(max_length=3, default="CNY")
    is_test = models.BooleanField(default=False)
    clock_at = models.DateTimeField(null=True, blank=True)
    # How long after a bucket's end late usage still draws it.
    late_grace = models.DurationField(default=dt.timedelta(hours=48))
    # How long after its issue an invoice is due.
    payment_term = models.DurationField(default=dt.timedelta(days=15))
    # The card that weighs the usage of a subscriber without a plan.
    default_rate_card = models.CharField(max_length=64, default="standard")
    # Where a subscriber can buy more: told to gateways that are refused.
    top_up_url = models.CharField(max_length=500, blank=True, default="")
    # In periods that begin from then on nobody pays for overage who has not agreed to it.
    overage_by_consent_since = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()

    objects: models.Manager[Operator]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="operator_only_a_test_operator_has_a_clock",
                condition=Q(is_test=True, clock_at__isnull=False)
                | Q(is_test=False, clock_at__isnull=True),
            ),
            models.CheckConstraint(
                name="operator_grace_not_negative",
                condition=Q(late_grace__gte=dt.timedelta(0)),
            ),
            models.CheckConstraint(
                name="operator_payment_term_not_negative",
                condition=Q(payment_term__gte=dt.timedelta(0)),
            ),
        ]

    def __str__(self) -> str:
        return self.code


class Gateway(models.Model):
    """A sender of usage. Its keys may be rotated; it stays the same gateway, so that
    record ids stay unique across a rotation."""

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="gateways")
    name = models.CharField(max_length=100)
    created_at = models.DateTimeField()

    objects: models.Manager[Gateway]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "name"], name="gateway_name_once"),
        ]

    def __str__(self) -> str:
        return self.name


class ApiKey(models.Model):
    """A bearer key. Only its SHA-256 is kept: the key has 256 random bits of its own.

    A gateway key may be bound to one subject; that subject then wins over the one in a record.
    """

    class Role(models.TextChoices):
        OPERATOR = "operator"
        GATEWAY = "gateway"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="api_keys")
    role = models.CharField(max_length=16, choices=Role.choices)
    gateway = models.ForeignKey(
        Gateway, models.PROTECT, related_name="api_keys", null=True, blank=True
    )
    name = models.CharField(max_length=100)
    digest = models.BinaryField(max_length=32, unique=True)
    subject = models.CharField(max_length=256, blank=True, default="")
    created_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[ApiKey]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="api_key_gateway_role_has_a_gateway",
                condition=Q(role="gateway", gateway__isnull=False)
                | Q(role="operator", gateway__isnull=True),
            ),
            models.CheckConstraint(
                name="api_key_revoked_after_created",
                condition=Q(revoked_at__isnull=True) | Q(revoked_at__gte=F("created_at")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


class IdempotentRequest(models.Model):
    """The first answer to a POST that carried an `Idempotency-Key`.

    Written in the transaction of the effect it answers for, so that either both exist or none.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    key = models.CharField(max_length=255)
    fingerprint = models.BinaryField(max_length=32)  # SHA-256 of method, path and body
    status = models.PositiveSmallIntegerField()
    body = models.JSONField()
    created_at = models.DateTimeField(db_index=True)

    objects: models.Manager[IdempotentRequest]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "key"], name="idempotency_key_once"),
        ]

    def __str__(self) -> str:
        return self.key
