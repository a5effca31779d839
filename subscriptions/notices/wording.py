"""An event in a person's words: subject, short text and the rest, in the subscriber's language.

`templates/notices/<language>/<kind>.txt` has the subject in its first line; the next paragraph is
the text message, and the e-mail begins with it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.template.loader import render_to_string
from django.utils import timezone, translation
from djmoney.money import Money

from subscriptions.models import Operator
from subscriptions.units import from_decimal


@dataclass(frozen=True, slots=True)
class Words:
    subject: str
    short: str
    body: str


def say(
    kind: str, payload: Mapping[str, Any], *, language: str, operator: Operator, link: str = ""
) -> Words:
    """Write a notice; `link` ends e-mails that can be declined."""
    zone = ZoneInfo(operator.time_zone)
    said = {name: _read(name, value, zone) for name, value in payload.items()}
    if isinstance(payload.get("amount"), str):
        # What is told of orders has its money side by side.
        said["price"] = Money(Decimal(payload["amount"]), payload["currency"])
    with translation.override(language), timezone.override(zone):
        text = render_to_string(
            f"notices/{language}/{kind}.txt", {**said, "operator": operator.name}
        )
        subject, _, rest = text.strip().partition("\n")
        paragraphs = [part.strip() for part in rest.strip().split("\n\n") if part.strip()]
        ending = render_to_string(
            f"notices/{language}/ending.txt", {"operator": operator.name, "link": link}
        )
    body = "\n\n".join([*paragraphs, ending.strip()]) + "\n"
    return Words(subject.strip(), " ".join(paragraphs[0].split()), body)


def _read(name: str, value: Any, zone: ZoneInfo) -> Any:
    """What a payload holds as the filters take it: money, units in thousandths, times."""
    if isinstance(value, dict):
        if value.keys() == {"amount", "currency"}:
            return Money(Decimal(value["amount"]), value["currency"])
        return {inner: _read(inner, each, zone) for inner, each in value.items()}
    if name in ("units", "remaining", "granted", "used") and isinstance(value, str):
        return from_decimal(Decimal(value))
    if name in ("until", "since", "due_at", "expires_at", "period_start") and isinstance(
        value, str
    ):
        return dt.datetime.fromisoformat(value)
    return value
