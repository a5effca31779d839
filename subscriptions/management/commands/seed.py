from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from subscriptions import clock, seeding


class Command(BaseCommand):
    help = "Create two operators with real carriers' offerings, where they are missing."

    def handle(self, *args: Any, **options: Any) -> None:
        for operator in seeding.seed(at=clock.wall()):
            plans = operator.plans.values("code").distinct().count()
            boosters = operator.boosters.values("code").distinct().count()
            self.stdout.write(f"{operator.code}: {plans} plans, {boosters} boosters")
