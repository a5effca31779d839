from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from subscriptions import clock, keys
from subscriptions.models import ApiKey, Operator


class Command(BaseCommand):
    help = "Make an API key and print it, once and alone. Creates the operator where it is new."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--role", required=True, choices=ApiKey.Role.values)
        parser.add_argument("--name", required=True, help="the gateway's name, or the key's")
        parser.add_argument("--operator", default="default", help="the operator's code")
        parser.add_argument("--test", action="store_true", help="create it as a test operator")
        parser.add_argument("--subject", default="", help="bind a gateway key to one subject")

    def handle(self, *args: Any, **options: Any) -> None:
        code, test = options["operator"], options["test"]
        known = Operator.objects.filter(code=code).first()
        if known is not None and test and not known.is_test:
            raise CommandError(f"operator {code} exists and is not a test operator")
        self.stdout.write(
            keys.issue(
                operator_code=code,
                role=options["role"],
                name=options["name"],
                at=clock.now(known) if known else clock.wall(),
                test=test,
                subject=options["subject"],
            )
        )
