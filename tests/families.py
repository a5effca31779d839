"""Families for tests, made the way the product makes them: by an invite and its answer."""

from __future__ import annotations

from typing import Any

from subscriptions import clock
from subscriptions.families import keeping
from subscriptions.families.keeping import Rules, Terms
from subscriptions.models import Bucket, Family, FamilyMember, Subscriber
from subscriptions.pools import mirror_of


def make_family(owner: Subscriber, *, kind: str = "family", **rules: Any) -> Family:
    said = Rules(**{"name": "Home", **rules})
    return keeping.found(owner.operator, owner, kind, said, at=clock.now(owner.operator))


def join(family: Family, subscriber: Subscriber, **terms: Any) -> FamilyMember:
    """Invited and accepted, at the operator's now."""
    at = clock.now(subscriber.operator)
    said = Terms(**{"label": subscriber.name, **terms})
    offer, _ = keeping.invite(family, said, subscriber=subscriber, at=at)
    return keeping.accept(offer, subscriber, at=at)


def pool_used(subscriber: Subscriber) -> int:
    """What a member drew of pools, ever."""
    rows = Bucket.objects.filter(subscriber_id=subscriber.pk, kind="pool")
    return sum(bucket.used for bucket in rows if mirror_of(bucket.grant_key) is not None)
