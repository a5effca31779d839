"""What a minor may spend at once: asked by whoever sells something."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

from subscriptions.errors import Conflict
from subscriptions.models import Guard


class OrderAboveCap(Conflict):
    cause = "minor_order_cap"


def check_order(subscriber_id: int, amount: Decimal) -> None:
    """Raises OrderAboveCap for what costs more than a minor may spend in one order."""
    cap = most(subscriber_id)
    if cap is not None and amount > cap:
        raise OrderAboveCap(f"a minor's order is at most {cap:.2f}: its guardian settled that")


def most(subscriber_id: int) -> Decimal | None:
    """What an order may cost at most; None for who has no such cap."""
    caps = Guard.objects.filter(pk=subscriber_id, order_amount__isnull=False)
    return caps.values_list("order_amount", flat=True).first()


def among(subscriber_ids: Collection[int]) -> set[int]:
    """Those of these subscribers who have such a cap."""
    capped = Guard.objects.filter(pk__in=subscriber_ids, order_amount__isnull=False)
    return set(capped.values_list("pk", flat=True))
