"""Re-rating: a range of usage under another card, previewed first and applied as previewed.

A preview keeps for each subscriber what would change and a digest of all that is in force in the
range. Applying compares the digests first, of all subscribers, and once more under each one's
locks: then a subscriber's changes are one journal batch. Applying again goes on where it stopped.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from django.db import connection
from django.db.models import Max

from metering import adjusted
from metering.adjusted import key_of
from metering.adjusting import Change, Desk, Why, attempt
from metering.models import Adjustment, Rerating, ReratingShare, UsageRecord
from metering.weighing import Cards, cards_of
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator, RateCard, RateCardWeight


class SnapshotChanged(Conflict):
    cause = "snapshot_changed"


class _Found(NamedTuple):
    """What a re-rating would do to one subscriber."""

    changes: list[Change]
    units_before: int
    units_after: int
    digest: bytes


_SUBSCRIBERS_SQL = """
SELECT DISTINCT r.subscriber_id FROM metering_usagerecord r
WHERE r.occurred_at >= %s AND r.occurred_at < %s
  AND r.gateway_id IN (SELECT id FROM subscriptions_gateway WHERE operator_id = %s)
ORDER BY 1
"""


def preview(
    operator: Operator,
    *,
    rate_card: str,
    replaces: str,
    since: dt.datetime,
    until: dt.datetime,
    why: Why,
    at: dt.datetime,
) -> Rerating:
    """What `[since, until)` would cost under another card. Charges nothing. Raises Invalid."""
    if since >= until:
        raise Invalid("from must be before to")
    if not RateCard.objects.filter(operator=operator, code=rate_card).exists():
        raise Invalid(f"there is no rate card {rate_card}")

    def once() -> Rerating:
        run = Rerating.objects.create(
            operator=operator,
            rate_card=rate_card,
            replaces=replaces,
            since=since,
            until=until,
            card_stamp=_stamp(operator),
            reason=why.reason,
            made_by=why.made_by,
            made_at=at,
        )
        for subscriber_id in _subscribers(run):
            found = _look(run, subscriber_id)
            ReratingShare.objects.create(
                subscriber_id=subscriber_id,
                run_id=run.pk,
                records=len(found.changes),
                units_before=found.units_before,
                units_after=found.units_after,
                digest=found.digest,
            )
        return run

    return attempt(once)


def find(operator: Operator, run_id: int) -> Rerating:
    """Raises NotFound, for another operator's as for none."""
    run = Rerating.objects.filter(operator=operator, pk=min(run_id, 2**63 - 1)).first()
    if run is None:
        raise NotFound("there is no such re-rating")
    return run


def shares_of(run: Rerating) -> list[ReratingShare]:
    return list(ReratingShare.objects.filter(run_id=run.pk).order_by("subscriber_id"))


def apply(run: Rerating, *, at: dt.datetime) -> Rerating:
    """Put what was previewed in force, a subscriber at a time; again goes on or changes nothing.

    Raises SnapshotChanged where something in the range, or a rate card, is not as previewed.
    """
    if run.applied_at is not None:
        return run
    waiting = [share for share in shares_of(run) if share.batch_id is None]
    known = {share.subscriber_id for share in shares_of(run)}
    if (
        _stamp(run.operator) != run.card_stamp
        or set(_subscribers(run)) != known
        or any(_look(run, s.subscriber_id).digest != bytes(s.digest) for s in waiting)
    ):
        raise SnapshotChanged("usage or rate cards have changed since; preview again")
    for share in waiting:
        attempt(lambda share=share: _apply_share(run, share, at=at))  # type: ignore[misc]
    Rerating.objects.filter(pk=run.pk, applied_at=None).update(applied_at=at)
    run.refresh_from_db()
    return run


def _apply_share(run: Rerating, share: ReratingShare, *, at: dt.datetime) -> None:
    own = ReratingShare.objects.filter(subscriber_id=share.subscriber_id, run_id=run.pk)
    desk = Desk(run.operator, share.subscriber_id, at=at)
    [now] = own.select_for_update()
    if now.batch_id is not None:
        return
    desk.lock([key_of(record) for record in _records(run, share.subscriber_id)])
    found = _look(run, share.subscriber_id)
    if found.digest != bytes(share.digest) or _stamp(run.operator) != run.card_stamp:
        raise SnapshotChanged("usage has changed while it was applied; preview the rest again")
    batch_id = 0
    if found.changes:
        why = Why(run.reason, run.made_by)
        batch_id = desk.adjust(found.changes, Adjustment.Kind.RERATING, why).batch_id
    own.update(batch_id=batch_id)


def _stamp(operator: Operator) -> int:
    newest = RateCard.objects.filter(operator=operator).aggregate(newest=Max("pk"))
    return newest["newest"] or 0


def _subscribers(run: Rerating) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(_SUBSCRIBERS_SQL, [run.since, run.until, run.operator_id])
        return [row[0] for row in cursor.fetchall()]


def _records(run: Rerating, subscriber_id: int) -> Sequence[UsageRecord]:
    rows = UsageRecord.objects.filter(
        subscriber_id=subscriber_id, occurred_at__gte=run.since, occurred_at__lt=run.until
    )
    return list(rows.order_by("occurred_at", "gateway_id", "source", "record_id"))


def _look(run: Rerating, subscriber_id: int) -> _Found:
    """What is in force of a subscriber's range, and what the card would make of it.

    What is void or free stays so, and what the card has no weight for is left as it is.
    """
    cards = cards_of(run.operator_id, run.card_stamp)
    codes = _codes(run)
    digest = hashlib.sha256()
    changes: list[Change] = []
    before = after = 0
    for key, known in adjusted.in_force(subscriber_id, _records(run, subscriber_id)).items():
        said = (key[0].isoformat(), *key[1:], len(known.rows), known.state)
        digest.update(msgspec.json.encode(said))
        if known.state is None or (run.replaces and codes[known.state.weight_id] != run.replaces):
            continue
        before += known.state.units
        units = _weigh(cards, run.rate_card, key[0], known.state)
        after += units.units
        if units != known.state:
            changes.append(Change(known, units))
    return _Found(changes, before, after, digest.digest())


def _codes(run: Rerating) -> dict[int, str]:
    if not run.replaces:
        return {}
    rows = RateCardWeight.objects.filter(rate_card__operator_id=run.operator_id)
    return dict(rows.values_list("pk", "rate_card__code"))


def _weigh(
    cards: Cards, code: str, occurred_at: dt.datetime, state: adjusted.State
) -> adjusted.State:
    version = cards.version_at(code, occurred_at)
    weight = version.weight_of(state.model) if version is not None else None
    free = bool(state.outcome) and not state.units
    if weight is None or free or weight.id == state.weight_id:
        return state
    return state._replace(weight_id=weight.id, units=adjusted.weigh(state.classes, weight))
