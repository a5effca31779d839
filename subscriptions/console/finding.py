"""Whom a typed word means: phone number, name, e-mail, the carrier's own id, what gateways say.

Each way is one look into an index, so that a million subscribers are searched as fast as ten.
"""

from __future__ import annotations

from django.db.models import QuerySet

from subscriptions import phones
from subscriptions.models import Operator, Subject, Subscriber

_MOST = 50


def subscriber_ids(operator: Operator, text: str) -> list[int]:
    """At most fifty subscribers of the operator that the text may mean."""
    text = text.strip()
    if not text:
        return []
    own = Subscriber.objects.filter(operator=operator)
    ways: list[QuerySet[Subscriber, int] | QuerySet[Subject, int]] = [
        own.filter(external_id=text).values_list("pk", flat=True),
        Subject.objects.filter(operator=operator, subject=text).values_list(
            "subscriber_id", flat=True
        ),
        # Said aloud, so that the index of those who have a number is taken.
        own.exclude(msisdn="").filter(msisdn__in=phones.forms(text)).values_list("pk", flat=True),
        own.filter(name__startswith=text).values_list("pk", flat=True),
    ]
    if "@" in text:
        ways.append(own.filter(email__iexact=text).values_list("pk", flat=True))
    first, *rest = [rows.order_by()[:_MOST] for rows in ways]
    return list(first.union(*rest)[:_MOST])
