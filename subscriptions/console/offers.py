"""Lists of what is sold."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from subscriptions.console.cells import Column
from subscriptions.console.lists import Choice, List, begins
from subscriptions.console.pages import Section, page
from subscriptions.models import Booster, Coupon, RateCard, RateCardWeight, Role

_READ = (Role.PRODUCT, Role.AGENT, Role.FINANCE)


@page
class Boosters(List):
    name, address, title = "boosters", "boosters/", _("Boosters")
    help = _("Packages of tokens in immutable versions; what was sold keeps its version.")
    section, icon, order = Section.PRODUCTS, "bolt", 40
    roles = _READ
    model = Booster
    columns = (
        Column("code"),
        Column("version"),
        Column("name"),
        Column("price"),
        Column("units"),
        Column("valid_days"),
        Column("created_at"),
    )
    search = (begins("code"),)
    search_help = _("How the code begins")


@page
class RateCards(List):
    name, address, title = "rate_cards", "rate-cards/", _("Rate cards")
    help = _("How many units a token of each model weighs; in immutable versions.")
    section, icon, order = Section.PRODUCTS, "price_change", 45
    roles = _READ
    model = RateCard
    columns = (Column("code"), Column("version"), Column("effective_from"), Column("created_at"))
    search = (begins("code"),)
    search_help = _("How the code begins")


@page
class Weights(List):
    name, address, title = "weights", "weights/", _("Weights of models")
    help = _("What a token of each class weighs in each version of a card.")
    section, icon, order = Section.PRODUCTS, "balance", 50
    roles = _READ
    model = RateCardWeight
    of_operator = "rate_card__operator"
    related = ("rate_card",)
    columns = (
        Column("model"),
        Column("rate_card.code"),
        Column("rate_card.version"),
        Column("input"),
        Column("cached_input"),
        Column("cache_write"),
        Column("output"),
        Column("reasoning"),
    )
    search = (begins("model"), begins("rate_card__code"))
    search_help = _("How the model or the card begins")


@page
class Coupons(List):
    name, address, title = "coupons", "coupons/", _("Coupons")
    help = _("Discounts by a code, and how often each was redeemed.")
    section, icon, order = Section.PRODUCTS, "sell", 55
    roles = _READ
    model = Coupon
    columns = (
        Column("code"),
        Column("name"),
        Column("percent"),
        Column("amount"),
        Column("covers"),
        Column("redeemed"),
        Column("redeemable_until"),
    )
    search = (begins("code"),)
    search_help = _("How the code begins")
    filters = (Choice("covers"),)
