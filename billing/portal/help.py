"""Help that anybody may read: what a token is, how it is counted, and the rules of billing as this
operator has set them."""

from __future__ import annotations

import datetime as dt

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from billing import complaints, corrections, dunning
from subscriptions import clock, lifecycle
from subscriptions.models import Operator
from subscriptions.portal.doors import public

_HOUR = dt.timedelta(hours=1)


@require_GET
@public
def overview(request: HttpRequest, operator: Operator) -> HttpResponse:
    now = clock.now(operator)
    debts = dunning.terms_by(operator.pk)(now)
    return render(
        request,
        "portal/help.html",
        {
            "operator": operator,
            "grace_hours": operator.late_grace // _HOUR,
            "debts": None if debts == dunning.NOTHING else debts,
            "factor": corrections.rules_of(operator.pk, at=now).over_charge_factor,
            "refund_days": lifecycle.REFUND_DAYS,
            "reply_days": complaints.reply_days(operator),
            "section": "help",
        },
    )
