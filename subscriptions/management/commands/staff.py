from __future__ import annotations

import secrets
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from subscriptions import clock
from subscriptions.errors import DomainError
from subscriptions.models import Operator, Role, User
from subscriptions.users import staff


class Command(BaseCommand):
    help = (
        "Let somebody work in the console of an operator. Of somebody new the password is printed,"
        " once and alone; the second factor is set up at the first sign-in."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--operator", default="default", help="the operator's code")
        parser.add_argument("--role", default=Role.PLATFORM, choices=Role.values)
        parser.add_argument("--dismiss", action="store_true", help="end their work there instead")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = Operator.objects.filter(code=options["operator"]).first()
        if operator is None:
            raise CommandError(f"there is no operator {options['operator']}")
        email, at = options["email"].lower(), clock.wall()
        if options["dismiss"]:
            self._dismiss(email, operator)
            return
        password = secrets.token_urlsafe(18)
        known = User.objects.filter(email__iexact=email).exists()
        try:
            staff.engage(email, operator, options["role"], password=password, at=at)
        except DomainError as error:
            raise CommandError(str(error)) from error
        if not known:
            self.stdout.write(password)

    def _dismiss(self, email: str, operator: Operator) -> None:
        for user in User.objects.filter(email__iexact=email):
            for one in staff.serving(user):
                if one.operator_id == operator.pk:
                    staff.dismiss(one, at=clock.wall())
                    return
        raise CommandError(f"nobody with this address works for {operator.code}")
