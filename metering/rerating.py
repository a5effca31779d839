"""Re-rating: a range of usage under another card, previewed first and applied as previewed.

A run is made with a share for each subscriber who used something in the range; the shares are the
queue. Whoever works at a run takes one share after the other, each in a transaction of its own, so
that several may work at once, and any of them may die. One that cannot be done is noted with its
reason, holds up no other, and is tried again by whoever works at the run next. A preview keeps of
each share what would change and a digest of all that is in force. Applying compares all digests
first: where one differs, nothing moves. It compares each once more under the locks, and one that
was overtaken meanwhile is left as it is, as stale; what is applied of a share is one journal batch.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import Count, F, Max, Q, QuerySet, Sum
from django.db.models.functions import Abs, Coalesce

from metering import adjusted
from metering.adjusted import key_of
from metering.adjusting import Change, Desk, Why
from metering.models import Adjustment, Rerating, ReratingShare, UsageRecord
from metering.weighing import Cards, cards_of
from subscriptions import buckets
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator, RateCard, RateCardWeight

log = logging.getLogger(__name__)

_REASON = 500
# How many records of a range are looked at while its caller waits.
SMALL = 5_000
_State = Rerating.State
# Shares that wait to be previewed, and to be applied.
_UNSEEN = Q(digest=None)
_WAITING = Q(batch_id=None, stale=False)


class SnapshotChanged(Conflict):
    cause = "snapshot_changed"

    def __init__(self) -> None:
        super().__init__("usage or rate cards have changed since the preview; preview again")


class NotPreviewed(Conflict):
    cause = "not_previewed"


class _Found(NamedTuple):
    """What a re-rating would do to one subscriber."""

    changes: list[Change]
    units_before: int
    units_after: int
    digest: bytes


_SHARES_SQL = """
INSERT INTO metering_reratingshare
    (subscriber_id, run_id, records, units_before, units_after, stale, problem)
SELECT DISTINCT r.subscriber_id, %s, 0, 0, 0, false, ''
FROM metering_usagerecord r
WHERE r.occurred_at >= %s AND r.occurred_at < %s
  AND r.gateway_id IN (SELECT id FROM subscriptions_gateway WHERE operator_id = %s)
ORDER BY 1
"""
_NEW_SUBSCRIBER_SQL = """
SELECT EXISTS (
    SELECT FROM metering_usagerecord r
    WHERE r.occurred_at >= %s AND r.occurred_at < %s
      AND r.gateway_id IN (SELECT id FROM subscriptions_gateway WHERE operator_id = %s)
      AND NOT EXISTS (
          SELECT FROM metering_reratingshare s
          WHERE s.subscriber_id = r.subscriber_id AND s.run_id = %s)
)
"""
_MANY_SQL = """
SELECT count(*) FROM (
    SELECT FROM metering_usagerecord r
    WHERE r.occurred_at >= %s AND r.occurred_at < %s
      AND r.gateway_id IN (SELECT id FROM subscriptions_gateway WHERE operator_id = %s)
    LIMIT %s
) r
"""


@transaction.atomic
def order(
    operator: Operator,
    *,
    rate_card: str,
    replaces: str,
    since: dt.datetime,
    until: dt.datetime,
    why: Why,
    at: dt.datetime,
) -> Rerating:
    """A run whose preview is still to be made, by `work`. Charges nothing. Raises Invalid."""
    if since >= until:
        raise Invalid("since must be before until")
    known = set(RateCard.objects.filter(operator=operator).values_list("code", flat=True))
    for code in filter(None, (rate_card, replaces)):
        if code not in known:
            raise Invalid(f"there is no rate card {code}")
    with connection.cursor() as cursor:
        cursor.execute(_MANY_SQL, [since, until, operator.pk, SMALL + 1])
        many = cursor.fetchone()[0]
        run = Rerating.objects.create(
            operator=operator,
            rate_card=rate_card,
            replaces=replaces,
            since=since,
            until=until,
            card_stamp=_stamp(operator.pk),
            large=many > SMALL,
            reason=why.reason,
            made_by=why.made_by,
            made_at=at,
        )
        cursor.execute(_SHARES_SQL, [run.pk, since, until, operator.pk])
    return run


def find(operator: Operator, run_id: int) -> Rerating:
    """Raises NotFound, for another operator's as for none."""
    run = Rerating.objects.filter(operator=operator, pk=min(run_id, 2**63 - 1)).first()
    if run is None:
        raise NotFound("there is no such re-rating")
    return run


def shares_of(run: Rerating) -> QuerySet[ReratingShare]:
    return ReratingShare.objects.filter(run_id=run.pk)


class Sums(NamedTuple):
    """What a run comes to, of the subscribers looked at until now; units in thousandths."""

    subscribers: int
    left: int
    failed: int
    stale: int
    gain: int
    lose: int
    records: int
    units_before: int
    units_after: int


def sums_of(run: Rerating) -> Sums:
    left = _UNSEEN if run.state == _State.PREVIEWING else _WAITING
    each = "subscriber_id"
    found = shares_of(run).aggregate(
        subscribers=Count(each),
        left=Count(each, filter=left),
        failed=Count(each, filter=~Q(problem="")),
        stale=Count(each, filter=Q(stale=True)),
        gain=Count(each, filter=Q(units_after__lt=F("units_before"))),
        lose=Count(each, filter=Q(units_after__gt=F("units_before"))),
        many=Coalesce(Sum("records"), 0),
        before=Coalesce(Sum("units_before"), 0),
        after=Coalesce(Sum("units_after"), 0),
    )
    return Sums(*map(int, found.values()))


def largest_of(run: Rerating, many: int) -> list[ReratingShare]:
    """The shares that change most."""
    change = Abs(F("units_after") - F("units_before"))
    return list(shares_of(run).order_by(change.desc(), "subscriber_id")[:many])


def waiting() -> list[int]:
    """The runs at which something is to be done, of all operators."""
    rows = Rerating.objects.filter(state__in=(_State.PREVIEWING, _State.APPLYING))
    return list(rows.order_by("pk").values_list("pk", flat=True))


def begin(run: Rerating) -> Rerating:
    """Order what was previewed to be put in force, by `work`; again changes nothing.

    Raises NotPreviewed while it is still looked at, SnapshotChanged where it was refused before.
    """
    Rerating.objects.filter(pk=run.pk, state=_State.PREVIEWED).update(state=_State.APPLYING)
    run.refresh_from_db()
    if run.state == _State.PREVIEWING:
        raise NotPreviewed("the preview of this re-rating is still being made")
    if run.state == _State.REFUSED:
        raise SnapshotChanged
    return run


def always() -> bool:
    """For whoever works until nothing is left."""
    return True


def work(run_id: int, *, at: dt.datetime, more: Callable[[], bool] = always) -> Rerating:
    """Do what a run waits for, share by share, while there is `more` time; answers where it is.

    Any number may work at one run: a share is taken by one of them at a time, and is taken again
    where its worker died. What others are at when nothing else is left is theirs to end.
    """
    run = Rerating.objects.select_related("operator").get(pk=run_id)
    if run.state == _State.PREVIEWING:
        _each(run, _UNSEEN, lambda share: _preview(run, share), more=more)
        _end_preview(run)
    elif run.state == _State.APPLYING and (run.compared_at is not None or _compare(run, at=at)):
        _each(run, _WAITING, lambda share: _apply(run, share, at=at), more=more)
        _end_apply(run, at=at)
    run.refresh_from_db()
    return run


def _each(
    run: Rerating, which: Q, do: Callable[[ReratingShare], bool], *, more: Callable[[], bool]
) -> None:
    """Do each share that waits, in a transaction of its own, until none is left or one says so."""
    failed: list[int] = []
    while more():
        taken: list[int] = []

        def next_one(taken: list[int] = taken) -> bool:
            share = _take(run, which, but=failed)
            if share is None:
                return False
            taken.append(share.subscriber_id)
            return do(share)

        try:
            if not buckets.attempt(next_one):
                return
        except Exception as error:
            if not taken or isinstance(error, (OperationalError, InterfaceError)):
                raise  # a restart, a full disk: the share is as good as before
            log.exception("re-rating %s, subscriber %s", run.pk, taken[-1])
            failed.append(taken[-1])
            reason = f"{type(error).__name__}: {error}"[:_REASON]
            shares_of(run).filter(which, subscriber_id=taken[-1]).update(problem=reason)


# Previewing --------------------------------------------------------------------------------------


def _preview(run: Rerating, share: ReratingShare) -> bool:
    """Look at a subscriber's share; answers whether to go on."""
    found = _look(run, _records(run, share.subscriber_id))
    if _stamp(run.operator_id) != run.card_stamp:  # cards are only added: none came before it
        _move(run, _State.PREVIEWING, _State.REFUSED)
        return False
    _update(
        share,
        records=len(found.changes),
        units_before=found.units_before,
        units_after=found.units_after,
        digest=found.digest,
    )
    return True


def _end_preview(run: Rerating) -> None:
    if not shares_of(run).filter(_UNSEEN).exists():
        _move(run, _State.PREVIEWING, _State.PREVIEWED)


# Applying ----------------------------------------------------------------------------------------


def _compare(run: Rerating, *, at: dt.datetime) -> bool:
    """Whether all is as it was previewed; if not, the run is refused.

    Two may compare at once: what the first found stands, for it may be applying it already.
    """
    compared = Rerating.objects.filter(pk=run.pk, state=_State.APPLYING, compared_at=None)
    if _is_as_previewed(run):
        compared.update(compared_at=at)
    else:
        compared.update(state=_State.REFUSED)
    run.refresh_from_db()
    return run.compared_at is not None


def _is_as_previewed(run: Rerating) -> bool:
    if _stamp(run.operator_id) != run.card_stamp:
        return False
    with connection.cursor() as cursor:
        cursor.execute(_NEW_SUBSCRIBER_SQL, [run.since, run.until, run.operator_id, run.pk])
        if cursor.fetchone()[0]:
            return False
    return all(
        _look(run, _records(run, share.subscriber_id)).digest == bytes(share.digest or b"")
        for share in shares_of(run).order_by("subscriber_id").iterator()
    )


def _apply(run: Rerating, share: ReratingShare, *, at: dt.datetime) -> bool:
    """Put a subscriber's share in force, or leave it as stale; answers that there may be more."""
    desk = Desk(run.operator, share.subscriber_id, at=at)
    found = _look(run, sorted(desk.lock_range(run.since, run.until), key=key_of))
    if found.digest != bytes(share.digest or b"") or _stamp(run.operator_id) != run.card_stamp:
        _update(share, stale=True)
        return True
    batch_id = 0
    if found.changes:
        why = Why(run.reason, run.made_by)
        batch_id = desk.adjust(found.changes, Adjustment.Kind.RERATING, why).batch_id
    _update(share, batch_id=batch_id)
    return True


def _end_apply(run: Rerating, *, at: dt.datetime) -> None:
    """Applied when nothing waits any more; refused where all that was to change was overtaken."""
    shares = shares_of(run)
    if shares.filter(_WAITING).exists():
        return
    if shares.filter(stale=True).exists() and not shares.filter(batch_id__gt=0).exists():
        _move(run, _State.APPLYING, _State.REFUSED)
    else:
        rows = Rerating.objects.filter(pk=run.pk, state=_State.APPLYING)
        rows.update(state=_State.APPLIED, applied_at=at)


# Both --------------------------------------------------------------------------------------------


def _take(run: Rerating, which: Q, *, but: Sequence[int]) -> ReratingShare | None:
    """A share that nobody is at, locked until the transaction ends."""
    rows = shares_of(run).filter(which).exclude(subscriber_id__in=but).order_by("subscriber_id")
    return rows.select_for_update(skip_locked=True).first()


def _update(share: ReratingShare, **values: object) -> None:
    own = ReratingShare.objects.filter(subscriber_id=share.subscriber_id, run_id=share.run_id)
    own.update(problem="", **values)


def _move(run: Rerating, before: str, after: str) -> None:
    Rerating.objects.filter(pk=run.pk, state=before).update(state=after)


def _stamp(operator_id: int) -> int:
    newest = RateCard.objects.filter(operator_id=operator_id).aggregate(newest=Max("pk"))
    return newest["newest"] or 0


def _records(run: Rerating, subscriber_id: int) -> list[UsageRecord]:
    rows = UsageRecord.objects.filter(
        subscriber_id=subscriber_id, occurred_at__gte=run.since, occurred_at__lt=run.until
    )
    return list(rows.order_by("occurred_at", "gateway_id", "source", "record_id"))


def _look(run: Rerating, records: Sequence[UsageRecord]) -> _Found:
    """What is in force of a subscriber's range, and what the card would make of it.

    What is void or free stays so, and what the card has no weight for is left as it is.
    """
    cards = cards_of(run.operator_id, run.card_stamp)
    codes = _codes(run)
    digest = hashlib.sha256()
    changes: list[Change] = []
    before = after = 0
    known_by_key = adjusted.in_force(records[0].subscriber_id, records) if records else {}
    for key, known in known_by_key.items():
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
