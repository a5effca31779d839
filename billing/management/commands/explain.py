from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import invoicing
from billing.explaining import explain
from subscriptions.errors import NotFound
from subscriptions.models import Operator


class Command(BaseCommand):
    help = "Print what each line of an invoice was computed from."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("invoice", metavar="INVOICE", help="its number")
        parser.add_argument("--operator", metavar="CODE", help="where two use the same numbers")

    def handle(self, *args: Any, **options: Any) -> None:
        operators = Operator.objects.order_by("pk")
        if options["operator"]:
            operators = operators.filter(code=options["operator"])
        found = []
        for operator in operators:
            try:
                found.append(invoicing.find(operator, options["invoice"]))
            except NotFound:
                continue
        if len(found) != 1:
            problem = "say whose with --operator CODE" if found else "there is no such invoice"
            raise CommandError(problem, returncode=2)
        for text in explain(found[0]):
            self.stdout.write(text)
