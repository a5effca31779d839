"""In what two versions of a plan or a rate card differ. Pure; the words are the reader's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Any, NamedTuple

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from djmoney.money import Money

from billing.prices.terms import CardTerms, Terms
from subscriptions.catalog import Component, PlanTerms, Weight
from subscriptions.policies import Tier, Window
from subscriptions.units import to_wire


class Difference(NamedTuple):
    """`name` is the term's, for machines; the sides are plain text, empty where there is none."""

    name: str
    before: str
    after: str


# In the order in which people read them.
NAMES: Mapping[str, str | Promise] = {
    "name": _("Name"),
    "price": _("Price"),
    "allowance": _("Units included"),
    "rate_card": _("Rate card"),
    "cycle": _("Cycle"),
    "first_month": _("First month"),
    "collect": _("Collected"),
    "rollover": _("Left over at the end"),
    "on_exhaustion": _("When used up"),
    "price_per_million": _("Price per million units beyond"),
    "tier_mode": _("How tiers are counted"),
    "tiers": _("Tiers"),
    "block_units": _("Units in a pack"),
    "block_price": _("Price of a pack"),
    "cap": _("Most that is spent beyond"),
    "cap_units": _("Most units beyond"),
    "degrade_model": _("Model when used up"),
    "degrade_tokens_per_minute": _("Tokens a minute when used up"),
    "requests_per_minute": _("Requests a minute"),
    "tokens_per_minute": _("Tokens a minute"),
    "limits_fail_closed": _("Nobody is let through while limits cannot be told"),
    "windows": _("Windows of use"),
    "outcomes": _("What is free"),
    "refund": _("Given back at a cancellation"),
    "trial_days": _("Days of trial"),
    "converts_to": _("Goes on as"),
    "pause_plan": _("Kept while paused by"),
    "suspends": _("Uses nothing of its own"),
    "tax_rate": _("Tax rate"),
    "tax_category": _("Tax category"),
    "components": _("Parts of the price"),
}
# What the words mean that a term may have.
VALUES: Mapping[str, Mapping[str, str | Promise]] = {
    "cycle": {
        "calendar_month": _("Calendar month"),
        "subscription_day": _("From the day of the sale"),
    },
    "first_month": {
        "full": _("Whole price and units"),
        "by_day": _("By the day"),
        "next": _("Begins with the next month"),
    },
    "collect": {
        "at_close": _("When the period is over"),
        "before_period": _("Before each period"),
    },
    "rollover": {"none": _("Forfeited"), "one_cycle": _("Good for one more period")},
    "on_exhaustion": {
        "stop": _("Requests are refused"),
        "meter": _("Each million more has a price"),
        "blocks": _("Packs are added"),
        "degrade": _("A smaller model answers"),
    },
    "refund": {"none": _("Nothing"), "unused": _("What is unused")},
    "tier_mode": {
        "graduated": _("Each unit by its tier"),
        "volume": _("All units by the last tier"),
    },
}
_UNITS = {"allowance", "block_units", "cap_units"}


def differences(old: Terms, new: Terms) -> list[Difference]:
    """What the one says and the other does not, each term once; none where both say the same."""
    before, after = dict(_said(old)), dict(_said(new))
    names = [name for name in NAMES if name in before or name in after]
    names += sorted((before.keys() | after.keys()) - set(names))
    return [
        Difference(name, before.get(name, ""), after.get(name, ""))
        for name in names
        if before.get(name, "") != after.get(name, "")
    ]


def in_words(one: Difference) -> str:
    """A difference as a sentence, in the language of whoever reads."""
    name, values = str(NAMES.get(one.name, one.name)), VALUES.get(one.name, {})
    before, after = (str(values.get(said, said)) for said in (one.before, one.after))
    if not before:
        return str(_("%(name)s: now %(after)s")) % {"name": name, "after": after}
    if not after:
        return str(_("%(name)s: no longer %(before)s")) % {"name": name, "before": before}
    words = {"name": name, "before": before, "after": after}
    return str(_("%(name)s: %(before)s → %(after)s")) % words


def weights(weight: Weight) -> tuple[Decimal, ...]:
    """Units per token of input, cached input, cache write, output and reasoning."""
    return (
        weight.input,
        weight.cached_input,
        weight.cache_write,
        weight.output,
        weight.reasoning,
    )


def _said(terms: Terms) -> Iterator[tuple[str, str]]:
    if isinstance(terms, CardTerms):
        for weight in terms.weights:
            yield weight.model, _weight(weight)
        return
    for one in fields(PlanTerms):
        yield one.name, _text(one.name, getattr(terms, one.name))


def _weight(weight: Weight) -> str:
    return " / ".join(map(_plain, weights(weight)))


def _text(name: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return "✓"
    if name in _UNITS:
        return _units(value)
    if isinstance(value, Mapping):
        return ", ".join(sorted(word for word, said in value.items() if said == "free"))
    if isinstance(value, tuple):
        return "; ".join(map(_part, value))
    if isinstance(value, Money):
        return _money(value)
    if name == "tax_rate":
        return _percent(value)
    if isinstance(value, Decimal):
        return _plain(value)
    return str(value)


def _part(value: Component | Window | Tier) -> str:
    match value:
        case Component():
            rate = f"{_percent(value.tax_rate)} {value.tax_category}".rstrip()
            return f"{value.name} {_money(value.price)} ({rate})"
        case Window():
            return f"{_units(value.units)} / {value.per}{' ~' if value.sliding else ''}"
        case Tier():
            end = "∞" if value.up_to is None else _units(value.up_to)
            return f"≤ {end}: {_plain(value.price_per_million)}"


def _money(value: Money) -> str:
    return f"{value.amount:.2f} {value.currency.code}"


def _units(value: int) -> str:
    whole, _, part = to_wire(value).partition(".")
    return f"{int(whole):,}" + (f".{part.rstrip('0')}" if part.rstrip("0") else "")


def _percent(share: Decimal) -> str:
    return f"{_plain(share * 100)}%"


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}"
