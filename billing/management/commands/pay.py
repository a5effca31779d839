from __future__ import annotations

from argparse import ArgumentParser
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import invoicing, payments
from billing.management.reports import operator_named
from subscriptions import clock
from subscriptions.errors import DomainError


class Command(BaseCommand):
    help = "Count money that has come as paid of an invoice; the same key again changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("invoice", metavar="INVOICE", help="its number")
        parser.add_argument("amount", metavar="AMOUNT", help="in the invoice's currency, as 9.90")
        parser.add_argument(
            "--key", required=True, help="what names this payment: the bank's reference"
        )
        parser.add_argument("--way", required=True, help="how it came: bank, alipay, …")
        parser.add_argument("--operator", metavar="CODE", help="where there are several")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        try:
            amount = Decimal(options["amount"])
        except InvalidOperation as error:
            raise CommandError("AMOUNT is a number, as in 9.90", returncode=2) from error
        try:
            payments.record(
                operator,
                options["invoice"],
                amount=amount,
                key=options["key"],
                way=options["way"],
                at=clock.now(operator),
            )
            invoice = invoicing.find(operator, options["invoice"])
        except DomainError as error:
            raise CommandError(f"{error.detail} ({error.cause})", returncode=2) from error
        due = invoicing.amount_due(invoice)
        self.stdout.write(f"{invoice.number} is {invoice.state}, {due} {invoice.currency} due")
