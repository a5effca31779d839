"""Voids and corrections between charges, against the same plain rules: `Account` and three more.

Less goes back to who paid last; what has ended keeps it, but overflow; more is late usage.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from tests.test_property_ledger import (
    US,
    Account,
    Ledger,
    Line,
    little,
    moment_of,
    much,
    thousandths,
    units_of,
)


def give_back(account: Account, line: Line, units: int, at: dt.datetime) -> None:
    """So many units of a line go back, the last drawn first."""
    account.count(line.moment, -units)
    line.units -= units
    while units:
        pot, paid = line.draws.pop()
        back = min(units, paid)
        units -= back
        if back < paid:
            line.draws.append((pot, paid - back))
        if pot.kind in ("overage", "uncovered") or at < pot.end:
            pot.used -= back


class Adjusting(Ledger):
    """The ledger's machine, whose records may also be made void and corrected."""

    def __init__(self) -> None:
        super().__init__()
        self.void_lines: list[tuple[Account, Line]] = []

    @precondition(lambda self: any(account.lines for account in self.accounts))
    @rule(which=st.integers(0, 400))
    def void(self, which: int) -> None:
        account, line = self.pick(which)
        said = self.adjust(account, line, "void")
        assert thousandths(said["adjustment"]["units"]) == -line.units
        account.lines.remove(line)
        self.void_lines.append((account, line))
        give_back(account, line, line.units, self.now)

    @precondition(lambda self: self.void_lines)
    @rule(which=st.integers(0, 400))
    def void_again(self, which: int) -> None:
        """Changes nothing."""
        account, line = self.void_lines[which % len(self.void_lines)]
        assert self.adjust(account, line, "void")["record"]["voided"]

    @precondition(lambda self: any(account.lines for account in self.accounts))
    @rule(which=st.integers(0, 400), counts=little | much, twice=st.booleans())
    def correct(self, which: int, counts: tuple[int, ...], twice: bool) -> None:
        account, line = self.pick(which)
        fresh, cached, write, output, reasoning = counts
        right = {
            "input_tokens": fresh + cached + write,
            "cached_input_tokens": cached,
            "cache_write_tokens": write,
            "output_tokens": output + reasoning,
            "reasoning_tokens": reasoning,
        }
        record = self.record_of(line)
        units = units_of({**record, **right}, planned=line.planned)
        said = self.adjust(account, line, "correct", **right)
        if twice:
            assert self.adjust(account, line, "correct", **right)["adjustment"] is None
        assert thousandths(said["record"]["units"]) == units
        more = units - line.units
        if more < 0:
            give_back(account, line, -more, self.now)
        elif more:
            account.count(line.moment, more)
            line.units += more
            line.draws += account.draw(line.moment, more, self.now)

    @rule(whose=st.booleans())
    def suspend_or_restore(self, whose: bool) -> None:
        """A moment apart from all else: of what is charged at its very instant nobody can tell
        later which came first."""
        self.wait(US, 0, 0 * US)
        super().suspend_or_restore(whose)
        self.wait(US, 0, 0 * US)

    def pick(self, which: int) -> tuple[Account, Line]:
        lines = [(account, line) for account in self.accounts for line in account.lines]
        return lines[which % len(lines)]

    def record_of(self, line: Line) -> dict[str, Any]:
        return next(
            record
            for record in self.sent
            if (record["id"], moment_of(record)) == (line.name, line.moment)
        )

    def adjust(self, account: Account, line: Line, how: str, **said: Any) -> Any:
        return self.call(
            "POST",
            f"subscribers/{account.name}/usage-records/{line.name}/{how}",
            reason="a test",
            occurred_at=line.moment.isoformat(),
            **said,
        )

    def receipts_add_up(self) -> None:
        """Each record shows what it costs and who paid, as the rules say."""
        for account in self.accounts:
            shown: dict[tuple[str, str], Any] = {}
            path = (
                f"subscribers/{account.name}/usage-records"
                "?from=2026-01-01T00:00:00Z&to=2030-01-01T00:00:00Z&limit=1000"
            )
            for item in self.call("GET", path)["items"]:
                if not item["voided"]:
                    paid: dict[str, int] = {}
                    for bucket in item["receipt"]["buckets"]:
                        units = thousandths(bucket["units"])
                        paid[bucket["kind"]] = paid.get(bucket["kind"], 0) + units
                    at = dt.datetime.fromisoformat(item["occurred_at"])
                    shown[item["id"], at.isoformat()] = (thousandths(item["units"]), paid)
            expected: dict[tuple[str, str], Any] = {}
            for line in account.lines:
                paid = {}
                for pot, units in line.draws:
                    paid[pot.kind] = paid.get(pot.kind, 0) + units
                expected[line.name, line.moment.isoformat()] = (line.units, paid)
            assert shown == expected

    def teardown(self) -> None:
        if self.accounts:
            self.receipts_add_up()
        super().teardown()


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(900)
def test_adjustments_keep_the_ledgers_rules() -> None:
    run_state_machine_as_test(
        Adjusting,
        settings=settings(
            max_examples=12,
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
