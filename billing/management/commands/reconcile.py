from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.reconciliation import reconcile
from metering.reconciliation import OperatorReport, Report
from subscriptions import clock
from subscriptions.models import Operator
from subscriptions.units import to_wire


class Command(BaseCommand):
    help = (
        "Check every invariant of the books in one snapshot, by other statements than those that"
        " wrote them. Status 1 on a difference, 2 for an unknown operator."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON document")
        parser.add_argument("--operator", metavar="CODE", help="check this operator only")

    def handle(self, *args: Any, **options: Any) -> None:
        code = options["operator"]
        try:
            report = reconcile(at=clock.wall(), operator_code=code)
        except Operator.DoesNotExist as error:
            raise CommandError(f"there is no operator {code}", returncode=2) from error
        if options["json"]:
            self.stdout.write(json.dumps(_as_json(report), ensure_ascii=False, indent=2))
        else:
            self._print(report)
        if not report.ok:
            sys.exit(1)

    def _print(self, report: Report) -> None:
        for operator in report.operators:
            self.stdout.write(operator.code or "(rows of no operator)")
            width = max(len(check.says) for check in operator.checks)
            for check in operator.checks:
                line = f"{check.says:{width}}  {check.checked:>13,}"
                if not check.differences:
                    self.stdout.write(f"  {self.style.SUCCESS('✓')} {line}")
                    continue
                found = f"{check.differences:,} differ ({check.name})"
                self.stdout.write(f"  {self.style.ERROR('✗')} {line}  {self.style.ERROR(found)}")
                for example in check.examples:
                    self.stdout.write(f"      {json.dumps(example, ensure_ascii=False)}")
                if check.differences > len(check.examples):
                    self.stdout.write("      …")
            self.stdout.write(f"  · {_observed(operator)}")
        since = {"records": report.records_since, "journal": report.journal_since}
        spans = [f"{name} from {at:%Y-%m-%d}" for name, at in since.items() if at is not None]
        if spans:
            self.stdout.write(f"Compared: {', '.join(spans)} on (UTC); no older days are kept.")
        self.stdout.write("All adds up." if report.ok else "The books do not add up.")


def _observed(operator: OperatorReport) -> str:
    waiting = ", ".join(f"{cause} {many:,}" for cause, many in operator.quarantine.items())
    return (
        f"hourly totals {operator.lag_seconds:.1f} s behind; quarantine: {waiting or 'empty'};"
        f" open reservations: {operator.open_reservations:,}, which hold"
        f" {to_wire(operator.reserved_units)} units; events to be told: {operator.untold:,}"
    )


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "as_of": report.as_of.isoformat(),
        "records_since": report.records_since and report.records_since.isoformat(),
        "journal_since": report.journal_since and report.journal_since.isoformat(),
        "operators": [
            {
                "code": operator.code,
                "checks": [asdict(check) for check in operator.checks],
                "lag_seconds": operator.lag_seconds,
                "quarantine": operator.quarantine,
                "open_reservations": operator.open_reservations,
                "reserved_units": to_wire(operator.reserved_units),
                "untold": operator.untold,
            }
            for operator in report.operators
        ],
    }
