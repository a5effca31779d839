"""Reasons that a machine wrote, in the reader's language; the books keep the words they were
written in, and what people wrote stays as it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.utils.functional import Promise

# The texts of billing/arrears.py, billing/rating.py and billing/invoicing.py.
_WRITTEN: tuple[tuple[str, str | Promise], ...] = (
    (r"(?P<bill>\S+) is due on (?P<day>\S+)", _("%(bill)s is due on %(day)s")),
    (r"(?P<bill>\S+) was due on (?P<day>\S+)", _("%(bill)s was due on %(day)s")),
    (r"(?P<bill>\S+) is (?P<days>\d+) days overdue", _("%(bill)s is %(days)s days overdue")),
    (
        r"suspended for (?P<days>\d+) days, (?P<bill>\S+) is unpaid",
        _("Suspended for %(days)s days, %(bill)s is unpaid"),
    ),
    (r"what was owed longest is paid", _("What was owed longest is paid")),
    (r"nothing is overdue", _("Nothing is overdue")),
    (
        r"plan (?P<plan>\S+) v(?P<version>\d+) has a negative price",
        _("Plan %(plan)s version %(version)s has a negative price"),
    ),
    (
        r"the components of plan (?P<plan>\S+) v(?P<version>\d+) do not add up to its price",
        _("The parts of plan %(plan)s version %(version)s do not add up to its price"),
    ),
    (
        r"plan (?P<plan>\S+) v(?P<version>\d+) sells no blocks",
        _("Plan %(plan)s version %(version)s sells no blocks"),
    ),
    (
        r"booster (?P<booster>\S+) is sold in (?P<one>[A-Z]{3}), the plan in (?P<other>[A-Z]{3})",
        _("Booster %(booster)s is sold in %(one)s, the plan in %(other)s"),
    ),
    (r"there is no plan version (?P<id>\d+)", _("There is no plan version %(id)s")),
    (r"there is no booster version (?P<id>\d+)", _("There is no booster version %(id)s")),
)
_SENTENCES = tuple((re.compile(pattern), text) for pattern, text in _WRITTEN)


def said(reason: str) -> str:
    """`SH-2026-0000000012 is 3 days overdue` as the reader says it."""
    for pattern, text in _SENTENCES:
        if found := pattern.fullmatch(reason):
            return str(text) % found.groupdict()
    return reason
