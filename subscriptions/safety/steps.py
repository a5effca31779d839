"""What was said, by whom and when: the only writer of SafetyStep."""

from __future__ import annotations

import datetime as dt
from typing import Any

from subscriptions.models import SafetyStep


def of_subscriber(subscriber_id: int) -> list[SafetyStep]:
    """All that was ever said, the newest first."""
    rows = SafetyStep.objects.filter(subscriber_id=subscriber_id)
    return list(rows.order_by("-at", "kind", "-nr"))


def newest(steps: list[SafetyStep]) -> dict[str, SafetyStep]:
    """What holds of each kind."""
    held: dict[str, SafetyStep] = {}
    for step in steps:
        if step.kind not in held or held[step.kind].nr < step.nr:
            held[step.kind] = step
    return held


def add(subscriber_id: int, kind: str, terms: dict[str, Any], *, by: str, at: dt.datetime) -> bool:
    """Let these terms hold from now on; answers False where they do already. The caller holds the
    subscriber's row."""
    rows = SafetyStep.objects.filter(subscriber_id=subscriber_id, kind=kind)
    last = rows.order_by("-nr").first()
    if (last.terms if last else {}) == terms:
        return False
    SafetyStep.objects.create(
        subscriber_id=subscriber_id,
        kind=kind,
        nr=last.nr + 1 if last else 1,
        terms=terms,
        at=at,
        by=by,
    )
    return True
