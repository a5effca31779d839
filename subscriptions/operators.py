"""What an operator says about itself: writes the settings of its own row."""

from __future__ import annotations

from subscriptions.models import Operator


def change(operator: Operator, *, top_up_url: str) -> None:
    """Where this operator's subscribers can buy more; "" where they cannot."""
    operator.top_up_url = top_up_url
    Operator.objects.filter(pk=operator.pk).update(top_up_url=top_up_url)
