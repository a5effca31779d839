"""Pages that stay open: a part of one asks for itself anew, and is sent only where it changed.

What changes with use changes a bucket. The rest (what expires, what nobody is billed for) is seen
a minute later at most: so a look that finds nothing new costs one small query.
"""

from __future__ import annotations

import hashlib

from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseNotModified
from django.utils.translation import get_language

from subscriptions.models import Bucket
from subscriptions.portal.doors import Visit


def version_of(request: HttpRequest, visit: Visit) -> str:
    """A tag of what this page would say."""
    buckets = Bucket.objects.filter(subscriber_id=visit.subscriber.pk).aggregate(
        Count("id"), Sum("used"), Sum("reserved"), Sum("granted")
    )
    said = (
        request.get_full_path(),
        get_language(),
        visit.subscriber.pk,
        visit.now.strftime("%Y-%m-%dT%H:%M"),
        *buckets.values(),
    )
    return hashlib.sha256(repr(said).encode()).hexdigest()[:24]


def unchanged(request: HttpRequest, version: str) -> HttpResponse | None:
    """The answer to a part that asks for itself and has it already."""
    if request.headers.get("HX-Request") and request.headers.get("If-None-Match") == f'"{version}"':
        return HttpResponseNotModified(headers={"ETag": f'"{version}"'})
    return None
