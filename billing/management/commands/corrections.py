from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import approving, corrections
from billing.corrections import Rules
from billing.management.reports import operator_named
from billing.models import Approval, Invoice
from subscriptions import clock
from subscriptions.errors import DomainError
from subscriptions.models import Operator, Subscriber
from subscriptions.units import THOUSANDTHS, to_wire


class Command(BaseCommand):
    help = "What is above the limits: which wait, approve or reject one, other rules."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--operator", metavar="CODE", help="where there are several")
        actions = parser.add_subparsers(dest="action")
        show = actions.add_parser("list", help="those that wait; --all: each there was")
        show.add_argument("--all", action="store_true")
        for action, says in (
            ("approve", "it is done now; an adjustment is on the next bill"),
            ("reject", "it is not done"),
        ):
            decide = actions.add_parser(action, help=says)
            decide.add_argument("approval", type=int, metavar="ID")
            decide.add_argument("--by", required=True, help="who decides: not who asked for it")
            decide.add_argument("--reason", required=True, help="kept with the decision")
        rules = actions.add_parser("set", help="the rules of what is corrected from now on")
        rules.add_argument("--by", required=True, help="who says so")
        rules.add_argument(
            "rules",
            nargs="+",
            metavar="NAME=VALUE",
            help="approval_limit=500.00 or none, units_limit=1000000 or none,"
            " prices_by_two=yes or no, over_charge_factor=2",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        try:
            match options["action"]:
                case "approve":
                    self._say(approving.approve(operator, **_decision(operator, options)))
                case "reject":
                    self._say(approving.reject(operator, **_decision(operator, options)))
                case "set":
                    at = clock.now(operator)
                    rules = _rules(corrections.rules_of(operator.pk, at=at), options["rules"])
                    corrections.set_rules(operator, rules, by=options["by"], at=at)
                    self._show(operator, everything=False)
                case _:
                    self._show(operator, everything=options.get("all", False))
        except DomainError as error:
            raise CommandError(f"{error.detail} ({error.cause})", returncode=2) from error

    def _show(self, operator: Operator, *, everything: bool) -> None:
        rules = corrections.rules_of(operator.pk, at=clock.now(operator))
        limit = "none" if rules.approval_limit is None else f"{rules.approval_limit:.2f}"
        self.stdout.write(f"{operator.code}")
        self.stdout.write(f"  approval_limit {limit}")
        units = "none" if rules.units_limit is None else to_wire(rules.units_limit)
        self.stdout.write(f"  units_limit {units}")
        self.stdout.write(f"  prices_by_two {'yes' if rules.prices_by_two else 'no'}")
        self.stdout.write(f"  over_charge_factor {rules.over_charge_factor.normalize():f}")
        rows = Approval.objects.filter(operator=operator).order_by("pk")
        if not everything:
            rows = rows.filter(state=Approval.State.PENDING)
        for one in rows.iterator():
            self._say(one)

    def _say(self, one: Approval) -> None:
        who, number = "", ""
        if one.subscriber_id is not None:
            who = f" for {Subscriber.objects.get(pk=one.subscriber_id).external_id}"
        if one.subscriber_id is not None and one.invoice_id is not None:
            of = Invoice.objects.get(subscriber_id=one.subscriber_id, id=one.invoice_id)
            number = f" of {of.number}"
        self.stdout.write(
            f"  {one.pk} {one.state}: {one.kind}{number}{who}, {one.amount} {one.currency},"
            f" asked by {one.asked_by} at {one.asked_at.isoformat()}: {one.reason}"
        )
        if one.decided_by:
            at = one.decided_at.isoformat() if one.decided_at else ""
            self.stdout.write(f"    {one.state} by {one.decided_by} at {at}: {one.decision}")


def _decision(operator: Operator, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "approval_id": options["approval"],
        "by": options["by"],
        "reason": options["reason"],
        "at": clock.now(operator),
    }


def _rules(rules: Rules, said: list[str]) -> Rules:
    """NAME=VALUE pairs in the place of what holds."""
    for pair in said:
        name, _, value = pair.partition("=")
        try:
            if name == "approval_limit":
                rules = replace(rules, approval_limit=None if value == "none" else Decimal(value))
            elif name == "over_charge_factor":
                rules = replace(rules, over_charge_factor=Decimal(value))
            elif name == "units_limit":
                units = None if value == "none" else int(Decimal(value) * THOUSANDTHS)
                rules = replace(rules, units_limit=units)
            elif name == "prices_by_two" and value in ("yes", "no"):
                rules = replace(rules, prices_by_two=value == "yes")
            else:
                raise CommandError(f"there is no rule {name}", returncode=2)
        except InvalidOperation as error:
            raise CommandError(f"{pair} is no number", returncode=2) from error
    return rules
