"""One's own account: all that is kept about it as a file, and leaving."""

from __future__ import annotations

from typing import Any

from allauth.account.decorators import reauthentication_required
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from billing import leaving
from billing.models import PersonalDataExport
from billing.personal_data import keeping
from subscriptions import clock
from subscriptions.errors import DomainError
from subscriptions.models import User
from subscriptions.portal.doors import Visit, own, show
from subscriptions.users import closing


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


@require_http_methods(["GET", "POST"])
@own
def personal_data(request: HttpRequest, visit: Visit) -> HttpResponse:
    """The file of one's data, or how far it is; by POST it is ordered."""
    user = _user(request)
    if request.method == "POST":
        keeping.order(user, visit.operator, visit.subscriber, at=visit.now)
        return redirect("portal_personal_data")
    latest = keeping.latest_of(user, visit.operator)
    State = PersonalDataExport.State
    ready = (
        latest is not None
        and latest.state == State.MADE
        and bool(latest.expires_at and latest.expires_at > visit.now)
    )
    alone = request.headers.get("HX-Request")
    template = "portal/_personal_data.html" if alone else "portal/personal_data.html"
    return show(
        request,
        template,
        visit,
        export=latest,
        ready=ready,
        waiting=latest is not None and latest.state == State.WAITING,
        failed=latest is not None and latest.state == State.FAILED,
    )


@require_GET
@own
def personal_file(request: HttpRequest, visit: Visit, export_id: int) -> StreamingHttpResponse:
    """The file, for whoever ordered it and for nobody else."""
    try:
        found = keeping.find(_user(request), visit.operator, export_id, at=visit.now)
    except DomainError:
        raise Http404 from None
    return StreamingHttpResponse(
        keeping.content(found),
        content_type="application/zip",
        headers={
            "Content-Disposition": 'attachment; filename="personal-data.zip"',
            "Content-Length": str(found.size),
        },
    )


@login_required
@reauthentication_required  # type: ignore[untyped-decorator]
def close(request: HttpRequest) -> HttpResponse:
    """What is lost and what stands against it; by POST, and said twice, the account is closed. The
    page that answers is the receipt: nobody can sign in to read it later."""
    user = _user(request)
    said: dict[str, Any] = {
        "standings": leaving.standings(user, now=clock.now),
        "plan_runs": closing.plan_runs(user, now=clock.now),
    }
    said["owes"] = any(each.owed.amount for each in said["standings"])
    said["holds"] = any(each.own.amount for each in said["standings"])
    if request.method != "POST":
        return render(request, "account/close.html", said)
    if request.POST.get("sure") != "1":
        return render(request, "account/close.html", {**said, "unsure": True})
    at = clock.wall()
    try:
        held = leaving.close(user, at=at, now=clock.now)
    except DomainError:  # something came in between: the page says what
        return redirect("account_close")
    receipt = {"standings": held, "key": str(user.key), "at": at}
    logout(request)
    return render(request, "account/closed.html", receipt)
