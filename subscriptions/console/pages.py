"""What a page of the console is.

A page is a class with `@page` before it. Its `roles` may open it; an auditor may open every page
that changes nothing, and who runs the platform every page. What it shows comes from `self.visit`:
`self.operator` and nobody else's. For example::

    @page
    class MonthEnd(Page):
        name = "month_end"
        address = "month-end/"
        title = _("Month end")
        section, icon = Section.MONEY, "receipt_long"
        roles = (Role.FINANCE,)
        changes = True
        template_name = "console/month_end.html"

        def context(self) -> dict[str, Any]:
            return {"periods": ...}

Its address is `{% url "admin:month_end" %}`, its permission `billing.month_end`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar, TypeVar

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.views import View

from subscriptions.console.doors import Visit, visit_of
from subscriptions.models import Operator, Role, Subscriber
from subscriptions.safety import keeping

Text = str | Promise


class Section(Enum):
    """What pages of the sidebar stand together, in this order."""

    OVERVIEW = "overview"
    CUSTOMERS = "customers"
    PRODUCTS = "products"
    MONEY = "money"
    USAGE = "usage"
    PLATFORM = "platform"

    @property
    def title(self) -> Text:
        return _TITLES[self]


_TITLES: dict[Section, Text] = {
    Section.OVERVIEW: "",
    Section.CUSTOMERS: _("Customers"),
    Section.PRODUCTS: _("Products"),
    Section.MONEY: _("Money"),
    Section.USAGE: _("Usage and gateways"),
    Section.PLATFORM: _("Platform"),
}


class Page(View):
    """A page of the console; subclasses answer `get`, and `post` where they change something."""

    name: ClassVar[str]
    address: ClassVar[str]  # under /admin/, with a slash at its end
    title: ClassVar[Text]
    help: ClassVar[Text] = ""  # what it is for, in a sentence, under its title
    section: ClassVar[Section | None] = None  # none: not in the sidebar
    icon: ClassVar[str] = "chevron_right"  # of Material Symbols
    order: ClassVar[int] = 50  # within its section
    roles: ClassVar[Sequence[Role]] = ()
    changes: ClassVar[bool] = False
    template_name: ClassVar[str] = "console/page.html"
    # The page that leads here, by its name.
    parent: ClassVar[str] = ""

    visit: Visit

    @classmethod
    def permission(cls) -> str:
        """What its groups may do: the room that the page is in, and its name."""
        return f"{cls.__module__.partition('.')[0]}.{cls.name}"

    @classmethod
    def granted_to(cls) -> frozenset[Role]:
        reading = () if cls.changes else (Role.AUDITOR,)
        return frozenset((*cls.roles, *reading, Role.PLATFORM))

    @classmethod
    def brings(cls) -> Sequence[type[Page]]:
        """Pages that come with this one."""
        return ()

    @property
    def operator(self) -> Operator:
        return self.visit.operator

    @property
    def now(self) -> dt.datetime:
        """The operator's time; of people's own deeds the time is the wall's (`Visit.note`)."""
        return self.visit.now

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        self.visit = visit_of(request)
        if not self.visit.may(self.permission()):
            raise PermissionDenied
        return super().dispatch(request, *args, **kwargs)

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        return self.show(**self.context(**kwargs))

    def context(self, **kwargs: Any) -> dict[str, Any]:
        """What the template gets; `kwargs` are of the address."""
        return {}

    def heading(self) -> Text:
        """The title of this very page: that of a record is its name."""
        return self.title

    def breadcrumbs(self) -> list[tuple[Text, str]]:
        """Title and address of the pages above this one."""
        from subscriptions.console.site import site

        if not self.parent:
            return []
        return [(site.pages[self.parent].title, reverse(f"admin:{self.parent}"))]

    def saw(self, subscriber: Subscriber | None) -> None:
        """Write down that somebody looked at a minor's page, masked as it is."""
        if subscriber is not None and keeping.of_subscriber(subscriber.pk).minor:
            self.visit.note(
                f"{self.name}.seen",
                about=f"subscriber/{subscriber.external_id}",
                subscriber=subscriber,
            )

    def show(self, template: str = "", status: int = 200, **context: Any) -> HttpResponse:
        from subscriptions.console.site import site

        heading = self.heading()
        given = {
            **site.each_context(self.request),
            "title": heading,
            "help": self.help,
            "breadcrumbs": self.breadcrumbs(),
            "visit": self.visit,
            "operator": self.operator,
            "now": self.now,
            "page": self,
            **context,
        }
        return render(self.request, template or self.template_name, given, status=status)


P = TypeVar("P", bound=type[Page])


def page(made: P) -> P:
    """Give a page its place on the site."""
    from subscriptions.console.site import site

    site.place(made)
    return made
