"""What the carrier answers to charge files: which lines it has collected, which it rejects.

A line of its file is `sequence,nr,answer,reason`: the file and the line that it answers, then
`collected` or `rejected`. A line of an invoice only says what is known: it is owed until money has
come. One that makes no sense is named, and holds up no other.
"""

from __future__ import annotations

import csv
import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from billing import phone_bills
from billing.models import ChargeLine
from subscriptions.errors import DomainError
from subscriptions.models import Operator

_COUNT = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_MOST = 4096


@dataclass(slots=True)
class Taken:
    """How many lines said what; `invoices` are those of invoices, `wrong` what made no sense."""

    collected: int = 0
    rejected: int = 0
    invoices: int = 0
    wrong: list[str] = field(default_factory=list)


def take_in(operator: Operator, lines: Iterable[str], *, at: dt.datetime) -> Taken:
    """Take an answer file in, each line in a transaction of its own. Again changes nothing."""
    taken = Taken()
    for nr, fields in enumerate(csv.reader(lines), 1):
        wrong = _take(operator, fields, taken, at=at)
        if wrong:
            taken.wrong.append(f"line {nr}: {wrong}")
    return taken


def _take(operator: Operator, fields: list[str], taken: Taken, *, at: dt.datetime) -> str:
    """Take a line in; answers what is wrong with it."""
    if len(fields) != 4 or any(len(one) > _MOST for one in fields):
        return "is not of four fields"
    sequence, line, said, reason = fields
    if not _COUNT.fullmatch(sequence) or not _COUNT.fullmatch(line):
        return "names no file and line"
    if said not in phone_bills.Kind.values:
        return f"says {said[:20]!r}"
    invoices = ChargeLine.objects.filter(
        operator_id=operator.pk, sequence=int(sequence), nr=int(line)
    )
    if invoices.exists():
        taken.invoices += 1
        return ""
    try:
        charge = phone_bills.charge_in(operator, int(sequence), int(line))
        reason = reason.strip() or "without a reason"
        phone_bills.answer(operator, charge, said, reason=reason, at=at)
    except DomainError as refused:
        return refused.detail
    if said == phone_bills.Kind.COLLECTED:
        taken.collected += 1
    else:
        taken.rejected += 1
    return ""
