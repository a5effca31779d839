"""What an operator says about itself: writes the settings of its own row."""

from __future__ import annotations

import datetime as dt

from subscriptions.models import Operator

# Periods are opened so long before, with their overage.
_AHEAD = dt.timedelta(days=1)


def change(
    operator: Operator,
    *,
    at: dt.datetime,
    top_up_url: str | None = None,
    overage_by_consent: bool | None = None,
) -> None:
    """Where this operator's subscribers can buy more ("": nowhere), and whether they pay for
    overage only by consent: in periods that begin a day from now or later. What is None stays."""
    if top_up_url is not None:
        operator.top_up_url = top_up_url
    since = operator.overage_by_consent_since
    if overage_by_consent is not None and overage_by_consent != (since is not None):
        operator.overage_by_consent_since = at + _AHEAD if overage_by_consent else None
    Operator.objects.filter(pk=operator.pk).update(
        top_up_url=operator.top_up_url,
        overage_by_consent_since=operator.overage_by_consent_since,
    )
