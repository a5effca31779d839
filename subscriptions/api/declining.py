"""The page behind an e-mail's link to have no more of a kind.

A GET changes nothing, for mail programs and scanners open links by themselves; a POST does, from
the page's button or from the mail program's own (RFC 8058). The signed link is all that it takes.
"""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import translation
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from subscriptions import clock
from subscriptions.errors import NotFound
from subscriptions.models import Channel
from subscriptions.notices import preferences


@csrf_exempt
@require_http_methods(["GET", "HEAD", "POST"])
def decline(request: HttpRequest, token: str) -> HttpResponse:
    try:
        subscriber, kind = preferences.read_token(token)
    except NotFound as error:
        raise Http404 from error
    done = request.method == "POST"
    if done:
        preferences.wish(
            subscriber.pk,
            kind,
            Channel.EMAIL,
            wanted=False,
            by="link",
            at=clock.now(subscriber.operator),
        )
    with translation.override(subscriber.language):
        response = render(
            request, "notices/decline.html", {"done": done, "operator": subscriber.operator}
        )
    response["Referrer-Policy"] = "no-referrer"
    response["X-Robots-Tag"] = "noindex"
    return response
