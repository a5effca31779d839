"""A payer's browser: it presses buttons of forms as they stand on a page."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import urljoin, urlsplit

from django.test import Client

from billing import inbox
from billing.ways.sandbox import tasks as sandbox
from subscriptions import clock
from subscriptions.models import Operator

_FORM = re.compile(r"<form\b([^>]*)>(.*?)</form>", re.DOTALL)
_FIELD = re.compile(r"<(input|button)\b([^>]*)>")
_WORD = re.compile(r'([\w-]+)(?:="([^"]*)")?')


class Browser:
    """One that sends no more than what is on the page; forms need their token."""

    def __init__(self, **headers: str) -> None:
        self.client = Client(enforce_csrf_checks=True, headers=headers)
        self.at = ""
        self.text = ""
        self.status = 0
        self.headers: Any = {}

    def open(self, url: str) -> Browser:
        """Go there, and wherever that leads."""
        self._follow("GET", _path(url), {})
        return self

    def press(self, name: str, value: str, **fields: str) -> Browser:
        """Press a button, with some fields of its form filled in."""
        for attributes, inner in _FORM.findall(self.text):
            form = _words(attributes)
            given = [(kind, _words(words)) for kind, words in _FIELD.findall(inner)]
            others = [(kind, _words(words)) for kind, words in _FIELD.findall(self.text)]
            given += [
                (kind, words) for kind, words in others if words.get("form") == form.get("id", "-")
            ]
            if any(
                kind == "button" and (words.get("name"), words.get("value")) == (name, value)
                for kind, words in given
            ):
                sent = {
                    words["name"]: words.get("value", "")
                    for kind, words in given
                    if kind == "input"
                    and (words.get("type") not in ("radio", "checkbox") or "checked" in words)
                }
                where = urljoin(self.at, form["action"])
                self._follow("POST", where, {**sent, **fields, name: value})
                return self
        raise AssertionError(f"there is no button {name}={value} on {self.at}:\n{self.text}")

    def buttons(self) -> set[str]:
        """The values of all buttons."""
        given = [(kind, _words(words)) for kind, words in _FIELD.findall(self.text)]
        return {words["value"] for kind, words in given if kind == "button" and "value" in words}

    def says(self, *words: str) -> bool:
        """Whether the page, as a person reads it, holds all of these."""
        read = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", self.text)))
        return all(word in read for word in words)

    def _follow(self, method: str, path: str, fields: dict[str, str]) -> None:
        for _ in range(5):
            ask = self.client.post if method == "POST" else self.client.get
            answer = ask(path, fields)
            self.at, self.status, self.headers = path, answer.status_code, answer.headers
            self.text = answer.content.decode()
            if answer.status_code not in (302, 303):
                return
            method, path, fields = "GET", _path(answer["Location"]), {}
        raise AssertionError(f"it never ends: {path}")


def _words(text: str) -> dict[str, str]:
    return {name: html.unescape(value) for name, value in _WORD.findall(text)}


def _path(url: str) -> str:
    parts = urlsplit(url)
    assert parts.netloc in ("", "127.0.0.1:8000"), f"that is not us: {url}"
    return parts.path + (f"?{parts.query}" if parts.query else "")


def deliver(operator: Operator) -> None:
    """Let what is due at the sandbox happen, its notices arrive, and be worked."""
    sandbox.settle()
    sandbox.send_notices()
    while inbox.work(operator, at=clock.now(operator)):
        pass
