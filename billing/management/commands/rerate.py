from __future__ import annotations

import datetime as dt
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError

from billing.models import Approval
from billing.rerating import begin
from metering import rerating
from metering.adjusting import Why
from metering.models import Rerating, ReratingShare
from subscriptions import clock
from subscriptions.errors import DomainError
from subscriptions.models import Operator, Subscriber
from subscriptions.units import to_wire

SHOWN = 20
_State = Rerating.State


class Command(BaseCommand):
    help = (
        "Let a range of usage cost what another rate card says: preview who gains and who loses,"
        " then apply what was previewed. Both may be broken off and go on where they were."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        steps = parser.add_subparsers(dest="step", required=True)
        preview = steps.add_parser("preview", help="charges nothing; prints the re-rating's number")
        preview.add_argument("--operator", metavar="CODE", required=True)
        preview.add_argument("--rate-card", metavar="CODE", required=True, help="that is to weigh")
        preview.add_argument(
            "--replaces", metavar="CODE", default="", help="only what this card weighed"
        )
        preview.add_argument("--since", metavar="TIME", type=_instant, required=True)
        preview.add_argument("--until", metavar="TIME", type=_instant, required=True)
        preview.add_argument("--reason", required=True, help="for the audit")
        for name, says in (
            ("apply", "put what was previewed in force; again goes on"),
            ("show", "how far it is"),
        ):
            step = steps.add_parser(name, help=says)
            step.add_argument("number", type=int)
            if name == "apply":
                step.add_argument("--by", default="manage.py rerate", help="who wants it")

    def handle(self, *args: Any, **options: Any) -> None:
        step = options["step"]
        try:
            run = self._preview(options) if step == "preview" else _numbered(options["number"])
            if step == "apply":
                begun = begin(run.operator, run, by=options["by"], at=clock.now(run.operator))
                if isinstance(begun, Approval):
                    self.stdout.write(f"another person has to approve it: approval {begun.pk}")
                else:
                    run = self._work(begun, _State.APPLYING)
        except DomainError as error:
            raise CommandError(error.detail) from error
        self._show(run)
        if step != "show" and run.state == _State.REFUSED:
            raise CommandError(rerating.SnapshotChanged().detail)

    def _preview(self, options: dict[str, Any]) -> Rerating:
        operator = Operator.objects.filter(code=options["operator"]).first()
        if operator is None:
            raise CommandError(f"there is no operator {options['operator']}")
        run = rerating.order(
            operator,
            rate_card=options["rate_card"],
            replaces=options["replaces"],
            since=options["since"],
            until=options["until"],
            why=Why(options["reason"], "manage.py rerate"),
            at=clock.now(operator),
        )
        return self._work(run, _State.PREVIEWING)

    def _work(self, run: Rerating, state: str) -> Rerating:
        """Work until nothing is left in this state, and wait for others who are at it."""
        while run.state == state:
            before = rerating.sums_of(run).left
            run = rerating.work(run.pk, at=clock.now(run.operator), more=_for_seconds(2))
            sums = rerating.sums_of(run)
            if run.state == state:
                self.stderr.write(f"{run.state}: {sums.left:,} subscribers left")
                if sums.left == sums.failed:
                    self._name_failed(run)
                if sums.left == before:
                    time.sleep(0.5)
        return run

    def _name_failed(self, run: Rerating) -> NoReturn:
        """Nothing but what cannot be done is left: it is for people to look at."""
        failed = list(rerating.shares_of(run).exclude(problem="").order_by("subscriber_id")[:SHOWN])
        names = _names(failed)
        raise CommandError(
            "\n".join(
                [f"re-rating {run.pk} is {run.state} still; these subscribers could not be done:"]
                + [f"  {names[share.subscriber_id]}: {share.problem}" for share in failed]
            )
        )

    def _show(self, run: Rerating) -> None:
        sums = rerating.sums_of(run)
        shares = rerating.largest_of(run, SHOWN)
        names = _names(shares)
        self.stdout.write(
            f"re-rating {run.pk} of {run.operator.code}: {run.state}\n"
            f"  usage of {run.since.isoformat()} to {run.until.isoformat()} under {run.rate_card}"
            f"{f' in place of {run.replaces}' if run.replaces else ''}\n"
            f"  {sums.records:,} records of {sums.subscribers:,} subscribers change:"
            f" {to_wire(sums.units_before)} -> {to_wire(sums.units_after)} units;"
            f" {sums.gain:,} gain, {sums.lose:,} lose, {sums.left:,} left,"
            f" {sums.failed:,} failed, {sums.stale:,} stale"
        )
        for share in shares:
            more = share.units_after - share.units_before
            self.stdout.write(
                f"  {names[share.subscriber_id]:<32} {share.records:>10,} records"
                f" {'+' if more > 0 else ''}{to_wire(more):>20}{' stale' if share.stale else ''}"
            )


def _names(shares: Sequence[ReratingShare]) -> dict[int, str]:
    rows = Subscriber.objects.filter(pk__in=[share.subscriber_id for share in shares])
    return dict(rows.values_list("pk", "external_id"))


def _for_seconds(seconds: float) -> Callable[[], bool]:
    ends = time.monotonic() + seconds
    return lambda: time.monotonic() < ends


def _instant(said: str) -> dt.datetime:
    instant = dt.datetime.fromisoformat(said)
    if instant.tzinfo is None:
        raise ValueError("a time needs its offset")
    return instant


def _numbered(number: int) -> Rerating:
    run = Rerating.objects.select_related("operator").filter(pk=min(number, 2**63 - 1)).first()
    if run is None:
        raise CommandError(f"there is no re-rating {number}")
    return run
