from __future__ import annotations

from argparse import ArgumentParser
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.fapiao import providers, requests, sending
from billing.management.reports import operator_named
from billing.models import FapiaoRequest
from subscriptions import clock
from subscriptions.errors import DomainError
from subscriptions.models import Operator


class Command(BaseCommand):
    help = "Electronic invoices of the tax platform: ask for one, take one back, see what became."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--operator", metavar="CODE", help="where there are several")
        actions = parser.add_subparsers(dest="action", required=True)
        item = actions.add_parser("item", help="the tax class of what is sold at a rate")
        item.add_argument("rate", help="as in 0.06")
        item.add_argument("tax_class", help="19 digits")
        item.add_argument("name", help="as in 信息技术服务")
        ask = actions.add_parser("request", help="ask for the e-fapiao of an invoice")
        ask.add_argument("invoice", help="its number")
        ask.add_argument("--special", action="store_true", help="01 instead of 02")
        ask.add_argument("--buyer", default="", help="its name; default: the subscriber's")
        ask.add_argument("--tax-id", default="", help="the buyer's taxpayer id")
        red = actions.add_parser("red", help="take one back, or what a credit note took back")
        red.add_argument("invoice", help="its number")
        red.add_argument("--reason", required=True, choices=requests.Reason.values)
        red.add_argument("--credit-note", default="", help="its number; none: all was wrong")
        actions.add_parser("sweep", help="hand over what waits and hear what became of it, now")
        show = actions.add_parser("list", help="what was asked, the latest first")
        show.add_argument("--state", choices=FapiaoRequest.State.values)

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        try:
            getattr(self, f"_{options['action']}")(operator, options)
        except DomainError as error:
            raise CommandError(str(error), returncode=1) from error

    def _item(self, operator: Operator, options: dict[str, Any]) -> None:
        try:
            rate = Decimal(options["rate"])
        except InvalidOperation as error:
            raise CommandError("a rate is a share, as in 0.06", returncode=2) from error
        requests.set_item(operator, rate, tax_class=options["tax_class"], name=options["name"])

    def _request(self, operator: Operator, options: dict[str, Any]) -> None:
        kinds = requests.Kind
        one = requests.request(
            operator,
            options["invoice"],
            at=clock.now(operator),
            kind=kinds.SPECIAL if options["special"] else kinds.ORDINARY,
            buyer_name=options["buyer"],
            buyer_tax_id=options["tax_id"],
        )
        self._say(one)

    def _red(self, operator: Operator, options: dict[str, Any]) -> None:
        one = requests.request_red(
            operator,
            options["invoice"],
            reason=options["reason"],
            at=clock.now(operator),
            credit_note=options["credit_note"],
        )
        self._say(one)

    def _sweep(self, operator: Operator, options: dict[str, Any]) -> None:
        done = sending.sweep(operator, providers.provider(), at=clock.now(operator))
        self.stdout.write(", ".join(f"{many} {name}" for name, many in done._asdict().items()))

    def _list(self, operator: Operator, options: dict[str, Any]) -> None:
        rows = FapiaoRequest.objects.filter(operator=operator).order_by("-id")
        if options["state"]:
            rows = rows.filter(state=options["state"])
        for one in rows.iterator():
            self._say(one)

    def _say(self, one: FapiaoRequest) -> None:
        problem = f"  {one.problem}" if one.problem else ""
        self.stdout.write(
            f"{one.request_id}  {one.state}  {one.gross} {one.currency}  {one.number or '-'}"
            f"  {one.buyer_name}{problem}"
        )
