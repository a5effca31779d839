"""Who works for an operator, from where, and what they looked at and did."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from subscriptions.models.operators import Operator
from subscriptions.models.subscribers import Subscriber
from subscriptions.models.users import User


class Role(models.TextChoices):
    """What somebody's work is. What each may do is said by the pages of the console."""

    PRODUCT = "product", _("Product manager")
    AGENT = "agent", _("Agent")
    FINANCE = "finance", _("Finance")
    OPERATIONS = "operations", _("Operations")
    AUDITOR = "auditor", _("Auditor")
    PLATFORM = "platform", _("Platform")


class Staff(models.Model):
    """That a user works for an operator, in one role; another role is another row, after the end
    of this one. Written only by subscriptions/users/staff.py.
    """

    user = models.ForeignKey(User, models.PROTECT, related_name="staff")
    operator = models.ForeignKey(Operator, models.PROTECT, related_name="staff")
    role = models.CharField(max_length=10, choices=Role.choices)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[Staff]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="staff_one_role_at_a_time",
                fields=["user", "operator"],
                condition=Q(ended_at__isnull=True),
            ),
            models.CheckConstraint(
                name="staff_role_is_one",
                condition=Q(role__in=Role.values),
            ),
            models.CheckConstraint(
                name="staff_ended_after_created",
                condition=Q(ended_at__isnull=True) | Q(ended_at__gte=F("created_at")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.role} {self.user_id}"


class StaffNetwork(models.Model):
    """Where an operator's staff may work from; without any, from everywhere.

    `network` is an address or a network in CIDR notation. Written only by
    subscriptions/users/staff.py.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="staff_networks")
    network = models.CharField(max_length=43)
    note = models.CharField(max_length=200, blank=True, default="")
    created_at = models.DateTimeField()

    objects: models.Manager[StaffNetwork]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "network"], name="staff_network_once"),
        ]

    def __str__(self) -> str:
        return self.network


class AuditEntry(models.Model):
    """What somebody on the staff saw or changed, and why: append-only.

    `action` is `<page>.<what>`, `about` names what it was about (`subscriber/s-1`); of a look at
    personal data `after` names what was shown and holds none of it. Times are the wall's: it is
    about people at work. Written only by subscriptions/auditing.py.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    at = models.DateTimeField()
    user = models.ForeignKey(User, models.PROTECT, related_name="+", db_index=False)
    who = models.CharField(max_length=254)  # what they signed in with, as it was then
    role = models.CharField(max_length=10, choices=Role.choices)
    address = models.GenericIPAddressField(null=True, blank=True)
    action = models.CharField(max_length=80)
    about = models.CharField(max_length=200, blank=True, default="")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", null=True, blank=True, db_index=False
    )
    before = models.JSONField(null=True, blank=True)
    after = models.JSONField(null=True, blank=True)
    reason = models.CharField(max_length=500, blank=True, default="")

    objects: models.Manager[AuditEntry]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "-id"], name="audit_newest"),
            models.Index(fields=["operator", "user", "-id"], name="audit_by_user"),
            models.Index(fields=["operator", "action", "-id"], name="audit_by_action"),
            models.Index(
                fields=["subscriber", "-id"],
                name="audit_of_subscriber",
                condition=Q(subscriber__isnull=False),
            ),
            models.Index(fields=["operator", "about", "-id"], name="audit_about"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.about}"
