"""What a subject is worth right now: whose it is, under which plan, and whether it may use any.

For those who ask before the tokens are spent. (The charge asks for other times too, and remembers:
metering/context.py.) Only reads, but for what is due to be opened.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

from psycopg.types.numeric import Int8

from subscriptions import ceilings, lifecycle, periods, pgarrays
from subscriptions.ceilings import Said
from subscriptions.demands import Period, Source
from subscriptions.pgarrays import Texts


class Terms(NamedTuple):
    """The operator's; `at` is its now. `card_stamp` is the newest rate card version's id,
    `top_up_url` where subscribers can buy more."""

    at: dt.datetime
    grace: dt.timedelta
    zone: ZoneInfo
    default_card: str
    top_up_url: str
    card_stamp: int


class Guarded(NamedTuple):
    """What stands in a subscriber's way besides its plan, see models.Guard."""

    keys: bool
    night: tuple[dt.time, dt.time] | None
    day_units: int | None


class Account(NamedTuple):
    """A subscriber as it stands now. `blocked` is why it may use nothing: suspended, frozen or "".
    `guard` is None where its plan says all.

    `outlived`: it has open reservations past their time, which the sweep has not met yet.
    `generations` is the sum of its live buckets' (each and one), of the same moment: whoever
    changes what is said here raises it, or has to wait for those buckets' locks. `sources` are
    these buckets, unlocked, where they were asked for. `pooled`: one of them is a family's.
    """

    subscriber_id: int
    period: Period
    blocked: str
    guard: Guarded | None
    outlived: bool
    generations: int
    sources: list[Source]
    pooled: bool = False


class Present(NamedTuple):
    """The answer: an account for each subject asked about, None where it is nobody's."""

    terms: Terms
    accounts: list[Account | None]


_SQL = """
SELECT t.now, o.late_grace, o.time_zone, o.default_rate_card, o.top_up_url,
       coalesce((SELECT max(c.id) FROM subscriptions_ratecard c WHERE c.operator_id = o.id), 0),
       q.nr, s.subscriber_id, p.subscription_id, p.starts_at, p.ends_at,
       coalesce(up.new_plan_id, p.plan_id), up.at,
       CASE WHEN x.frozen THEN 'frozen' WHEN x.starts_at IS NOT NULL THEN 'suspended' ELSE '' END,
       CASE WHEN p.plan_id IS NOT NULL THEN p.turned_at IS NULL ELSE EXISTS (
           SELECT FROM subscriptions_subscription u
           WHERE u.subscriber_id = s.subscriber_id AND u.opened_until <= t.now
             AND (u.ends_at IS NULL OR u.ends_at > u.opened_until)
       ) END,
       EXISTS (
           SELECT FROM subscriptions_reservation r
           WHERE r.subscriber_id = s.subscriber_id AND r.state = 1 AND r.expires_at <= t.now
       ),
       h.generations, h.pooled, coalesce(d.keys, false), d.night_from, d.night_until, d.day_units,
       d.overage, d.overage_ceiling, d.spent, d.spent_in, d.spent_before_id,
       o.overage_by_consent_since{columns}
FROM subscriptions_operator o
JOIN subscriptions_apikey k ON k.operator_id = o.id
CROSS JOIN LATERAL (SELECT coalesce(o.clock_at, %b) AS now) t
CROSS JOIN unnest(%b::text[]) WITH ORDINALITY AS q (subject, nr)
LEFT JOIN subscriptions_subject s
       ON s.operator_id = o.id AND s.subject = q.subject
      AND (s.valid_from IS NULL OR s.valid_from <= t.now)
      AND (s.valid_until IS NULL OR s.valid_until > t.now)
LEFT JOIN subscriptions_subscriptionperiod p
       ON p.subscriber_id = s.subscriber_id AND p.starts_at <= t.now AND p.ends_at > t.now
LEFT JOIN LATERAL (
    SELECT g.new_plan_id, g.at FROM subscriptions_upgrade g
    WHERE g.subscriber_id = p.subscriber_id AND g.subscription_id = p.subscription_id
      AND g.period_start = p.starts_at AND g.at <= t.now
    ORDER BY g.nr DESC LIMIT 1
) up ON true
LEFT JOIN subscriptions_suspension x
       ON x.subscriber_id = s.subscriber_id AND x.starts_at <= t.now
      AND (x.ends_at IS NULL OR x.ends_at > t.now)
LEFT JOIN subscriptions_guard d ON d.subscriber_id = s.subscriber_id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(g.generation + 1), 0)::bigint AS generations,
           coalesce(bool_or(g.kind = 'pool'), false) AS pooled
    FROM subscriptions_bucket g
    WHERE g.subscriber_id = s.subscriber_id AND g.valid_until > t.now AND g.valid_from <= t.now
) h{joins}
WHERE o.id = %b AND k.id = %b AND k.revoked_at IS NULL
"""
_ACCOUNTS_SQL = _SQL.format(columns="", joins="")
_WITH_SOURCES_SQL = _SQL.format(
    columns=(
        ", b.id, b.kind, b.priority, b.granted - b.used - b.reserved, b.valid_from,"
        " b.valid_until, b.grant_key, b.granted, b.generation"
    ),
    joins=(
        " LEFT JOIN subscriptions_bucket b ON b.subscriber_id = s.subscriber_id"
        " AND b.valid_until > t.now AND b.valid_from <= t.now"
    ),
)
_COLUMNS = 28


def read(
    operator_id: int,
    key_id: int,
    subjects: Sequence[str],
    *,
    wall: dt.datetime,
    with_sources: bool = False,
) -> Present | None:
    """The accounts of these subjects at the operator's now; None where the key was revoked.

    `wall` is the machine's time; a test operator's clock takes its place. Opens and turns periods
    that are due. No locks: what is bought or used meanwhile may be missing.
    """
    pgarrays.revive()
    present, behind = _read(operator_id, key_id, subjects, wall, with_sources)
    if behind and present is not None:
        lifecycle.ensure_open(behind, at=present.terms.at, until=present.terms.at)
        present, _ = _read(operator_id, key_id, subjects, wall, with_sources)
    return present


def still_holds(
    operator_id: int,
    key_id: int,
    subjects: Sequence[str],
    known: Sequence[Account | None],
    *,
    wall: dt.datetime,
) -> bool:
    """Whether the accounts that were read without a lock would be read the same now.

    To be asked with their buckets locked, in that transaction; of those of nobody nothing is held.
    """
    present, _ = _read(operator_id, key_id, subjects, wall, with_sources=False)
    return present is not None and all(
        old is None or (new is not None and new[:4] == old[:4])
        for old, new in zip(known, present.accounts, strict=True)
    )


def _read(
    operator_id: int, key_id: int, subjects: Sequence[str], wall: dt.datetime, with_sources: bool
) -> tuple[Present | None, list[int]]:
    cursor = pgarrays.cursor()
    cursor.execute(
        _WITH_SOURCES_SQL if with_sources else _ACCOUNTS_SQL,
        [wall, Texts(subjects), Int8(operator_id), Int8(key_id)],
        binary=True,
        prepare=True,
    )
    rows = cursor.fetchall()
    if not rows:
        return None, []
    at, grace, zone_name, card, top_up_url, stamp = rows[0][:6]
    zone = ZoneInfo(zone_name)
    accounts: list[Account | None] = [None] * len(subjects)
    behind: list[int] = []
    for row in rows:
        nr, subscriber_id, subscription_id, starts_at, ends_at, plan_id, upgraded_at = row[6:13]
        if subscriber_id is None:
            continue
        account = accounts[nr - 1]
        if account is None:
            if plan_id is not None:
                period = Period(
                    starts_at,
                    ends_at,
                    subscription_id,
                    ceilings.policy_of(plan_id, Said(*row[22:_COLUMNS]), starts_at),
                    upgraded_at,
                )
            else:
                month = periods.month_start(at, zone)
                period = Period(month, periods.end_of("calendar_month", month, 1, zone))
            blocked = row[13] or ("suspended" if period.suspends else "")
            night = (row[19], row[20]) if row[19] is not None else None
            guarded = row[18] or night is not None or row[21] is not None
            guard = Guarded(row[18], night, row[21]) if guarded else None
            account = accounts[nr - 1] = Account(
                subscriber_id, period, blocked, guard, row[15], row[16], [], row[17]
            )
            if row[14]:
                behind.append(subscriber_id)
        if with_sources and row[_COLUMNS] is not None:
            account.sources.append(Source(*row[_COLUMNS:]))
    return Present(Terms(at, grace, zone, card, top_up_url, stamp), accounts), behind


_NOW_SQL = """
SELECT coalesce(o.clock_at, %b) FROM subscriptions_operator o
JOIN subscriptions_apikey k ON k.operator_id = o.id
WHERE o.id = %b AND k.id = %b AND k.revoked_at IS NULL
"""


def now(operator_id: int, key_id: int, *, wall: dt.datetime) -> dt.datetime | None:
    """The operator's now; None where the key was revoked."""
    pgarrays.revive()
    cursor = pgarrays.cursor()
    cursor.execute(_NOW_SQL, [wall, Int8(operator_id), Int8(key_id)], binary=True, prepare=True)
    row = cursor.fetchone()
    return row[0] if row is not None else None
