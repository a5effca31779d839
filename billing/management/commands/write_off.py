from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import invoicing, write_offs
from billing.management import reports
from billing.models import Approval
from subscriptions import clock
from subscriptions.errors import DomainError


class Command(BaseCommand):
    help = "Give up what is still due on an invoice. Status 2 where nothing is. Again is harmless."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("invoice", metavar="INVOICE", help="its number")
        parser.add_argument("--reason", required=True, help="kept with the invoice and its posting")
        parser.add_argument("--by", default="manage.py write_off", help="who wants it")
        parser.add_argument("--operator", metavar="CODE", help="where there are several")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = reports.operator_named(options["operator"])
        try:
            invoice = write_offs.write_off(
                operator,
                options["invoice"],
                reason=options["reason"],
                by=options["by"],
                at=clock.now(operator),
            )
        except DomainError as error:
            raise CommandError(str(error), returncode=2) from error
        if isinstance(invoice, Approval):
            self.stdout.write(f"another person has to approve it: approval {invoice.pk}")
            return
        due = invoicing.amount_due(invoice)
        self.stdout.write(f"{invoice.number}: {due} {invoice.currency} is given up")
