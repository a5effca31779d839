"""What subscribers want to hear: the only writer of NoticePreference. Nothing said: all of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from django.core import signing
from django.db import transaction

from subscriptions.errors import Invalid, NotFound
from subscriptions.models import Channel, NoticePreference, Subscriber
from subscriptions.notices.kinds import DECLINABLE, KINDS, REQUIRED

_SALT = "token-billing: no more of these"


class Required(Invalid):
    cause = "required_notice"


class Wish(NamedTuple):
    kind: str
    channel: str
    wanted: bool
    changed_at: dt.datetime | None  # never said: None


def of_subscriber(subscriber_id: int) -> list[Wish]:
    """What holds for each kind and channel."""
    said = {(row.kind, row.channel): row for row in _newest([subscriber_id])}
    wishes = []
    for kind in KINDS:
        for channel in Channel.values:
            row = said.get((kind, channel))
            wanted = kind in REQUIRED or row is None or row.wanted
            wishes.append(Wish(kind, channel, wanted, row.at if row else None))
    return wishes


def declined(subscriber_ids: Sequence[int]) -> set[tuple[int, str, str]]:
    """(subscriber, kind, channel) of what these do not want."""
    return {
        (row.subscriber_id, row.kind, row.channel)
        for row in _newest(subscriber_ids)
        if not row.wanted and row.kind not in REQUIRED
    }


def _newest(subscriber_ids: Sequence[int]) -> list[NoticePreference]:
    return list(
        NoticePreference.objects.filter(subscriber_id__among=subscriber_ids)
        .order_by("subscriber_id", "kind", "channel", "-nr")
        .distinct("subscriber_id", "kind", "channel")
    )


@transaction.atomic
def wish(
    subscriber_id: int, kind: str, channel: str, *, wanted: bool, by: str, at: dt.datetime
) -> None:
    """Keep what a subscriber wants from `at` on, and who said so. Again changes nothing.

    Raises Required for what cannot be declined, Invalid for what there is not.
    """
    if kind not in KINDS or channel not in Channel.values:
        raise Invalid(f"there is no notice {kind} by {channel}")
    if kind in REQUIRED and not wanted:
        raise Required(f"{kind} is told whatever the subscriber wishes: rules require it")
    Subscriber.objects.select_for_update(no_key=True).get(pk=subscriber_id)
    before = (
        NoticePreference.objects.filter(subscriber_id=subscriber_id, kind=kind, channel=channel)
        .order_by("-nr")
        .first()
    )
    if wanted == (before is None or before.wanted):
        return
    NoticePreference.objects.create(
        subscriber_id=subscriber_id,
        kind=kind,
        channel=channel,
        nr=before.nr + 1 if before else 1,
        wanted=wanted,
        at=at,
        by=by,
    )


def token(subscriber_id: int, kind: str) -> str:
    """What stands in an e-mail's link to have no more of a kind; nobody else can make it."""
    return signing.dumps([subscriber_id, kind], salt=_SALT)


def read_token(text: str) -> tuple[Subscriber, str]:
    """Raises NotFound for what we never gave out."""
    try:
        subscriber_id, kind = signing.loads(text, salt=_SALT)
    except (signing.BadSignature, ValueError) as error:
        raise NotFound("this link is not one of ours") from error
    found = Subscriber.objects.select_related("operator").filter(pk=subscriber_id).first()
    if found is None or kind not in DECLINABLE:
        raise NotFound("this link is not one of ours")
    return found, kind
