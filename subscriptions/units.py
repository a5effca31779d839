"""Units on the wire and in the books.

In the books a unit is a whole number of thousandths; on the wire a decimal string of units.
"""

from __future__ import annotations

from decimal import Decimal

THOUSANDTHS = 1000
# 10^15 units: far above any plan, and so far below int64 that sums of buckets fit too.
MAX_UNITS = 10**15 * THOUSANDTHS


def to_wire(thousandths: int) -> str:
    """`9998765500` -> `"9998765.500"`."""
    sign = "-" if thousandths < 0 else ""
    whole, part = divmod(abs(thousandths), THOUSANDTHS)
    return f"{sign}{whole}.{part:03d}"


def from_decimal(units: Decimal) -> int:
    """`Decimal("1.5")` -> `1500`. Raises ValueError on more than three places."""
    scaled = units * THOUSANDTHS
    if scaled != scaled.to_integral_value():
        raise ValueError("units have at most three decimal places")
    return int(scaled)
