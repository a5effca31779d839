"""What the platform does by itself, and how it fares."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.utils.translation import gettext_lazy as _

from subscriptions import clock, jobs
from subscriptions.console import words
from subscriptions.console.pages import Page, Section, page
from subscriptions.models import Role


def schedule() -> dict[str, float]:
    """Seconds between the bells of each job, as beat rings them."""
    bells: dict[str, dict[str, Any]] = settings.CELERY_BEAT_SCHEDULE
    return {bell["task"]: float(bell["schedule"]) for bell in bells.values()}


@page
class Jobs(Page):
    name, address, title = "jobs", "jobs/", _("Jobs")
    help = _(
        "Each job that beat rings for: how often, when it last ended well, how long it took. A job"
        " that fails is run again by its next bell; one that is late needs somebody to look."
    )
    section, icon, order = Section.PLATFORM, "schedule", 30
    roles = (Role.OPERATIONS,)
    template_name = "console/jobs.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        found = jobs.all_of(schedule(), at=clock.wall())
        wanted = self.request.GET.get("state", "")
        states = {
            "late": [one for one in found if one.late],
            "failing": [one for one in found if one.failing],
            "well": [one for one in found if not one.late and not one.failing],
        }
        return {
            "jobs": [(words.job(one.name), one) for one in states.get(wanted, found)],
            "states": [(state, len(them)) for state, them in states.items()],
            "wanted": wanted if wanted in states else "",
        }
