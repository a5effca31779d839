"""Looks through an operator's new bills and hours, each once: the only writer of AnomalySweep."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

from django.db import transaction

from billing.anomalies import cases, finding
from billing.models import AnomalySweep
from metering import rollups
from subscriptions import periods
from subscriptions.models import Operator

HOUR = dt.timedelta(hours=1)
# After its end an hour is looked at when late records had this long to come.
_SETTLES = dt.timedelta(minutes=15)
# What nobody looked at for longer than this is passed over: it is too late to stop anything.
_BACK = dt.timedelta(hours=48)
# A bill is issued, and committed, within this.
_COMMITS = dt.timedelta(minutes=15)


def sweep(operator: Operator, *, at: dt.datetime) -> int | None:
    """Look through the next hour, and the bills since the last look; answers how many new cases
    there are. None: nothing is due.

    In one transaction with how far it came: killed, it is looked at again. One worker at a time.
    """
    with transaction.atomic():
        AnomalySweep.objects.bulk_create(
            [
                AnomalySweep(
                    operator=operator,
                    usage_until=_hour(at, operator) - HOUR,
                    bills_until=at - _COMMITS,
                )
            ],
            ignore_conflicts=True,
        )
        held = (
            AnomalySweep.objects.select_for_update(skip_locked=True, no_key=True)
            .filter(operator=operator)
            .first()
        )
        if held is None:
            return None
        hour = max(held.usage_until, _hour(at - _BACK, operator))
        hour_due = hour + HOUR + _SETTLES <= at and _folded(operator, hour + HOUR)
        bills_until = max(held.bills_until, at - _COMMITS)
        if not hour_due and bills_until < held.bills_until + HOUR:
            return None
        thresholds = cases.thresholds_of(operator.pk)
        found = list(
            finding.bills(operator.pk, thresholds, since=held.bills_until, until=bills_until)
        )
        if hour_due:
            found += _of_hour(operator, thresholds, hour)
        new = cases.keep(operator, found, at=at)
        AnomalySweep.objects.filter(operator=operator).update(
            usage_until=hour + HOUR if hour_due else held.usage_until, bills_until=bills_until
        )
    return new


def _of_hour(
    operator: Operator, thresholds: finding.Thresholds, hour: dt.datetime
) -> list[finding.Finding]:
    found = list(finding.velocity(operator.pk, thresholds, hour=hour))
    zone = ZoneInfo(operator.time_zone)
    day = periods.day_of(hour + HOUR, zone)
    if periods.day_of(hour, zone) != day:  # the last hour of a local day
        until = hour + HOUR
        since = dt.datetime.combine(
            day - dt.timedelta(days=thresholds.busy_days), dt.time(), tzinfo=zone
        )
        found += finding.always_busy(
            operator.pk, operator.time_zone, thresholds, since=since, until=until
        )
        yesterday = dt.datetime.combine(day - dt.timedelta(days=1), dt.time(), tzinfo=zone)
        found += finding.origins(operator.pk, thresholds, since=yesterday, until=until)
    return found


def _folded(operator: Operator, until: dt.datetime) -> bool:
    """Whether all usage of before an instant is in the hourly totals, as far as it has come."""
    since = rollups.unfolded_since(operator.pk)
    return since is None or since >= until


def _hour(at: dt.datetime, operator: Operator) -> dt.datetime:
    """The beginning of the operator's hour at an instant."""
    local = at.astimezone(ZoneInfo(operator.time_zone))
    return local.replace(minute=0, second=0, microsecond=0).astimezone(dt.UTC)
