from __future__ import annotations

from argparse import ArgumentParser
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import BaseCommand, CommandError

from billing import dunning
from billing.arrears import Terms
from billing.management.reports import operator_named
from billing.models import DunningCase, DunningEvent
from subscriptions import clock, periods, registry
from subscriptions.errors import DomainError
from subscriptions.models import Operator, Subscriber

SHARES = ("late_fee_rate", "late_fee_cap", "late_fee_tax_rate")


class Command(BaseCommand):
    help = "Who owes beyond a due date and what was done about it; stop it, go on, other rules."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "subscriber", nargs="?", metavar="SUBSCRIBER", help="its external id; default: all"
        )
        parser.add_argument("--operator", metavar="CODE", help="where there are several")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--stop", metavar="REASON", help="do nothing more until --resume")
        what.add_argument("--resume", metavar="REASON", help="go on by the dates")
        what.add_argument(
            "--set",
            nargs="*",
            metavar="NAME=VALUE",
            help="the rules of invoices issued from now on, as late_fee_rate=0.002"
            " reminder_days=-3,1,7,20 (below 0: before the due date); without any the usual ones."
            " Until then no debt is pressed",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        at = clock.now(operator)
        try:
            subscriber = (
                registry.find(operator, options["subscriber"]) if options["subscriber"] else None
            )
            subscriber_id = None if subscriber is None else subscriber.pk
            if options["stop"]:
                dunning.stop(operator, reason=options["stop"], at=at, subscriber_id=subscriber_id)
            elif options["resume"]:
                dunning.resume(
                    operator, reason=options["resume"], at=at, subscriber_id=subscriber_id
                )
            elif options["set"] is not None:
                dunning.set_policy(operator, at=at, **_terms(options["set"]))
        except DomainError as error:
            raise CommandError(f"{error.detail} ({error.cause})", returncode=2) from error
        if subscriber is None:
            self._show(operator)
        else:
            self._show_one(subscriber)

    def _show(self, operator: Operator) -> None:
        seen = dunning.overview(operator)
        rules = dunning.terms_by(operator.pk)(clock.now(operator))
        self.stdout.write(operator.code)
        if rules is dunning.NOTHING:
            self.stdout.write("  no rules: nothing is done about debts until --set")
        for name in Terms.__dataclass_fields__ if rules is not dunning.NOTHING else ():
            self.stdout.write(f"  {name} {_said(getattr(rules, name))}")
        for state in DunningCase.State.values:
            self.stdout.write(f"  {state}: {seen.states.get(state, 0):,}")
        for stop in seen.stops:
            whose = stop.subscriber.external_id if stop.subscriber else "all"
            since = periods.local(stop.starts_at, ZoneInfo(operator.time_zone))
            self.stdout.write(f"  stopped for {whose} since {since}: {stop.reason}")

    def _show_one(self, subscriber: Subscriber) -> None:
        zone = ZoneInfo(subscriber.operator.time_zone)
        for case in DunningCase.objects.filter(subscriber_id=subscriber.pk, events__gt=0):
            since = f" since {periods.local(case.since, zone)}" if case.since else ""
            self.stdout.write(f"{subscriber.external_id} {case.currency} {case.state}{since}")
        events = DunningEvent.objects.filter(subscriber_id=subscriber.pk)
        for event in events.order_by("currency", "nr"):
            done = periods.local(event.done_at, zone)
            late = f" (done {done})" if event.done_at != event.at else ""
            at = periods.local(event.at, zone)
            self.stdout.write(f"  {at} {event.kind}{late}: {event.reason}")
        for stop in dunning.stops_for(subscriber):
            since = periods.local(stop.starts_at, zone)
            self.stdout.write(f"  stopped since {since}: {stop.reason}")


def _terms(said: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs as a policy takes them."""
    terms: dict[str, Any] = {}
    for pair in said:
        name, _, value = pair.partition("=")
        if name not in Terms.__dataclass_fields__:
            raise CommandError(f"there is no rule {name}", returncode=2)
        try:
            if name in SHARES:
                terms[name] = Decimal(value)
            elif name == "reminder_days":
                terms[name] = [int(day) for day in value.split(",") if day]
            else:
                terms[name] = int(value)
        except (ValueError, InvalidOperation) as error:
            raise CommandError(f"{pair} is no number", returncode=2) from error
    return terms


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)
