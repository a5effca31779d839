"""Staff who look at a subscriber's portal: what they see is the subscriber's, and they change
nothing. Kept in their session, for half an hour, and only while they may."""

from __future__ import annotations

import datetime as dt

from allauth.account.adapter import get_adapter
from django.http import HttpRequest

from subscriptions import clock
from subscriptions.models import Staff, Subscriber, User
from subscriptions.users import staff as employment

FOR = dt.timedelta(minutes=30)
_KEY = "looks_at"


def begin(request: HttpRequest, staff: Staff, subscriber: Subscriber) -> None:
    """The caller has seen that this member of the staff may."""
    assert staff.operator_id == subscriber.operator_id
    until = (clock.wall() + FOR).timestamp()
    request.session[_KEY] = [staff.pk, subscriber.pk, until]


def end(request: HttpRequest) -> int | None:
    """Look no more; answers at whom it was."""
    kept = request.session.pop(_KEY, None)
    return None if kept is None else int(kept[1])


def looked_at(request: HttpRequest, user: User) -> Subscriber | None:
    """Whose portal this session looks at. It ends with the time, with the work, and elsewhere than
    the operator lets its staff work."""
    kept = request.session.get(_KEY)
    if kept is None:
        return None
    staff_id, subscriber_id, until = kept
    working = next((one for one in employment.serving(user) if one.pk == staff_id), None)
    address = get_adapter(request).get_client_ip(request)
    if (
        working is None
        or clock.wall().timestamp() >= until
        or not employment.may_come_from(working.operator, address)
    ):
        end(request)
        return None
    return Subscriber.objects.select_related("operator").get(pk=subscriber_id)
