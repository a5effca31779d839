"""Pages as people see them: Debian's Chromium on a screen of some size, and what axe says of them.

A file that looks through it names the group `browser`: one Chromium at a time is enough for a
machine. `window` opens what `live_server` or a `platform` serves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from config.serve import Platform
from subscriptions.models import User
from tests.running import PATIENCE, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = "no Chromium: as root, apt-get install chromium fonts-noto-cjk"
PHONE = ViewportSize(width=390, height=844)
DESKTOP = ViewportSize(width=1280, height=800)
# Pictures go here, where they are asked for: SCREENS=docs/screens.
SCREENS = os.environ.get("SCREENS", "")
AXE = Path(settings.BASE_DIR) / "node_modules" / "axe-core" / "axe.min.js"
# WCAG 2.2 AA.
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_GRAVE = ("serious", "critical")
# How far what was there has jumped while the page was being loaded, and what has not.
_SHIFTS = """
window.shifted = 0;
new PerformanceObserver(list => list.getEntries().forEach(
    entry => { if (!entry.hadRecentInput) window.shifted += entry.value; }
)).observe({type: 'layout-shift', buffered: true});
"""


class Window:
    """A browser of its own for somebody, with one page open in it."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        *,
        screen: ViewportSize = PHONE,
        language: Literal["zh-CN", "en-GB"] = "zh-CN",
        colours: Literal["light", "dark"] = "light",
        scripts: bool = True,
        user: User | None = None,
    ) -> None:
        self.url = url
        self.context = browser.new_context(
            base_url=url,
            viewport=screen,
            locale=language,
            color_scheme=colours,
            java_script_enabled=scripts,
            reduced_motion="reduce",
        )
        self.context.set_default_timeout(PATIENCE * 1000)
        self.page: Page = self.context.new_page()
        self.page.add_init_script(_SHIFTS)
        # A script or style that the policy stops is told here, and what is not there.
        self.complaints: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        if user is not None:
            client = Client()
            client.force_login(user)
            self.enter(client)

    def enter(self, client: Client) -> None:
        """Be who that client is, where the test's own database is what is served."""
        session = client.cookies[settings.SESSION_COOKIE_NAME]
        self.context.add_cookies([{"name": session.key, "value": session.value, "url": self.url}])

    def open(self, path: str) -> Page:
        """The page at an address of ours."""
        answer = self.page.goto(path)
        assert answer is not None
        assert answer.ok, f"{path}: {answer.status}"
        return self.page

    def is_sound(self) -> None:
        """What holds for every page: read by anybody, on any screen, and nothing jumps."""
        wrong = self.wrong()
        assert not wrong, (self.page.url, wrong)

    def wrong(self) -> list[str]:
        """What does not hold of the page that is open, and is forgotten with this."""
        wide, room = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        wrong = [f"{wide} wide on a screen of {room}"] if wide > room else []
        if self.page.evaluate("window.shifted") >= 0.02:
            wrong.append("it jumps while it loads")
        wrong += [*self.findings(), *self.complaints]
        self.complaints.clear()
        return wrong

    def findings(self) -> list[str]:
        """What axe calls serious or critical: each as `rule: element`."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE.read_text())
        found: list[Any] = self.page.evaluate(
            "rules => axe.run({runOnly: rules, resultTypes: ['violations']})"
            ".then(said => said.violations)",
            _RULES,
        )
        return [
            f"{one['id']}: {node['html']}"
            for one in found
            if one["impact"] in _GRAVE
            for node in one["nodes"]
        ]

    def picture(self, name: str, *, whole: bool = False) -> None:
        """Keep what is seen, where pictures are asked for."""
        if SCREENS:
            path = Path(settings.BASE_DIR) / SCREENS / f"{name}.png"
            self.page.screenshot(path=path, full_page=whole, animations="disabled")


Opener = Callable[..., Window]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        # Where nobody reads what was skipped, it is a failure.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    # Playwright has a loop in this thread, where Django takes any query for one of async code.
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def window(browser: Browser) -> Iterator[Opener]:
    """Opens windows, `window(url, user=…, screen=…, language=…)`, which are closed at the end."""
    opened: list[Window] = []

    def opener(url: str, **more: Any) -> Window:
        opened.append(Window(browser, url, **more))
        return opened[-1]

    yield opener
    for one in opened:
        one.context.close()


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """All of it as `make serve` runs it, with workers, on a database of its own.

    Its text messages are lines of the file `sms.txt` in its folder.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMS_BACKEND", "subscriptions.notices.sms.File")
        with running() as platform:
            yield platform
