"""Which subscriber's account a user sees at an operator. The only writer of Access."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from django.db import transaction
from django.utils.translation import get_language

from subscriptions import phones, registry
from subscriptions.models import Access, Operator, Subscriber, User


def find(user: User, operator: Operator) -> Subscriber | None:
    """The subscriber whose account the user sees at this operator."""
    access = (
        Access.objects.filter(user=user, operator=operator).select_related("subscriber").first()
    )
    return access.subscriber if access else None


def known_at(user: User, code: str) -> Subscriber | None:
    """The same for an operator's code, and the operator with it."""
    rows = Access.objects.filter(user=user, operator__code=code)
    access = rows.select_related("subscriber__operator").first()
    return access.subscriber if access else None


@transaction.atomic
def begin(user: User, operator: Operator, *, at: dt.datetime) -> Subscriber:
    """The same; a user who comes for the first time gets an account. May be repeated.

    A phone number that was proved by a code, and that the carrier's CRM knows as exactly one
    subscriber's, opens that subscriber's account, unless somebody else has it already. Everybody
    else is a new subscriber.
    """
    # Two first pages at once: the second waits here and finds what the first made.
    User.objects.select_for_update().get(pk=user.pk)
    known = find(user, operator)
    if known is not None:
        return known
    subscriber = _by_phone(user, operator) or _new(user, operator, at=at)
    Access.objects.create(user=user, operator=operator, subscriber=subscriber, created_at=at)
    return subscriber


def _by_phone(user: User, operator: Operator) -> Subscriber | None:
    if not user.phone_verified:
        return None
    found = list(
        Subscriber.objects.filter(
            operator=operator, msisdn__in=phones.forms(user.phone), merged_into__isnull=True
        )[:2]
    )
    if len(found) != 1 or Access.objects.filter(subscriber=found[0]).exists():
        return None
    return found[0]


def _new(user: User, operator: Operator, *, at: dt.datetime) -> Subscriber:
    external_id = f"portal-{user.key}"
    draft = registry.Draft(
        external_id=external_id,
        msisdn=user.phone if user.phone_verified else "",
        email=user.email,
        # The one they signed up in.
        language=Subscriber.Language.ENGLISH
        if get_language() == "en"
        else Subscriber.Language.CHINESE,
        # Gateways may call the subscriber so at once.
        subjects=(external_id,),
    )
    [outcome] = registry.upsert(operator, [draft], at=at)
    if outcome.error:
        raise outcome.error
    return registry.find(operator, external_id)


def give_up_numbers(subscriber: Subscriber, subjects: Iterable[str]) -> None:
    """Let phone numbers among these names open this subscriber's account no more: whoever answers
    them from now on is somebody else. Joins the caller's transaction."""
    numbers = {form for subject in subjects for form in phones.forms(subject)}
    registry.give_up_numbers(subscriber, numbers)
    User.objects.filter(accesses__subscriber=subscriber, phone__in=numbers).update(
        phone="", phone_verified=False
    )
