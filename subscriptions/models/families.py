"""Families and organisations: who shares a main line's units, and by which rules."""

from __future__ import annotations

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import RangeOperators
from django.db import models
from django.db.models import F, Q

from subscriptions.fields import units_field
from subscriptions.models.operators import Operator
from subscriptions.models.subscribers import Subscriber, TsTzRange


class Family(models.Model):
    """A main line, whose units its members draw when their own are used up.

    `shared` names the kinds of buckets that are shared, in the order in which they burn, separated
    by commas; of what these have left, `kept` units are for the main line and for members of the
    first priority. Written only by subscriptions/families/keeping.py.
    """

    class Kind(models.TextChoices):
        FAMILY = "family"
        ORGANISATION = "organisation"

    MOST_MEMBERS = 9  # of a family, beside its main line

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    owner = models.ForeignKey(Subscriber, models.PROTECT, related_name="+")
    kind = models.CharField(max_length=12, choices=Kind.choices, default=Kind.FAMILY)
    name = models.CharField(max_length=100)
    shared = models.CharField(max_length=40)
    kept = units_field(default=0)
    # Whether members see of each other what they used, where they show it.
    open_to_members = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    dissolved_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[Family]

    class Meta:
        constraints = [
            models.CheckConstraint(name="family_keeps_no_debt", condition=Q(kept__gte=0)),
            models.CheckConstraint(
                name="family_shares_what_may_be_shared",
                condition=Q(
                    shared__regex=r"^(rollover|gift|allowance|booster)"
                    r"(,(rollover|gift|allowance|booster))*$"
                ),
            ),
            models.CheckConstraint(
                name="family_dissolved_after_it_was_made",
                condition=Q(dissolved_at__isnull=True) | Q(dissolved_at__gte=F("created_at")),
            ),
        ]

    def __str__(self) -> str:
        return self.name


class FamilyMember(models.Model):
    """A subscriber's time in a family; the main line has a row too, and draws its own units.

    `cap` is the most that is drawn of the pool in a calendar month of the operator's, null without
    a limit. Of usage from `until` on nothing is drawn. Written only by
    subscriptions/families/keeping.py.
    """

    class Priority(models.IntegerChoices):
        FIRST = 1  # draws what is kept, too
        NORMAL = 2

    class End(models.TextChoices):
        LEFT = "left"
        REMOVED = "removed"
        DISSOLVED = "dissolved"

    family = models.ForeignKey(Family, models.PROTECT, related_name="members")
    subscriber = models.ForeignKey(Subscriber, models.PROTECT, related_name="+")
    is_owner = models.BooleanField(default=False)
    label = models.CharField(max_length=60)
    cap = units_field(null=True, blank=True)
    priority = models.PositiveSmallIntegerField(choices=Priority.choices, default=Priority.NORMAL)
    # Whether other members see what this one drew of the pool; the main line always does.
    shows_usage = models.BooleanField(default=False)
    since = models.DateTimeField()
    until = models.DateTimeField(null=True, blank=True)
    ended = models.CharField(max_length=10, choices=End.choices, blank=True, default="")

    objects: models.Manager[FamilyMember]

    class Meta:
        constraints = [
            ExclusionConstraint(
                name="family_one_at_a_time",
                expressions=[
                    ("subscriber", RangeOperators.EQUAL),
                    (TsTzRange("since", "until"), RangeOperators.OVERLAPS),
                ],
            ),
            models.UniqueConstraint(
                name="family_has_one_main_line",
                fields=["family"],
                condition=Q(is_owner=True),
            ),
            models.CheckConstraint(
                name="family_member_cap_not_negative",
                condition=Q(cap__isnull=True) | Q(cap__gte=0, is_owner=False),
            ),
            models.CheckConstraint(
                name="family_member_ends_as_it_says",
                condition=Q(until__isnull=True, ended="")
                | Q(until__gte=F("since"), ended__in=["left", "removed", "dissolved"]),
            ),
        ]

    def __str__(self) -> str:
        return self.label


class FamilyInvite(models.Model):
    """An offer to join a family, which only the invited can take, with its code or signed in as
    the subscriber that it is for. The code is kept as a SHA-256 and known to nobody again.
    Written only by subscriptions/families/keeping.py.
    """

    class State(models.TextChoices):
        OPEN = "open"
        ACCEPTED = "accepted"
        DECLINED = "declined"
        WITHDRAWN = "withdrawn"

    family = models.ForeignKey(Family, models.PROTECT, related_name="invites")
    # Whom it is for, where a subscriber has that number or address; else whoever has the code.
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", null=True, blank=True
    )
    contact = models.CharField(max_length=254, blank=True, default="")  # as it was typed
    code_hash = models.CharField(max_length=64, unique=True)
    label = models.CharField(max_length=60)
    cap = units_field(null=True, blank=True)
    priority = models.PositiveSmallIntegerField(
        choices=FamilyMember.Priority.choices, default=FamilyMember.Priority.NORMAL
    )
    state = models.CharField(max_length=9, choices=State.choices, default=State.OPEN)
    invited_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    answered_at = models.DateTimeField(null=True, blank=True)
    member = models.OneToOneField(
        FamilyMember, models.PROTECT, related_name="+", null=True, blank=True
    )

    objects: models.Manager[FamilyInvite]

    class Meta:
        indexes = [
            models.Index(
                fields=["subscriber"], name="family_invite_open", condition=Q(state="open")
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="family_invite_cap_not_negative",
                condition=Q(cap__isnull=True) | Q(cap__gte=0),
            ),
            models.CheckConstraint(
                name="family_invite_answered_once",
                condition=Q(state="open", answered_at__isnull=True, member__isnull=True)
                | Q(state="accepted", answered_at__isnull=False, member__isnull=False)
                | Q(
                    state__in=["declined", "withdrawn"],
                    answered_at__isnull=False,
                    member__isnull=True,
                ),
            ),
        ]

    def __str__(self) -> str:
        return self.label


class FamilyGift(models.Model):
    """Units that one of a family gave to another, by pairs of journal rows of one batch.

    Written only by subscriptions/families/giving.py, and never changed.
    """

    family = models.ForeignKey(Family, models.PROTECT, related_name="+")
    giver = models.ForeignKey(Subscriber, models.PROTECT, related_name="+")
    receiver = models.ForeignKey(Subscriber, models.PROTECT, related_name="+")
    key = models.CharField(max_length=64)
    units = units_field()
    batch_id = models.BigIntegerField(unique=True)
    note = models.CharField(max_length=100, blank=True, default="")
    at = models.DateTimeField()

    objects: models.Manager[FamilyGift]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["giver", "key"], name="family_gift_once"),
            models.CheckConstraint(
                name="family_gift_of_something_to_another",
                condition=Q(units__gt=0) & ~Q(giver=F("receiver")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.units} to {self.receiver_id}"
