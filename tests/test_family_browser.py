"""The family's pages in a browser: anybody can read them, on a phone and on a desk."""

from __future__ import annotations

from typing import Any

import pytest

from subscriptions.families import keeping
from subscriptions.families.keeping import Rules, Terms
from subscriptions.models import Operator
from tests.browser import DESKTOP, PHONE, Opener
from tests.factories import NOW, make_plan, make_subscriber, subscribe
from tests.families import join, make_family
from tests.usage import Gateway, T, record
from tests.visiting import user_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("browser")]

MILLION = 1_000_000 * T


@pytest.mark.parametrize(
    "look",
    [
        {"screen": PHONE, "language": "zh-CN", "colours": "light"},
        {"screen": DESKTOP, "language": "en-GB", "colours": "dark"},
    ],
    ids=["phone", "desktop"],
)
def test_every_page_of_a_family_is_sound(
    live_server: Any,
    window: Opener,
    operator: Operator,
    gateway: Gateway,
    settings: Any,
    look: dict[str, Any],
) -> None:
    settings.PORTAL_OPERATOR = operator.code
    main, son, mother, guest = (
        make_subscriber(operator, name) for name in ("main", "son", "mother", "guest")
    )
    subscribe(main, make_plan(operator, allowance=40 * MILLION))
    family = make_family(main, name="张家 · The Zhangs", kept=2 * MILLION)
    keeping.change(family, Rules(family.name, kept=family.kept, open_to_members=True), at=NOW)
    kid = join(family, son, label="小张", cap=5 * MILLION)
    mum = join(family, mother, label="妈妈", priority=1)
    keeping.show_usage(mum, True)
    gateway.charge(
        record("r-1", subject="user-son", input_tokens=4_200_000, output_tokens=0),
        record("r-2", subject="user-mother", input_tokens=3_000_000, output_tokens=0),
    )
    keeping.invite(family, Terms("爷爷", 3 * MILLION), contact="138 0013 8000", at=NOW)
    keeping.invite(family, Terms("客人", 3 * MILLION), subscriber=guest, at=NOW)

    pages = {
        main: ("", "invite/", "rules/", "gift/", f"members/{kid.pk}/"),
        son: ("", "gift/"),
        guest: ("",),
    }
    for who, paths in pages.items():
        portal = window(live_server.url, user=user_of(who), **look)
        for path in paths:
            portal.open(f"/family/{path}")
            name = path.strip("/").split("/")[0] or "home"
            portal.picture(f"family-{who.external_id}-{name}-{look['screen']['width']}", whole=True)
            portal.is_sound()
        portal.open("/")
        portal.picture(f"family-{who.external_id}-first-{look['screen']['width']}", whole=True)
        portal.is_sound()
