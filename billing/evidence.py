"""What our own books say for a dispute: the evidence that staff begin with.

Drawn from the order and the receipts of what its units paid for; nothing of what was said in a call
is kept anywhere, so nothing of it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo

from billing import disputes
from billing.models import Dispute, Order
from metering import receipts
from metering.adjusted import key_of
from metering.models import UsageRecord
from subscriptions import periods
from subscriptions.models import BucketEntry, Operator, Subscriber
from subscriptions.units import to_wire

# Of how many calls a log tells, the earliest first.
CALLS = 200


def drafted(operator: Operator, dispute: Dispute) -> dict[str, str]:
    """Evidence by its name, as far as we have it; what staff have written is not looked at."""
    order = Order.objects.select_related("plan", "booster").get(
        subscriber_id=dispute.subscriber_id, id=dispute.order_id
    )
    subscriber = Subscriber.objects.get(pk=dispute.subscriber_id)
    zone = ZoneInfo(operator.time_zone)
    assert order.paid_at is not None
    said = {
        "product_description": _product(order),
        "customer_name": subscriber.name,
        "customer_email_address": subscriber.email,
        "service_date": f"{order.paid_at.astimezone(zone):%Y-%m-%d}",
        "access_activity_log": "\n".join(_calls(operator, order, zone)),
    }
    return {name: text[: disputes.LONGEST] for name, text in said.items() if text}


def _product(order: Order) -> str:
    if order.booster is not None:
        return f"{order.booster.name}: {to_wire(order.booster.units)} token units"
    if order.plan is not None:
        return f"{order.plan.name}: {to_wire(order.plan.allowance)} token units a period"
    if order.kind == Order.Kind.TOP_UP:
        return "Prepaid balance for token usage"
    return "Token usage of a period, as invoiced"


def _calls(operator: Operator, order: Order, zone: ZoneInfo) -> list[str]:
    """What the order's units paid for, a call a line."""
    bucket_ids = set(disputes.granted_by(order))
    batches = (
        BucketEntry.objects.filter(
            subscriber_id=order.subscriber_id,
            bucket_id__in=bucket_ids,
            kind=BucketEntry.Kind.USAGE,
        )
        .order_by("charged_at", "batch_id")
        .values_list("batch_id", flat=True)[:CALLS]
    )
    records = list(
        UsageRecord.objects.filter(
            subscriber_id=order.subscriber_id, batch_id__in=list(batches)
        ).order_by("occurred_at")[: 5 * CALLS]
    )
    return _lines(operator, order, records, bucket_ids, zone)[:CALLS]


def _lines(
    operator: Operator,
    order: Order,
    records: Sequence[UsageRecord],
    bucket_ids: set[int],
    zone: ZoneInfo,
) -> list[str]:
    draws = receipts.draws_of(operator, order.subscriber_id, records)
    lines = []
    for record in records:
        drawn = [d for d in draws.get(key_of(record), ()) if d.bucket_id in bucket_ids]
        if drawn:
            units = to_wire(sum(d.units for d in drawn))
            when = periods.local(record.occurred_at, zone)
            lines.append(f"{when} {record.model}: {units} units ({record.record_id})")
    return lines
