"""Who works for two operators chooses whose console it is."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from subscriptions.console.doors import CHOSEN
from subscriptions.console.pages import Page, page
from subscriptions.models import Role


@page
class ChooseOperator(Page):
    """Another operator's console, for whoever works there too."""

    name = "operator"
    address = "operator/"
    title = _("Choose an operator")
    help = _("You work for these operators. A page shows one of them at a time.")
    roles = tuple(Role)
    template_name = "console/operator.html"

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        asked = request.POST.get("operator", "")
        for staff in self.visit.elsewhere:
            if str(staff.operator_id) == asked:
                request.session[CHOSEN] = staff.operator_id
                return HttpResponseRedirect(reverse("admin:index"))
        return HttpResponseRedirect(reverse("admin:operator"))
