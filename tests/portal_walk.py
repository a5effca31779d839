"""A walk over the portal as its pages lead: which pages there are is read from the pages.

So a page that is new is tried with all others, as soon as any page leads to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

from django.test import Client
from django.urls import URLResolver, get_resolver, resolve

from tests.visiting import asking

# Ways out of the account, and what is no page.
_NOT_FOLLOWED = ("account_logout",)
# So many questions (`?by=hour`) are put to a page.
_QUESTIONS = 4
_MANY = 12


@dataclass(slots=True)
class Form:
    """A form as it stands on a page: where it goes, and what it sends unless it is filled in."""

    page: str
    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[dict[str, str]] = field(default_factory=list)

    def sent(self) -> dict[str, str]:
        """With its first button that has a name."""
        return self.fields | next(iter(self.buttons), {})


class Reading(HTMLParser):
    """What a page is made of."""

    def __init__(self, at: str, html: str) -> None:
        super().__init__()
        self.at = at
        self.links: list[str] = []
        self.forms: list[Form] = []
        # A page, or a part of one that it asks for again.
        self.whole = "<html" in html
        self.headings = 0
        # What the policy would stop, or a name that became more than text.
        self.active: list[str] = []
        self.text: list[str] = []
        self._silent = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        data = given.get("type") == "application/json"
        if tag in ("script", "style") and "src" not in given and not data:
            self.active.append(self.get_starttag_text() or tag)
        for name, value in given.items():
            if name.startswith(("on", "hx-on")) or value.strip().lower().startswith("javascript:"):
                self.active.append(self.get_starttag_text() or tag)
        if tag in ("svg", "script", "style", "title"):
            self._silent += 1
        if tag == "h1":
            self.headings += 1
        if tag == "a" and "href" in given:
            self.links.append(urljoin(self.at, given["href"]))
        if "hx-get" in given:
            self.links.append(urljoin(self.at, given["hx-get"]))
        if tag == "form":
            action = urljoin(self.at, given.get("action") or self.at)
            self.forms.append(Form(self.at, action, given.get("method", "get").lower()))
        elif self.forms and given.get("name"):
            self._field(tag, given)

    def _field(self, tag: str, given: dict[str, str]) -> None:
        name, value = given["name"], given.get("value", "")
        if tag == "button":
            self.forms[-1].buttons.append({name: value})
        elif tag in ("input", "textarea", "select"):
            if given.get("type") in ("radio", "checkbox") and "checked" not in given:
                self.forms[-1].fields.setdefault(name, value)
            else:
                self.forms[-1].fields[name] = value

    def handle_endtag(self, tag: str) -> None:
        if tag in ("svg", "script", "style", "title"):
            self._silent -= 1

    def handle_data(self, data: str) -> None:
        if not self._silent and data.strip():
            self.text.append(data.strip())


@dataclass(frozen=True, slots=True)
class Met:
    """A page that was met: its answer, and what it asked of the database."""

    path: str
    name: str
    answer: Any
    queries: list[str]
    reading: Reading | None

    def __deepcopy__(self, memo: Any) -> Met:
        return self  # a TestCase would copy it for each test, and it is only read

    @property
    def ids(self) -> Mapping[str, Any]:
        """What its address names: a number, a code."""
        return resolve(urlsplit(self.path).path).kwargs


def walk(client: Client, *starts: str) -> dict[str, Met]:
    """All pages that these lead to, by address."""
    met: dict[str, Met] = {}
    asked: dict[str, int] = {}
    ahead = list(starts)
    while ahead:
        url = urlsplit(ahead.pop(0))
        path = url.path + (f"?{url.query}" if url.query else "")
        if url.netloc or path in met or not path.startswith("/") or path.startswith("/static/"):
            continue
        name = resolve(url.path).url_name or ""
        if name in _NOT_FOLLOWED:
            continue
        if url.query:
            asked[url.path] = asked.get(url.path, 0) + 1
            if asked[url.path] > _QUESTIONS:
                continue
        answer, sql = asking(client, path)
        if len(sql) > _MANY:
            # What is asked once in a life is not counted.
            answer, sql = asking(client, path)
        reading = None
        if answer.headers["Content-Type"].startswith("text/html"):
            reading = Reading(path, answer.content.decode())
            ahead += reading.links
            ahead += [form.action for form in reading.forms if form.method == "get"]
        met[path] = Met(path, name, answer, sql, reading)
    return met


def forms(met: Mapping[str, Met]) -> list[Form]:
    """The forms that are sent by POST, each once."""
    found: dict[tuple[Any, ...], Form] = {}
    for page in met.values():
        for form in page.reading.forms if page.reading else []:
            if form.method == "post":
                key = (form.action, tuple(sorted(form.sent())))
                found.setdefault(key, form)
    return list(found.values())


def names(room: str) -> Iterator[tuple[str, str]]:
    """The names of all addresses of a URL configuration, with their routes."""
    yield from _names(get_resolver(room).url_patterns, "")


def _names(patterns: list[Any], before: str) -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _names(pattern.url_patterns, route)
        elif pattern.name:
            yield pattern.name, route
