"""The end of a user. What was bought and billed stays in the operator's books, as the law asks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.db import transaction
from django.db.models import Q

from subscriptions.errors import Conflict
from subscriptions.models import Access, Operator, SubscriberKey, Subscription, User
from subscriptions.subscriber_keys import keeping

# Who revoked a key with its account.
_BY = "closing"


class PlanRuns(Conflict):
    cause = "plan_runs"


def plan_runs(user: User, *, now: Callable[[Operator], dt.datetime]) -> bool:
    """Whether any account of the user holds a plan that has no end yet, or one still to come."""
    return any(
        Subscription.objects.filter(subscriber_id=access.subscriber_id)
        .filter(Q(ends_at__isnull=True) | Q(ends_at__gt=now(access.operator)))
        .exists()
        for access in Access.objects.filter(user=user).select_related("operator")
    )


@transaction.atomic
def close(user: User, *, at: dt.datetime, now: Callable[[Operator], dt.datetime]) -> None:
    """Forget e-mail, phone, password, second factors; end all sessions, and the keys for gateways
    of accounts that nobody else may open. May be repeated.

    `now` is each operator's clock: a plan runs by that.
    Raises PlanRuns while a plan runs: it would go on to be billed to nobody who can cancel it.
    """
    locked = User.objects.select_for_update().get(pk=user.pk)
    if plan_runs(locked, now=now):
        raise PlanRuns("cancel the plan first; the account can be closed when it has ended")
    end_sessions(locked)
    _revoke_keys(locked, now=now)
    EmailAddress.objects.filter(user=locked).delete()
    Authenticator.objects.filter(user=locked).delete()
    locked.email = locked.phone = ""
    locked.phone_verified = locked.is_active = False
    locked.closed_at = locked.closed_at or at
    locked.set_unusable_password()
    locked.save()


def _revoke_keys(user: User, *, now: Callable[[Operator], dt.datetime]) -> None:
    shared = Access.objects.filter(user__closed_at__isnull=True).exclude(user=user)
    for access in Access.objects.filter(user=user).select_related("operator"):
        if shared.filter(subscriber_id=access.subscriber_id).exists():
            continue
        left = SubscriberKey.objects.filter(
            subscriber_id=access.subscriber_id, revoked_at__isnull=True
        )
        for key in left.order_by("pk"):
            keeping.revoke(key, by=_BY, at=now(access.operator))


def end_sessions(user: User) -> int:
    """Sign the user out everywhere; answers of how many sessions."""
    sessions = list(UserSession.objects.filter(user=user))
    for session in sessions:
        session.end()
    return len(sessions)
