"""Whose a presented key is."""

from __future__ import annotations

import datetime as dt

from django.db.models import Q

from subscriptions.keys import digest_of
from subscriptions.models import KeySecret, SubscriberKey
from subscriptions.subscriber_keys import guessing


def present(
    operator_id: int, gateway_id: int, secret: str, client: str, *, at: dt.datetime
) -> tuple[SubscriberKey, KeySecret] | None:
    """The key that a client of a gateway presents, see `find`. Raises guessing.TooManyGuesses."""
    guessing.listen(gateway_id, client, at=at)
    found = find(operator_id, secret, at=at)
    if found is None:
        guessing.missed(gateway_id, client, at=at)
    return found


def find(
    operator_id: int, secret: str, *, at: dt.datetime
) -> tuple[SubscriberKey, KeySecret] | None:
    """The live key that is presented so, with its subscriber; None for another operator's as for
    none, for one that was revoked or replaced, and where the subscriber is another one by now."""
    found = (
        KeySecret.objects.select_related("key__subscriber", "key__operator")
        .filter(
            Q(ends_at__isnull=True) | Q(ends_at__gt=at),
            Q(key__binding__valid_until__isnull=True) | Q(key__binding__valid_until__gt=at),
            digest=digest_of(secret),
            key__operator_id=operator_id,
            key__revoked_at__isnull=True,
            key__subscriber__merged_into__isnull=True,
        )
        .first()
    )
    return (found.key, found) if found is not None else None
