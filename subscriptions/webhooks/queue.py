"""What is to be sent to which endpoint, and what became of it: the only writer of deliveries and
attempts.

A subscriber's events go to an endpoint in their order: only the first that waits is due, and the
next is when it has been delivered or given up. A row waits until what came of a call is committed,
so a crash in between sends it again, under the same id.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction
from django.db.models import Q

from subscriptions import outbox, pgarrays
from subscriptions.errors import Conflict, NotFound
from subscriptions.models import Operator, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from subscriptions.outbox import Event
from subscriptions.pgarrays import Instants, Int8s, Texts
from subscriptions.units import to_wire
from subscriptions.webhooks import endpoints
from subscriptions.webhooks.calling import Answer

# How long after an attempt the next one comes; the last of these again and again.
_SECONDS = (5, 30, 300, 1800, 7200, 18000, 36000)
BACK_OFF = tuple(dt.timedelta(seconds=seconds) for seconds in _SECONDS)
GIVEN_UP_AFTER = dt.timedelta(days=3)
TEST = "webhook.test"
CHUNK = 2000

# Events into the queue --------------------------------------------------------------------------

_FAN_OUT_SQL = """
INSERT INTO subscriptions_webhookdelivery
    (endpoint_id, subscriber_id, event_key, kind, occurred_at, payload, state, attempts,
     next_at, since)
SELECT t.endpoint_id, e.subscriber_id, e.key, e.kind, e.occurred_at, e.payload::jsonb, 'waiting', 0,
       e.at, e.at
FROM unnest(%s::bigint[], %s::bigint[]) AS t (endpoint_id, nr)
JOIN unnest(%s::bigint[], %s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::timestamptz[])
     WITH ORDINALITY AS e (subscriber_id, key, kind, occurred_at, payload, at, nr)
  ON e.nr = t.nr
ORDER BY e.nr, t.endpoint_id
ON CONFLICT DO NOTHING
"""


def fan_out(events: Sequence[Event], *, only: WebhookEndpoint | None = None) -> int:
    """A delivery of each event, in this order, to each endpoint that hears of its kind; answers how
    many there were not yet. Joins the caller's transaction."""
    assert connection.in_atomic_block
    by_operator: dict[int, list[WebhookEndpoint]] = defaultdict(list)
    for endpoint in [only] if only else endpoints.hearing(event.operator_id for event in events):
        by_operator[endpoint.operator_id].append(endpoint)
    pairs = [
        (endpoint.pk, nr)
        for nr, event in enumerate(events, 1)
        for endpoint in by_operator.get(event.operator_id, ())
        if not endpoint.kinds or event.kind in endpoint.kinds
    ]
    if not pairs:
        return 0
    with pgarrays.statements() as cursor:
        cursor.execute(
            _FAN_OUT_SQL,
            [
                Int8s(endpoint_id for endpoint_id, _ in pairs),
                Int8s(nr for _, nr in pairs),
                Int8s(event.subscriber_id for event in events),
                Texts(event.key for event in events),
                Texts(event.kind for event in events),
                Instants(event.occurred_at for event in events),
                Texts(json.dumps(_data(event)) for event in events),
                Instants(event.at for event in events),
            ],
        )
        return int(cursor.rowcount)


def _data(event: Event) -> dict[str, Any]:
    """What of an event travels: whose it is by the operator's own id, units as decimal strings."""
    said = {"subscriber": event.external_id, **event.payload}
    for name, value in said.items():
        # The draw counts in thousandths.
        if name in ("granted", "used") and isinstance(value, int):
            said[name] = to_wire(value)
    if "bucket" in said:
        said["bucket"] = str(said["bucket"])  # as a balance names it
    return said


@transaction.atomic
def send_test(operator: Operator, endpoint_id: int, *, at: dt.datetime) -> WebhookDelivery:
    """A delivery of an event that says nothing, to see that it arrives. Raises Disabled."""
    endpoint = endpoints.find(operator, endpoint_id)
    if endpoint.disabled_at is not None:
        raise endpoints.Disabled("the endpoint is disabled; enable it first")
    return WebhookDelivery.objects.create(
        endpoint=endpoint,
        subscriber_id=0,
        event_key=f"test:{uuid.uuid4()}",
        kind=TEST,
        occurred_at=at,
        payload={"endpoint": endpoint.pk},
        next_at=at,
        since=at,
    )


# Sending ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery whose turn it is; `at` is what time it is at its operator."""

    id: int
    endpoint_id: int
    subscriber_id: int
    event_key: str
    kind: str
    occurred_at: dt.datetime
    payload: str  # JSON
    at: dt.datetime


# The look at who is first is a subquery on purpose: it is asked of the few rows that are due, by
# the index, however many wait.
_DUE_SQL = """
SELECT d.*, w.at
FROM (
    SELECT w.id, coalesce(o.clock_at, %(at)s) AS at,
           CASE WHEN w.failures > 0 THEN 1 ELSE %(room)s END AS room
    FROM subscriptions_webhookendpoint w
    JOIN subscriptions_operator o ON o.id = w.operator_id
    WHERE w.disabled_at IS NULL AND w.deleted_at IS NULL AND w.id <> ALL(%(but)s::bigint[])
      AND (w.paused_until IS NULL OR w.paused_until <= coalesce(o.clock_at, %(at)s))
) w
CROSS JOIN LATERAL (
    SELECT d.id, d.endpoint_id, d.subscriber_id, d.event_key, d.kind, d.occurred_at,
           d.payload::text
    FROM subscriptions_webhookdelivery d
    WHERE d.endpoint_id = w.id AND d.state = 'waiting' AND d.next_at <= w.at
      AND d.id = (
          SELECT e.id FROM subscriptions_webhookdelivery e
          WHERE e.endpoint_id = d.endpoint_id AND e.subscriber_id = d.subscriber_id
            AND e.state = 'waiting'
          ORDER BY e.occurred_at, e.id LIMIT 1)
    ORDER BY d.next_at, d.id
    LIMIT w.room
) d
ORDER BY d.endpoint_id, d.id
"""


def due(*, at: dt.datetime, room: int, but: Sequence[int]) -> list[Due]:
    """What each endpoint (`but` some) is to be sent next, `room` at most; one that fails only one.

    `at` is the wall's time; a test operator's is its own.
    """
    with pgarrays.statements() as cursor:
        cursor.execute(_DUE_SQL, {"at": at, "room": room, "but": Int8s(but)})
        return [Due(*row) for row in cursor.fetchall()]


@transaction.atomic
def ended(answers: Sequence[tuple[Due, Answer]]) -> None:
    """Keep what came of these calls: delivered, to be tried again later, or given up."""
    if not answers:
        return
    rows = {
        row.pk: row
        for row in WebhookDelivery.objects.filter(pk__among=[one.id for one, _ in answers])
        .order_by("pk")
        .select_for_update(no_key=True)
    }
    calls, by_endpoint = [], defaultdict(list)
    for one, answer in answers:
        by_endpoint[one.endpoint_id].append((one.at, answer))
        row = rows.get(one.id)
        # Dropped meanwhile with what is old, or replayed and so begun anew.
        if row is None or row.state != WebhookDelivery.State.WAITING:
            continue
        row.attempts += 1
        calls.append(
            WebhookAttempt(
                delivery_id=row.pk,
                nr=row.attempts,
                at=one.at,
                status=answer.status,
                milliseconds=answer.milliseconds,
                error=answer.error,
                answer=answer.text,
            )
        )
        if answer.good:
            row.state, row.ended_at = WebhookDelivery.State.DELIVERED, one.at
        elif one.at - row.since >= GIVEN_UP_AFTER:
            row.state, row.ended_at = WebhookDelivery.State.FAILED, one.at
        else:
            # Not beyond the moment that it is given up: then comes the last attempt.
            later = one.at + BACK_OFF[min(row.attempts, len(BACK_OFF)) - 1]
            row.next_at = min(later, row.since + GIVEN_UP_AFTER)
    WebhookDelivery.objects.bulk_update(rows.values(), ["state", "ended_at", "attempts", "next_at"])
    WebhookAttempt.objects.bulk_create(calls)
    for endpoint_id, came in sorted(by_endpoint.items()):
        results = [(answer.good, answer.status, answer.error) for _, answer in came]
        endpoints.note(endpoint_id, results, at=came[-1][0])


# Again ------------------------------------------------------------------------------------------


class StillWaiting(Conflict):
    cause = "still_waiting"


def find(operator: Operator, delivery_id: int) -> WebhookDelivery:
    """Raises NotFound, for another operator's as for none."""
    delivery = WebhookDelivery.objects.filter(
        pk=delivery_id, endpoint__operator=operator, endpoint__deleted_at__isnull=True
    ).first()
    if delivery is None:
        raise NotFound("there is no such delivery")
    return delivery


@transaction.atomic
def replay(operator: Operator, delivery_id: int, *, at: dt.datetime) -> WebhookDelivery:
    """Send a delivery again that was delivered or given up, under the same id."""
    delivery = find(operator, delivery_id)
    if not _again(Q(pk=delivery.pk), at=at):
        raise StillWaiting("this delivery waits to be sent")
    return find(operator, delivery_id)


@dataclass(frozen=True, slots=True)
class Replayed:
    """`again`: were sent or given up before; `made`: had not been kept for the endpoint."""

    again: int
    made: int


def replay_range(
    operator: Operator,
    endpoint_id: int,
    *,
    since: dt.datetime,
    until: dt.datetime,
    delivered_too: bool,
    at: dt.datetime,
) -> Replayed:
    """Send again what happened in `[since, until)`: what was given up, what was never kept for the
    endpoint (it was new, disabled, or heard of less), and if asked what was delivered."""
    endpoint = endpoints.find(operator, endpoint_id)
    state = Q() if delivered_too else Q(state=WebhookDelivery.State.FAILED)
    span = Q(endpoint=endpoint, occurred_at__gte=since, occurred_at__lt=until)
    with transaction.atomic():
        again = _again(span & state & ~Q(subscriber_id=0), at=at)
    made, last = 0, None
    while True:
        with transaction.atomic():
            events = outbox.told(
                operator.pk, since=since, until=until, after=last, limit=CHUNK, at=at
            )
            made += fan_out(sorted(events, key=outbox.order), only=endpoint)
        if len(events) < CHUNK:
            return Replayed(again, made)
        last = events[-1]


def _again(which: Q, *, at: dt.datetime) -> int:
    return (
        WebhookDelivery.objects.filter(which)
        .exclude(state=WebhookDelivery.State.WAITING)
        .update(state=WebhookDelivery.State.WAITING, ended_at=None, next_at=at, since=at)
    )


# Looking on, and forgetting ---------------------------------------------------------------------


def attempts_of(delivery_ids: Sequence[int]) -> Mapping[int, list[WebhookAttempt]]:
    found: dict[int, list[WebhookAttempt]] = defaultdict(list)
    for row in WebhookAttempt.objects.filter(delivery_id__among=delivery_ids).order_by(
        "delivery_id", "nr"
    ):
        found[row.delivery_id].append(row)
    return found


@transaction.atomic
def forget(operator: Operator, *, before: dt.datetime, limit: int = CHUNK) -> int:
    """Drop an operator's deliveries that ended before, and those that nobody will be sent any more;
    answers how many."""
    of_operator = WebhookDelivery.objects.filter(endpoint__operator=operator)
    gone = Q(endpoint__deleted_at__isnull=False) | Q(
        endpoint__disabled_at__isnull=False, occurred_at__lt=before
    )
    ids = list(
        of_operator.filter(Q(ended_at__lt=before) | gone).values_list("pk", flat=True)[:limit]
    )
    WebhookAttempt.objects.filter(delivery_id__among=ids).delete()
    WebhookDelivery.objects.filter(pk__among=ids).delete()
    return len(ids)
