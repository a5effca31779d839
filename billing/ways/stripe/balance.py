"""What Stripe says an account's balance moved by: its balance transactions, each with what it is
about."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from billing.ways.provider import Moved, Unavailable
from billing.ways.stripe import notices
from billing.ways.stripe.amounts import from_stripe
from billing.ways.stripe.client import Refused, asking, client

# Stripe's categories of its reports; all others are `other`.
KINDS = {
    "charge": "payment",
    "payment": "payment",
    "refund": "refund",
    "partial_capture_reversal": "refund",
    "refund_failure": "refund",
    "fee": "fee",
    "network_cost": "fee",
    "payout": "payout",
    "payout_reversal": "payout",
    "dispute": "dispute",
    "dispute_reversal": "dispute",
}


def moved(secret: str, since: dt.datetime, until: dt.datetime) -> Iterator[Moved]:
    """In the order of time; Stripe counts in seconds, and tells the latest first."""
    rows: list[Moved] = []
    try:
        with asking():
            found = client(secret).v1.balance_transactions.list(
                {
                    "created": {"gte": int(since.timestamp()), "lt": int(until.timestamp())},
                    "expand": ["data.source"],
                    "limit": 100,
                }
            )
            rows.extend(_read(one.to_dict()) for one in found.auto_paging_iter())
    except Refused as refused:
        raise Unavailable(f"Stripe does not tell: {refused.code}") from refused
    yield from sorted(rows, key=lambda one: (one.at, one.id))


def _read(said: dict[str, Any]) -> Moved:
    source = said.get("source")
    about: dict[str, Any] = source if isinstance(source, dict) else {}
    name = str(about.get("id") or source or "")
    kind = KINDS.get(said["reporting_category"], "other")
    payment = about.get("payment_intent")
    if isinstance(payment, dict):
        payment = payment["id"]
    return Moved(
        id=said["id"],
        at=dt.datetime.fromtimestamp(said["created"], dt.UTC),
        kind=kind,
        gross=from_stripe(said["amount"]),
        fee=from_stripe(said["fee"]),
        currency=said["currency"].upper(),
        key=notices.key_of(about),
        reference=str(payment or name) if kind == "payment" else name,
        payout=name if kind == "payout" else "",
    )
