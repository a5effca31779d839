"""Saved methods, as collecting needs them."""

from __future__ import annotations

from typing import NamedTuple

from subscriptions.models import Operator


class Saved(NamedTuple):
    """A method that can be charged without its owner: the way, and the provider's name for it."""

    way: str
    name: str


def default_of(operator: Operator, subscriber_id: int) -> Saved | None:
    """The method that a subscriber wants to be charged; None: it has saved none."""
    return None
