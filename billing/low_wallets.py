"""What follows when a wallet has less to spend than somebody wants to hear of."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from billing import top_up_policies
from billing.auto_top_up import runs
from subscriptions import outbox
from subscriptions.outbox import Happening


class Fall(NamedTuple):
    """A wallet had `before` to spend, and has `after`; `cause` names what took the difference."""

    subscriber_id: int
    currency: str
    before: Decimal
    after: Decimal
    cause: str

    def crosses(self, threshold: Decimal | None) -> bool:
        return threshold is not None and self.after < threshold <= self.before


def fell(operator_id: int, falls: Sequence[Fall], *, at: dt.datetime) -> None:
    """Tell whose wallet fell below the policy's mark, and begin the top-ups that they agreed to.

    Joins the caller's transaction; a statement or two, however many there are.
    """
    if not falls:
        return
    low = top_up_policies.low_mark(operator_id, at=at)
    outbox.tell(
        [
            Happening(
                fall.subscriber_id,
                "wallet.low",
                f"wallet.low:{fall.currency}:{fall.cause}",
                at,
                {"available": f"{fall.after:.2f}", "mark": f"{low:.2f}", "currency": fall.currency},
            )
            for fall in falls
            if fall.crosses(low)
        ]
    )
    agreed = runs.agreed([fall.subscriber_id for fall in falls])
    runs.begin(
        [
            (agreed[fall.subscriber_id], fall.cause)
            for fall in falls
            if fall.subscriber_id in agreed
            and fall.currency == agreed[fall.subscriber_id].currency
            and fall.crosses(agreed[fall.subscriber_id].threshold)
        ],
        at=at,
    )
