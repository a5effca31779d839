from __future__ import annotations

import json
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rest_framework.exceptions import ValidationError

from billing import rehearsing
from billing.api.rehearsals import month_from, show
from billing.management import reports
from subscriptions import catalog, clock
from subscriptions.api.offerings import PlanBody, terms_from
from subscriptions.errors import DomainError
from subscriptions.models import Operator, Subscriber

_COLUMNS = (
    *("subscriber", "period_start", "plan", "units", "units_then"),
    *("refused_now", "refused_then", "now", "then"),
)


class Command(BaseCommand):
    help = (
        "Price a month that has been under a plan, or under a draft of one (a file with the JSON of"
        " PUT /api/v1/plans/CODE): revenue, winners, losers; with --csv a line for each period."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--operator", metavar="CODE", help="where there are several")
        parser.add_argument("--plan", metavar="CODE", required=True)
        parser.add_argument("--month", required=True, help="as in 2026-06")
        parser.add_argument("--draft", type=Path, metavar="FILE")
        parser.add_argument("--each", type=int, default=1, help="look at each nth subscriber")
        parser.add_argument("--csv", action="store_true", help="print comma-separated values")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = reports.operator_named(options["operator"])
        if not re.fullmatch(r"20\d{2}-(0[1-9]|1[0-2])", options["month"]) or options["each"] < 1:
            raise CommandError("--month is as in 2026-06, --each 1 or more", returncode=2)
        asked = {
            "month": month_from(options["month"]),
            "at": clock.now(operator),
            "each": options["each"],
        }
        try:
            offer = self._offer(operator, options["plan"], options["draft"])
            if options["csv"]:
                found = rehearsing.outcomes(operator, offer, **asked)
                reports.print_csv(self.stdout, _COLUMNS, self._rows(found))
                return
            summary = show(rehearsing.rehearse(operator, offer, **asked))
        except (DomainError, OSError, ValueError) as error:
            raise CommandError(str(error), returncode=2) from error
        self.stdout.write(json.dumps(summary, ensure_ascii=False, indent=2))

    def _offer(self, operator: Operator, code: str, draft: Path | None) -> rehearsing.Offer:
        if draft is None:
            return rehearsing.offer_of(catalog.newest_plan(operator.pk, code))
        body = PlanBody(data=json.loads(draft.read_text()), context={"operator": operator})
        try:
            body.is_valid(raise_exception=True)
        except ValidationError as error:
            raise CommandError(f"{draft}: {error.detail}", returncode=2) from error
        terms = terms_from(body.validated_data)
        return rehearsing.offer_drafted(operator, code, terms, at=clock.now(operator))

    def _rows(self, found: Iterator[rehearsing.Outcome]) -> Iterator[tuple[Any, ...]]:
        for one in found:
            name = Subscriber.objects.values_list("external_id", flat=True).get(
                pk=one.subscriber_id
            )
            yield (
                *(name, one.starts_at.isoformat(), one.plan, one.units, one.units_then),
                *(one.now.refused, one.then.refused, one.now.gross, one.then.gross),
            )
