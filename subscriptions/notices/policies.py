"""What operators settled about notices: the only writer of NoticePolicy."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

from subscriptions import periods
from subscriptions.models import NoticePolicy, Operator


def of_operator(operator: Operator) -> NoticePolicy:
    """The row, or the defaults."""
    return NoticePolicy.objects.filter(operator=operator).first() or NoticePolicy(operator=operator)


def settle(
    operator: Operator, *, quiet_from: dt.time, quiet_until: dt.time, expiry_days: int
) -> NoticePolicy:
    said = {"quiet_from": quiet_from, "quiet_until": quiet_until, "expiry_days": expiry_days}
    policy, _ = NoticePolicy.objects.update_or_create(operator=operator, defaults=said)
    return policy


def expiries_done(operator: Operator, *, until: dt.datetime) -> None:
    """Note until when buckets expire whose subscribers are told by now."""
    NoticePolicy.objects.update_or_create(operator=operator, defaults={"expiry_done_until": until})


def loud_again(policy: NoticePolicy, zone: ZoneInfo, at: dt.datetime) -> dt.datetime:
    """When a text message may go out: `at`, or the end of the quiet time that it falls into."""
    return periods.out_of(policy.quiet_from, policy.quiet_until, at, zone) or at
