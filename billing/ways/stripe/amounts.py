"""Money as Stripe counts it: whole hundredths. 9.90 yuan is 990."""

from __future__ import annotations

from decimal import Decimal

# Of those that operators may have; none without decimals is offered.
_TWO_DECIMALS = {"CNY", "USD", "HKD", "EUR"}


def to_stripe(amount: Decimal, currency: str) -> int:
    """Raises ValueError for what Stripe counts in another way, or has no such amount."""
    if currency not in _TWO_DECIMALS:
        raise ValueError(f"{currency} is not paid through Stripe")
    hundredths = amount * 100
    if hundredths != int(hundredths):
        raise ValueError(f"{amount} has more than two decimals")
    return int(hundredths)


def from_stripe(hundredths: int) -> Decimal:
    return Decimal(hundredths) / 100
