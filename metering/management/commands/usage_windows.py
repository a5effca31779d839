from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

import msgspec
from django.core.management.base import BaseCommand

from metering import usage_windows
from metering.models import UsageWindow
from subscriptions import clock
from subscriptions.models import Operator


class Command(BaseCommand):
    help = (
        "List the windows that gateways have counted and that differ from what was charged, with"
        " the numbers that never came."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print a JSON document a line")
        parser.add_argument("--operator", metavar="CODE", help="of this operator only")
        parser.add_argument("--gateway", metavar="NAME", help="of this gateway only")
        parser.add_argument(
            "--state", choices=[*UsageWindow.State.values, "all"], default="differs"
        )
        parser.add_argument("--compare", action="store_true", help="compare what is due first")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["compare"]:
            for operator in Operator.objects.all():
                usage_windows.compare_due(operator.pk, at=clock.now(operator))
        rows = UsageWindow.objects.filter(revision__gt=0)
        if options["operator"]:
            rows = rows.filter(operator__code=options["operator"])
        if options["gateway"]:
            rows = rows.filter(gateway__name=options["gateway"])
        if options["state"] != "all":
            rows = rows.filter(state=options["state"])
        rows = rows.select_related("gateway", "operator")
        for window in rows.order_by("operator__code", "gateway__name", "window_start", "id"):
            said = usage_windows.as_json(window, usage_windows.counters_of([window])[window.pk])
            if options["json"]:
                whole = {"operator": window.operator.code, **msgspec.to_builtins(said)}
                self.stdout.write(json.dumps(whole, ensure_ascii=False))
            else:
                self.stdout.write(_line(window, said))


def _line(window: UsageWindow, said: dict[str, Any]) -> str:
    difference = {name: many for name, many in (said["difference"] or {}).items() if many}
    parts = [
        f"{window.operator.code} {said['gateway']} #{said['id']}",
        f"{window.window_start:%Y-%m-%d %H:%M:%S} to {window.window_end:%Y-%m-%d %H:%M:%S} UTC",
        said["state"],
        ", ".join(f"{name} {many:+,}" for name, many in difference.items()) or "no difference",
    ]
    if waiting := said["quarantined"]:
        parts.append("quarantined " + ", ".join(f"{c} {many:,}" for c, many in waiting.items()))
    missing = said["missing"] or {"ranges": []}
    if named := missing["ranges"]:
        shown = ", ".join(f"{one['source']}:{one['first']}-{one['last']}" for one in named[:5])
        parts.append(f"missing {missing['requests']:,}: {shown}{' …' if len(named) > 5 else ''}")
    return "  ".join(parts)
