from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.management.reports import operator_named
from billing.models import VoucherBatch
from billing.vouchers import keeping
from subscriptions import clock
from subscriptions.errors import DomainError


class Command(BaseCommand):
    help = "Batches of vouchers and how many are in which state; or one voucher by its number."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("serial", metavar="SERIAL", nargs="?", help="as it is printed")
        parser.add_argument("--void", metavar="REASON", help="let it never be redeemed")
        parser.add_argument("--by", metavar="NAME", default="command", help="who makes it void")
        parser.add_argument("--operator", metavar="CODE", help="where there are several")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        serial = options["serial"]
        try:
            if serial is None:
                if options["void"]:
                    raise CommandError("say which with SERIAL", returncode=2)
                for batch in VoucherBatch.objects.filter(operator=operator).order_by("code"):
                    states = ", ".join(
                        f"{count} {state}" for state, count in keeping.counts(batch).items()
                    )
                    self.stdout.write(
                        f"{batch.code}: {batch.made} of {batch.count} are there; {states}"
                    )
                return
            found = keeping.find(operator, serial)
            if options["void"]:
                keeping.void(
                    operator,
                    found.batch.code,
                    found.nr,
                    found.nr,
                    reason=options["void"],
                    by=options["by"],
                    at=clock.now(operator),
                )
                found = keeping.find(operator, serial)
        except DomainError as error:
            raise CommandError(f"{error.detail} ({error.cause})", returncode=2) from error
        who = f" by {found.subscriber.external_id}" if found.subscriber is not None else ""
        self.stdout.write(f"{serial} is {found.state}{who} since {found.changed_at.isoformat()}")
