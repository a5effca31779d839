"""Saved methods, as collecting needs them."""

from __future__ import annotations

from typing import NamedTuple

from billing.models import PaymentMethod
from subscriptions.models import Operator


class Saved(NamedTuple):
    """A method that can be charged without its owner: the way, and the provider's name for it."""

    way: str
    name: str


def default_of(operator: Operator, subscriber_id: int) -> Saved | None:
    """The method that a subscriber wants to be charged; None: it has saved none."""
    method = PaymentMethod.objects.filter(
        operator=operator, subscriber_id=subscriber_id, is_default=True, account__ended_at=None
    ).first()
    return None if method is None else Saved("card", method.reference)
