"""Doors for people who sign up, and for what they do with their account."""

from __future__ import annotations

from typing import Any

from allauth.account.views import SignupView
from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from subscriptions.models import User
from subscriptions.users import closing
from subscriptions.users.forms import PhoneSignupForm


class PhoneSignup(SignupView):  # type: ignore[misc]
    """Sign up with a phone number and the code that is sent to it."""

    template_name = "account/signup_by_phone.html"

    def get_form_class(self) -> Any:
        return PhoneSignupForm


@login_required
def overview(request: HttpRequest) -> HttpResponse:
    return render(request, "account/overview.html")


@require_POST
@login_required
def sign_out_everywhere(request: HttpRequest) -> HttpResponse:
    assert isinstance(request.user, User)
    closing.end_sessions(request.user)
    logout(request)
    messages.success(request, _("You are signed out on all devices."))
    return redirect("account_login")
