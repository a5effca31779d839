from __future__ import annotations

import datetime as dt
import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.api.providers import show
from billing.management.reports import operator_named
from billing.models import ProviderAccount, ProviderSecret
from billing.ways import accounts
from subscriptions import clock, sealing
from subscriptions.errors import DomainError


class Command(BaseCommand):
    help = (
        "The accounts that an operator has at payment providers. A secret is read from standard"
        " input, so that no list of processes shows it, and is never printed."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--operator", metavar="CODE", help="where there are several")
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="the accounts, and how their secrets end")
        put = actions.add_parser(
            "set", help="be paid through an account; input: the API secret, the webhook secret"
        )
        put.add_argument("provider", choices=["stripe"])
        put.add_argument("--name", required=True, help="such as acct_1A2b3C")
        put.add_argument("--live", action="store_true", help="it takes money")
        rotate = actions.add_parser("rotate", help="use another secret; input: the secret")
        rotate.add_argument("provider", choices=["stripe"])
        rotate.add_argument("kind", choices=ProviderSecret.Kind.values)
        rotate.add_argument(
            "--overlap-hours", type=int, default=24, help="how long the one before stays valid"
        )
        end = actions.add_parser("end", help="begin no more payments there")
        end.add_argument("provider", choices=["stripe"])
        actions.add_parser("reseal", help="seal every secret with today's SECRET_KEY")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self._do(options)
        except (DomainError, sealing.Unreadable) as error:
            raise CommandError(str(error)) from error

    def _do(self, options: dict[str, Any]) -> None:
        if options["action"] == "reseal":
            self.stdout.write(f"{accounts.seal_again()} sealed")
            return
        operator = operator_named(options["operator"])
        at = clock.now(operator)
        match options["action"]:
            case "set":
                said = [line.strip() for line in sys.stdin if line.strip()]
                if len(said) not in (0, 2):
                    raise CommandError("two lines: the API secret, the webhook secret")
                accounts.set_up(
                    operator,
                    options["provider"],
                    name=options["name"],
                    live=options["live"],
                    secrets=dict(zip(ProviderSecret.Kind.values, said, strict=False)),
                    at=at,
                )
            case "rotate":
                accounts.add_secret(
                    accounts.find(operator, options["provider"]),
                    options["kind"],
                    sys.stdin.readline().strip(),
                    at=at,
                    overlap=dt.timedelta(hours=options["overlap_hours"]),
                )
            case "end":
                accounts.end(operator, options["provider"], at=at)
        for account in ProviderAccount.objects.filter(operator=operator).order_by("id"):
            self.stdout.write(json.dumps(show(account)))
