"""What of one's own an address names."""

from __future__ import annotations

from django.http import Http404

from billing import complaints, invoicing
from billing.models import Complaint, Invoice
from subscriptions.errors import DomainError
from subscriptions.portal.doors import Visit


def invoice(visit: Visit, number: str) -> Invoice:
    """An issued invoice of the visitor's own. Raises Http404, for anybody else's as for none."""
    try:
        found = invoicing.find(visit.operator, number)
    except DomainError:
        raise Http404 from None
    if found.subscriber_id != visit.subscriber.pk:
        raise Http404
    return found


def complaint(visit: Visit, number: str) -> Complaint:
    """The same of complaints."""
    try:
        found = complaints.find(visit.operator, number)
    except DomainError:
        raise Http404 from None
    if found.subscriber_id != visit.subscriber.pk:
        raise Http404
    return found
