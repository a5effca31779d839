"""All that a plan says, a line a subject: what a tariff page owes to who reads it, in words."""

from __future__ import annotations

from typing import NamedTuple

from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from djmoney.money import Money

from subscriptions import outcomes
from subscriptions.models import Plan
from subscriptions.templatetags import figures
from subscriptions.units import THOUSANDTHS

_MILLION = 1_000_000 * THOUSANDTHS
NOTHING = "–"


class Condition(NamedTuple):
    """What the line is about, and what the plan says of it; nothing said is a dash."""

    name: str
    text: str


def of(plan: Plan) -> list[Condition]:
    """Every condition, in the same order for every plan: they stand side by side."""
    return [Condition(name, said or NOTHING) for name, said in _said(plan)]


def _said(plan: Plan) -> list[tuple[str, str]]:
    return [
        (_("Price"), _price(plan)),
        (_("What the price is made of"), _parts(plan)),
        (_("Tokens"), figures.tokens(plan.allowance)),
        (_("A million of them"), _a_million(plan)),
        (_("When they are used up"), _at_zero(plan)),
        (_("At most beyond the price"), _cap(plan)),
        (_("What is left over"), _left_over(plan)),
        (_("Period"), _period(plan)),
        (_("First period"), _first(plan)),
        (_("When it is paid"), _paid(plan)),
        (_("Limits"), _limits(plan)),
        (_("Not charged"), _free(plan)),
        (_("Ending early"), _refund(plan)),
        (_("Pausing"), _("possible, from the next period on") if plan.pause_plan else _("no")),
        (_("Tax included"), _tax(plan)),
        (_("Weights"), plan.rate_card),
    ]


def _price(plan: Plan) -> str:
    if plan.trial_days is None:
        return _("%(price)s a month") % {"price": figures.money(plan.price)}
    return ngettext(
        "%(price)s for %(days)d day, then plan %(plan)s goes on",
        "%(price)s for %(days)d days, then plan %(plan)s goes on",
        plan.trial_days,
    ) % {
        "price": figures.money(plan.price),
        "days": plan.trial_days,
        "plan": plan.converts_to,
    }


def _parts(plan: Plan) -> str:
    parts = sorted(plan.components.all(), key=lambda part: part.position)
    return "; ".join(
        f"{part.name} {figures.money(part.price)} ({figures.percent(part.tax_rate)})"
        for part in parts
    )


def _a_million(plan: Plan) -> str:
    if not plan.allowance or not plan.price.amount:
        return ""
    amount = plan.price.amount * _MILLION / plan.allowance
    return figures.money(Money(amount, plan.price.currency))


def _at_zero(plan: Plan) -> str:
    match plan.on_exhaustion:
        case Plan.OnExhaustion.STOP:
            return _("requests are refused until you buy more")
        case Plan.OnExhaustion.DEGRADE:
            return _("a smaller model answers: %(model)s") % {"model": plan.degrade_model or "–"}
        case Plan.OnExhaustion.BLOCKS:
            return _("packs of %(units)s for %(price)s each are added") % {
                "units": figures.tokens(plan.block_units),
                "price": figures.money(plan.block_price),
            }
    if plan.price_per_million is not None:
        return _("a million more costs %(price)s") % {
            "price": figures.priced(plan.price_per_million, plan.price)
        }
    return "; ".join(_tiers(plan))


def _tiers(plan: Plan) -> list[str]:
    told = []
    for tier in sorted(plan.tiers.all(), key=lambda tier: tier.position):
        price = figures.priced(tier.price_per_million, plan.price)
        if tier.up_to is None:
            told.append(_("all above: %(price)s a million") % {"price": price})
        else:
            told.append(
                _("up to %(units)s: %(price)s a million")
                % {"units": figures.tokens(tier.up_to), "price": price}
            )
    if told and plan.tier_mode == Plan.TierMode.VOLUME:
        told.append(_("the price of the sum holds for all"))
    return told


def _cap(plan: Plan) -> str:
    said = []
    if plan.cap is not None:
        said.append(_("%(price)s a period") % {"price": figures.money(plan.cap)})
    if plan.cap_units is not None:
        units = figures.tokens(plan.cap_units)
        said.append(_("%(units)s tokens a period") % {"units": units})
    if not said and plan.on_exhaustion in (Plan.OnExhaustion.METER, Plan.OnExhaustion.BLOCKS):
        return _("no limit")
    return ", ".join(said)


def _left_over(plan: Plan) -> str:
    if plan.rollover == Plan.Rollover.ONE_CYCLE:
        return _("stays good for one more period, and is used first")
    return _("is forfeited at the end of the period")


def _period(plan: Plan) -> str:
    if plan.cycle == Plan.Cycle.CALENDAR_MONTH:
        return _("the calendar month")
    return _("a month from the day you bought it")


def _first(plan: Plan) -> str:
    match plan.first_month:
        case Plan.FirstMonth.BY_DAY:
            return _("price and tokens by the days that are left")
        case Plan.FirstMonth.NEXT:
            return _("begins with the next month")
    return _("whole price, all tokens")


def _paid(plan: Plan) -> str:
    if plan.collect == Plan.Collect.BEFORE_PERIOD:
        return _("before each period")
    return _("when the period is over; the first when you order")


def _limits(plan: Plan) -> str:
    names = {
        "5h": _("5 hours"),
        "day": _("one day"),
        "week": _("one week"),
        "month": _("one month"),
    }
    said = [
        _("%(units)s in %(span)s")
        % {"units": figures.tokens(window.units), "span": names.get(window.per, window.per)}
        for window in plan.windows.all()
    ]
    if plan.requests_per_minute:
        said.append(
            _("%(count)s requests a minute") % {"count": figures.whole(plan.requests_per_minute)}
        )
    if plan.tokens_per_minute:
        said.append(
            _("%(count)s tokens a minute") % {"count": figures.count(plan.tokens_per_minute)}
        )
    return "; ".join(said)


def _free(plan: Plan) -> str:
    names: dict[str, str] = {
        outcomes.Outcome.UPSTREAM_ERROR.value: _("errors of a model"),
        outcomes.Outcome.BLOCKED.value: _("refused requests"),
        outcomes.Outcome.CACHED_REPLAY.value: _("answers from the cache"),
        outcomes.Outcome.CLIENT_GONE.value: _("requests that were broken off"),
    }
    free = sorted(outcomes.free(plan.outcomes))
    return ", ".join(names.get(outcome, outcome) for outcome in free)


def _refund(plan: Plan) -> str:
    if plan.refund == Plan.Refund.UNUSED:
        return _("all back within 7 days if unused, then the share that is unused")
    return _("nothing is given back; the plan runs to the end of its period")


def _tax(plan: Plan) -> str:
    rates = {part.tax_rate for part in plan.components.all()} or {plan.tax_rate}
    return ", ".join(figures.percent(rate) for rate in sorted(rates))
