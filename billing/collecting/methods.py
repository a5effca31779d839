"""Saved methods, as collecting needs them: which one, and who is asked to charge it."""

from __future__ import annotations

from typing import NamedTuple

from billing.ways.known import BY_WAY
from billing.ways.provider import Provider
from subscriptions.models import Operator


class Saved(NamedTuple):
    """A method that can be charged without its owner: the way, and the provider's name for it."""

    way: str
    name: str


def default_of(operator: Operator, subscriber_id: int) -> Saved | None:
    """The method that a subscriber wants to be charged; None: it has saved none."""
    return None


def provider_of(operator: Operator, way: str) -> Provider:
    """Who is asked to charge a saved method of this way."""
    return BY_WAY[way]
