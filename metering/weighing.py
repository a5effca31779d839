"""Tokens times weights = units: which weights hold for a record, and the units they make.

Rate card versions are immutable and only ever added, so a process keeps what it has read; the
charge compares the newest version's id (read under the operator's shared lock) to notice more.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from subscriptions import catalog
from subscriptions.models import RateCard, RateCardWeight
from subscriptions.units import THOUSANDTHS

_REMEMBERED_MODELS = 10_000


class Weight(NamedTuple):
    """Thousandths of a unit per token of each exclusive class; `id` is the RateCardWeight's."""

    id: int
    uncached_input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int


class CardVersion:
    """One version of a card: finds the weight of a model and remembers what it found."""

    def __init__(self, effective_from: dt.datetime, weights: list[tuple[str, Weight]]) -> None:
        self.effective_from = effective_from
        # The longest pattern wins; of two as long, the one with fewer stars.
        self._patterns = sorted(weights, key=lambda w: (-len(w[0]), w[0].count("*"), w[0]))
        self._found: dict[str, Weight | None] = {}

    def weight_of(self, model: str) -> Weight | None:
        """The weight of the longest pattern that matches, or None."""
        try:
            return self._found[model]
        except KeyError:
            found = next((w for pattern, w in self._patterns if matches(pattern, model)), None)
            if len(self._found) < _REMEMBERED_MODELS:
                self._found[model] = found
            return found


@dataclass(frozen=True, slots=True)
class Cards:
    """All versions of an operator's cards; `stamp` is the newest version's id (0: none)."""

    stamp: int
    versions: dict[str, tuple[list[dt.datetime], list[CardVersion]]]

    def version_at(self, code: str, occurred_at: dt.datetime) -> CardVersion | None:
        """The version of a card that holds at an instant, or None where none does yet."""
        starts, versions = self.versions.get(code, ((), ()))
        nr = bisect_right(starts, occurred_at)
        return versions[nr - 1] if nr else None


_cards: dict[int, Cards] = {}


def cards_of(operator_id: int, stamp: int) -> Cards:
    """The operator's cards as of `stamp`, read again only when it is newer than what is known."""
    known = _cards.get(operator_id)
    if known is None or known.stamp != stamp:
        known = _cards[operator_id] = _read(operator_id)
    return known


def _read(operator_id: int) -> Cards:
    weights: dict[int, list[tuple[str, Weight]]] = {}
    for row in RateCardWeight.objects.filter(rate_card__operator_id=operator_id):
        weights.setdefault(row.rate_card_id, []).append((row.model, _weight(row, row.pk)))
    stamp = 0
    versions: dict[str, tuple[list[dt.datetime], list[CardVersion]]] = {}
    rows = RateCard.objects.filter(operator_id=operator_id).order_by("effective_from", "version")
    for card in rows:
        starts, found = versions.setdefault(card.code, ([], []))
        starts.append(card.effective_from)
        found.append(CardVersion(card.effective_from, weights.get(card.pk, [])))
        stamp = max(stamp, card.pk)
    return Cards(stamp, versions)


def drafted(weights: Sequence[catalog.Weight], effective_from: dt.datetime) -> CardVersion:
    """A version that is in no table yet."""
    return CardVersion(effective_from, [(one.model, _weight(one, 0)) for one in weights])


def _weight(said: RateCardWeight | catalog.Weight, weight_id: int) -> Weight:
    return Weight(
        weight_id,
        int(said.input * THOUSANDTHS),
        int(said.cached_input * THOUSANDTHS),
        int(said.cache_write * THOUSANDTHS),
        int(said.output * THOUSANDTHS),
        int(said.reasoning * THOUSANDTHS),
    )


def matches(pattern: str, model: str) -> bool:
    """Whether `pattern`, in which only `*` is special (any text, also none), fits all of `model`.

    Linear in time for any number of stars, which a regular expression would not be.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == model
    *middle, last = rest
    if not model.startswith(first) or len(model) < len(first) + len(last):
        return False
    end = len(model) - len(last)
    if not model.endswith(last):
        return False
    place = len(first)
    for part in middle:
        place = model.find(part, place, end)
        if place < 0:
            return False
        place += len(part)
    return True
