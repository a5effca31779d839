"""Consents: what subscribers agreed to, in which words and when: the only writer of Consent.

Nothing is assumed: without a consent that stands, nothing is collected by itself, and the phone
bill carries nothing. What is agreed to for one subscription is not for another.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from django.db import connection, transaction

from billing import invoicing, rating
from billing.models import Consent
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator, Subscriber, Subscription

Kind = Consent.Kind


class SubscriptionEnded(Conflict):
    cause = "subscription_ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a subscriber agrees to: the text as it was shown, and by which channel."""

    kind: str
    text: str
    text_version: str
    language: str
    channel: str
    subscription_id: int | None = None  # none: all
    monthly_cap: Decimal | None = None


@transaction.atomic
def give(operator: Operator, subscriber_id: int, said: Said, *, at: dt.datetime) -> Consent:
    """Keep a consent. The same words again answer the one that stands; other words take its place,
    and it is withdrawn.

    Raises Invalid for a cap that makes no sense, NotFound for no subscription of the subscriber's,
    SubscriptionEnded.
    """
    cap = said.monthly_cap
    if cap is not None and (said.kind != Kind.PHONE_BILL or cap < 0 or cap != rating.to_fen(cap)):
        raise Invalid("a monthly_cap is of the phone bill, an amount to the fen")
    Subscriber.objects.select_for_update(no_key=True).get(pk=subscriber_id)
    if said.subscription_id is not None:
        held = Subscription.objects.filter(
            subscriber_id=subscriber_id, id=said.subscription_id
        ).first()
        if held is None:
            raise NotFound("the subscriber has no such subscription")
        if held.ends_at is not None and held.ends_at <= at:
            raise SubscriptionEnded("the subscription has ended")
    before = Consent.objects.filter(
        subscriber_id=subscriber_id,
        kind=said.kind,
        subscription_id=said.subscription_id,
        withdrawn_at__isnull=True,
    ).first()
    if before is not None:
        words = (before.text, before.text_version, before.language, before.monthly_cap)
        if words == (said.text, said.text_version, said.language, cap):
            return before
        _withdraw(before, channel=said.channel, at=at)
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('billing_consent_id')")
        [(consent_id,)] = cursor.fetchall()
    return Consent.objects.create(
        subscriber_id=subscriber_id,
        id=consent_id,
        operator=operator,
        number=f"{invoicing.number_prefix(operator)}-C-{consent_id:010}",
        kind=said.kind,
        subscription_id=said.subscription_id,
        text=said.text,
        text_version=said.text_version,
        language=said.language,
        channel=said.channel,
        monthly_cap=cap,
        given_at=at,
    )


@transaction.atomic
def withdraw(
    operator: Operator, subscriber_id: int, number: str, *, channel: str, at: dt.datetime
) -> Consent:
    """Take a consent back; what is answered is the receipt. Again changes nothing. Raises
    NotFound."""
    Subscriber.objects.select_for_update(no_key=True).get(pk=subscriber_id)
    found = Consent.objects.filter(
        operator=operator, subscriber_id=subscriber_id, number=number
    ).first()
    if found is None:
        raise NotFound("the subscriber has given no such consent")
    if found.withdrawn_at is None:
        _withdraw(found, channel=channel, at=at)
    return found


def _withdraw(consent: Consent, *, channel: str, at: dt.datetime) -> None:
    # A clock that stands lets one begin and end at once.
    consent.withdrawn_at, consent.withdrawn_by = max(at, consent.given_at), channel
    Consent.objects.filter(
        subscriber_id=consent.subscriber_id, id=consent.id, withdrawn_at__isnull=True
    ).update(withdrawn_at=consent.withdrawn_at, withdrawn_by=channel)


# What stands -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Agreed:
    """What a subscriber agrees to now: by kind its subscriptions, None among them for all."""

    by_kind: dict[str, set[int | None]] = field(default_factory=lambda: defaultdict(set))
    phone_bill_cap: Decimal | None = None  # the least that any of them says

    def to(self, kind: str, subscription_id: int | None) -> bool:
        """Whether it agrees to this for a subscription; None: for what is of none."""
        return not self.by_kind[kind].isdisjoint({None, subscription_id})


def agreed(subscriber_ids: Iterable[int]) -> dict[int, Agreed]:
    """What each of these subscribers agrees to; who is not there agrees to nothing."""
    found: dict[int, Agreed] = defaultdict(Agreed)
    rows = Consent.objects.filter(
        subscriber_id__among=list(subscriber_ids), withdrawn_at__isnull=True
    ).values_list("subscriber_id", "kind", "subscription_id", "monthly_cap")
    for subscriber_id, kind, subscription_id, cap in rows:
        one = found[subscriber_id]
        one.by_kind[kind].add(subscription_id)
        if cap is not None:
            least = one.phone_bill_cap
            one.phone_bill_cap = cap if least is None else min(least, cap)
    return found
