"""The first page: how the operator does, from figures that are counted in the background.

What it costs to look is one row and the jobs. Each tile leads to its list, and is shown to those
who may open that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from djmoney.money import Money

from billing import figures
from subscriptions import clock, jobs
from subscriptions.console import words
from subscriptions.console.jobs import schedule
from subscriptions.console.pages import Page, Section, Text, page
from subscriptions.console.site import site
from subscriptions.models import Role
from subscriptions.templatetags.figures import count, money, percent, tokens, whole

_AGES: dict[str, Text] = {
    "not_due": _("Not due yet"),
    "days_0_30": _("Up to 30 days late"),
    "days_31_60": _("31 to 60 days late"),
    "days_61_90": _("61 to 90 days late"),
    "days_over_90": _("Over 90 days late"),
}


@dataclass(frozen=True, slots=True)
class Tile:
    title: Text
    value: str
    leads_to: str  # a page's name
    query: str = ""
    note: str = ""
    bad: bool = False

    @property
    def link(self) -> str:
        way = reverse(f"admin:{self.leads_to}")
        return f"{way}?{self.query}" if self.query else way


@dataclass(frozen=True, slots=True)
class Group:
    title: Text
    tiles: list[Tile]


@page
class Dashboard(Page):
    name, address, title = "index", "", _("Overview")
    section, icon, order = Section.OVERVIEW, "dashboard", 10
    roles = tuple(Role)
    template_name = "console/dashboard.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        found = figures.latest(self.operator)
        values = found.values if found else {}
        groups = [
            Group(_("Usage"), list(self._usage(values))),
            Group(_("Customers"), list(self._customers(values))),
            Group(_("Tokens this month"), list(self._tokens(values))),
            Group(_("Money"), list(self._money(values))),
            Group(_("Receivables by age"), list(self._receivables(values))),
            Group(_("Payments today"), list(self._payments(values))),
            Group(_("Jobs"), list(self._jobs())),
        ]
        shown = [
            Group(group.title, tiles)
            for group in groups
            if (tiles := [tile for tile in group.tiles if self._may_open(tile)])
        ]
        return {"groups": shown, "figures": found}

    def _may_open(self, tile: Tile) -> bool:
        known = site.pages.get(tile.leads_to)
        return known is not None and self.visit.may(known.permission())

    def _usage(self, values: dict[str, Any]) -> Iterator[Tile]:
        for gateway in values.get("gateways", []):
            behind = gateway["seconds_behind"]
            yield Tile(
                gateway["name"],
                str(_("%(n)s records/s") % {"n": gateway["records_per_second"]}),
                "gateways",
                note=str(
                    _("Today %(records)s records, %(tokens)s tokens; %(behind)s behind")
                    % {
                        "records": whole(gateway["records"]),
                        "tokens": tokens(gateway["units"]),
                        "behind": "—" if behind is None else f"{behind} s",
                    }
                ),
            )
        waiting = sum(values.get("quarantine", {}).values())
        yield Tile(_("In quarantine"), whole(waiting), "quarantine", bad=waiting > 0)
        differ = values.get("windows", 0)
        yield Tile(_("Windows that differ"), whole(differ), "usage_windows", bad=differ > 0)

    def _customers(self, values: dict[str, Any]) -> Iterator[Tile]:
        held = values.get("subscriptions")
        if held is None:
            return
        yield Tile(
            _("Active subscriptions"),
            count(held["active"]),
            "subscribers",
            note=str(
                _("%(today)s new today, %(month)s this month")
                % {"today": whole(held["new_today"]), "month": whole(held["new_this_month"])}
            ),
        )
        churn = held["churn"]
        yield Tile(
            _("Churn this month"),
            "—" if churn is None else f"{Decimal(churn) * 100:.2f}%",
            "subscriptions",
            note=str(_("%(n)s ended") % {"n": whole(held["ended_this_month"])}),
        )
        said = values.get("complaints", {"open": 0, "overdue": 0})
        yield Tile(
            _("Open complaints"),
            whole(said["open"]),
            "complaints",
            note=str(_("%(n)s overdue") % {"n": whole(said["overdue"])}),
            bad=said["overdue"] > 0,
        )

    def _tokens(self, values: dict[str, Any]) -> Iterator[Tile]:
        titles = {
            "sold": (_("Sold"), "boosters"),
            "burnt": (_("Burnt"), "usage_records"),
            "expiring": (_("Expire within seven days"), "buckets"),
        }
        for name, units in values.get("units", {}).items():
            title, leads_to = titles[name]
            yield Tile(title, tokens(units), leads_to)

    def _money(self, values: dict[str, Any]) -> Iterator[Tile]:
        for currency, amount in values.get("mrr", {}).items():
            yield Tile(_("Recurring revenue a month"), _amount(amount, currency), "orders")
        for currency, amount in values.get("arpu", {}).items():
            title = _("Revenue per customer last month")
            yield Tile(title, _amount(amount, currency), "invoices")
        titles = {
            "receivable": (_("Receivable"), "invoices"),
            "wallet": (_("In wallets"), "wallets"),
            "prepaid": (_("Prepaid"), "orders"),
            "deferred": (_("Deferred revenue"), "orders"),
        }
        for account, sums in values.get("accounts", {}).items():
            title, leads_to = titles[account]
            for currency, amount in sums.items():
                yield Tile(title, _amount(amount, currency), leads_to)

    def _receivables(self, values: dict[str, Any]) -> Iterator[Tile]:
        for currency, ages in values.get("receivables", {}).items():
            for age, amount in ages.items():
                late = age not in ("not_due", "days_0_30") and Decimal(amount) > 0
                yield Tile(
                    _AGES[age],
                    _amount(amount, currency),
                    "invoices" if age == "not_due" else "dunning_cases",
                    query="state=open" if age == "not_due" else "",
                    bad=late,
                )

    def _payments(self, values: dict[str, Any]) -> Iterator[Tile]:
        for way in values.get("payments", []):
            ended = way["succeeded"] + way["failed"]
            share = percent(Decimal(way["succeeded"]) / ended) if ended else "—"
            yield Tile(
                words.state(way["way"]),
                share,
                "payment_attempts",
                note=str(
                    _("%(ok)s paid, %(bad)s failed, %(open)s waiting; %(amount)s")
                    % {
                        "ok": whole(way["succeeded"]),
                        "bad": whole(way["failed"]),
                        "open": whole(way["waiting"]),
                        "amount": _amount(way["amount"], way["currency"]),
                    }
                ),
            )

    def _jobs(self) -> Iterator[Tile]:
        found = jobs.all_of(schedule(), at=clock.wall())
        late = sum(one.late for one in found)
        failing = sum(one.failing for one in found)
        well = sum(not one.late and not one.failing for one in found)
        yield Tile(_("Well"), whole(well), "jobs", query="state=well")
        yield Tile(_("Failing"), whole(failing), "jobs", query="state=failing", bad=failing > 0)
        yield Tile(_("Late"), whole(late), "jobs", query="state=late", bad=late > 0)


def _amount(amount: str, currency: str) -> str:
    return money(Money(Decimal(amount), currency))
