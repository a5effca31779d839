"""Gifts of units between those of one family: the only writer of FamilyGift.

Locks in one order: the family, then buckets.
"""

from __future__ import annotations

import datetime as dt
import re

from django.db import transaction
from django.db.models import Q, QuerySet

from subscriptions import buckets, outbox
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Family, FamilyGift, FamilyMember, Suspension
from subscriptions.outbox import Happening
from subscriptions.units import to_wire

_KEY = re.compile(r"[A-Za-z0-9._-]{1,64}")


class NotEnoughToGive(Conflict):
    cause = "not_enough"


class LineSuspended(Conflict):
    cause = "suspended"


def give(
    family: Family,
    giver: FamilyMember,
    receiver: FamilyMember,
    units: int,
    *,
    key: str,
    note: str = "",
    at: dt.datetime,
) -> FamilyGift:
    """Give another of the family units of one's allowance, or of what was carried over; they stay
    valid for as long as they were. The same `key` gives once.

    Raises Invalid, NotFound, Conflict for a key that gave something else, NotEnoughToGive,
    LineSuspended.
    """
    if not 0 < units < 2**62:
        raise Invalid("a gift is more than nothing")
    if not _KEY.fullmatch(key):
        raise Invalid("a key is 1 to 64 letters, digits, dots, dashes or underscores")
    if giver.subscriber_id == receiver.subscriber_id:
        raise Invalid("a gift is to another")
    with transaction.atomic():
        Family.objects.select_for_update(no_key=True).get(pk=family.pk)
        known = FamilyGift.objects.filter(giver_id=giver.subscriber_id, key=key).first()
        if known is not None:
            if (known.receiver_id, known.units) != (receiver.subscriber_id, units):
                raise Conflict("another gift was made under this key")
            return known
        pair = FamilyMember.objects.filter(
            family=family, pk__in=[giver.pk, receiver.pk], until__isnull=True
        )
        if pair.count() != 2:
            raise NotFound("one of the two is not in the family")
        stopped = Suspension.objects.filter(
            subscriber_id__in=[giver.subscriber_id, receiver.subscriber_id], starts_at__lte=at
        ).filter(Q(ends_at__isnull=True) | Q(ends_at__gt=at))
        if stopped.exists():
            raise LineSuspended("a line that is suspended neither gives nor gets")
        try:
            batch_id = buckets.give(
                giver.subscriber_id,
                receiver.subscriber_id,
                units,
                name=key,
                note=f"{giver.label}: {note}" if note else giver.label,
                at=at,
            )
        except buckets.NotEnough as error:
            raise NotEnoughToGive(
                f"{to_wire(error.left)} units may be given: of the allowance and what was carried"
                " over; gifts and boosters are not given on"
            ) from error
        gift = FamilyGift.objects.create(
            family=family,
            giver_id=giver.subscriber_id,
            receiver_id=receiver.subscriber_id,
            key=key,
            units=units,
            batch_id=batch_id,
            note=note,
            at=at,
        )
        said = {"from": giver.label, "units": to_wire(units)}
        happening = f"family:gift:{gift.pk}"
        outbox.tell([Happening(receiver.subscriber_id, "family.gift", happening, at, said)])
    return gift


def of_family(family: Family) -> QuerySet[FamilyGift]:
    """All gifts of a family, the newest first."""
    return FamilyGift.objects.filter(family=family).order_by("-id")
