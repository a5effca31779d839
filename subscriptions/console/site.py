"""The site at /admin/: its addresses, its sidebar, and the groups of its roles."""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from importlib.util import find_spec
from typing import Any

from allauth.account.views import logout as allauth_logout
from django.apps import AppConfig, apps
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils.translation import gettext as _
from unfold.sites import UnfoldAdminSite

from subscriptions.console.doors import Visit, enter, visit_of
from subscriptions.console.pages import Page, Section
from subscriptions.models import Role


class Site(UnfoldAdminSite):  # type: ignore[misc]  # unfold ships no types
    """Pages by their names. Of Django's own site nothing else has an address."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: dict[str, type[Page]] = {}

    def place(self, page: type[Page]) -> None:
        known = self.pages.setdefault(page.name, page)
        if known is not page:
            raise ValueError(f"two pages are called {page.name}: {known} and {page}")
        for other in page.brings():
            self.place(other)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        load()
        return [
            path("logout/", allauth_logout, name="logout"),
            *(
                path(page.address, enter(page.as_view()), name=name)
                for name, page in self.pages.items()
            ),
        ]

    def has_permission(self, request: HttpRequest) -> bool:
        return hasattr(request, "visit")

    def sections(self, visit: Visit) -> list[tuple[Section, list[type[Page]]]]:
        """The pages of the sidebar that this visit may open."""
        found: dict[Section, list[type[Page]]] = defaultdict(list)
        for page in self.pages.values():
            if page.section is not None and visit.may(page.permission()):
                found[page.section].append(page)
        return [
            (section, sorted(found[section], key=lambda page: (page.order, page.name)))
            for section in Section
            if found[section]
        ]


site = Site()


def load() -> None:
    """Import the modules of every room's console, which place their pages."""
    for config in apps.get_app_configs():
        package = f"{config.name}.console"
        if find_spec(package) is None:
            continue
        folder = importlib.import_module(package)
        for module in pkgutil.walk_packages(folder.__path__, f"{package}."):
            importlib.import_module(module.name)


# What unfold asks for, by name, in config/settings.py ---------------------------------------------


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    return [
        {
            "title": section.title,
            "separator": section is not Section.OVERVIEW,
            "items": [
                {
                    "title": page.title,
                    "icon": page.icon,
                    "link": reverse(f"admin:{page.name}"),
                    "active": _stands_at(request, page),
                }
                for page in pages
            ],
        }
        for section, pages in site.sections(visit_of(request))
    ]


def _stands_at(request: HttpRequest, page: type[Page]) -> bool:
    here = request.resolver_match
    if here is None or here.url_name is None:
        return False
    shown = site.pages.get(here.url_name)
    return shown is not None and page.name in (shown.name, shown.parent)


def operator_name(request: HttpRequest) -> str:
    return visit_of(request).operator.name


def role_name(request: HttpRequest) -> str:
    return visit_of(request).staff.get_role_display()


def mark(request: HttpRequest) -> str:
    return static("portal/mark.svg")


def account_links(request: HttpRequest) -> list[dict[str, Any]]:
    links = [{"title": _("My account"), "link": reverse("account_overview")}]
    if len(visit_of(request).elsewhere) > 1:
        links.append({"title": _("Another operator"), "link": reverse("admin:operator")})
    return links


# Groups -------------------------------------------------------------------------------------------


def grants() -> dict[str, frozenset[Role]]:
    """Which roles have each permission, as the pages say."""
    load()
    return {page.permission(): page.granted_to() for page in site.pages.values()}


def write_groups(sender: AppConfig, **more: Any) -> None:
    """After the last app's migrations: a group for each role, with what its pages allow.

    What code no longer says is taken away.
    """
    with_models = [config for config in apps.get_app_configs() if config.models_module is not None]
    if sender.name != with_models[-1].name:
        return
    wanted = grants()
    rooms = {permission.partition(".")[0] for permission in wanted}
    types = {
        room: ContentType.objects.get_or_create(app_label=room, model="console")[0]
        for room in sorted(rooms)
    }
    Permission.objects.bulk_create(
        [
            Permission(content_type=types[room], codename=name, name=name)
            for room, _dot, name in (permission.partition(".") for permission in sorted(wanted))
        ],
        ignore_conflicts=True,
    )
    rows = Permission.objects.filter(content_type__model="console").select_related("content_type")
    known = {f"{row.content_type.app_label}.{row.codename}": row for row in rows}
    for role in Role:
        group, _made = Group.objects.get_or_create(name=role.value)
        group.permissions.set(
            known[permission] for permission, roles in wanted.items() if role in roles
        )
