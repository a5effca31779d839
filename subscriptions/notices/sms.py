"""Text messages, by a backend as Django has them for e-mail: SMS_BACKEND names a class.

A backend has `send(number, text, key)`, which raises what it likes when it fails. `key` is the same
whenever a message is sent again: a provider that knows it sends nothing twice.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

import httpx
from django.conf import settings
from django.utils.module_loading import import_string


class Backend(Protocol):
    def send(self, number: str, text: str, key: str) -> None: ...


class Console:
    """The default: whoever runs the platform reads it in its log."""

    def send(self, number: str, text: str, key: str) -> None:
        sys.stderr.write(f"SMS to {number}: {text}\n")


class File:
    """A line for each message, into SMS_FILE."""

    def send(self, number: str, text: str, key: str) -> None:
        path = Path(settings.SMS_FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{number}\t{key}\t{text}\n")


class Http:
    """POST {"to", "text", "key"} to SMS_URL, SMS_TOKEN as the bearer; 2xx says that it is taken.

    What stands between us and a carrier's own gateway (SMPP, CMPP) or a vendor's API.
    """

    def send(self, number: str, text: str, key: str) -> None:
        headers = {"Idempotency-Key": key}
        if settings.SMS_TOKEN:
            headers["Authorization"] = f"Bearer {settings.SMS_TOKEN}"
        body = {"to": number, "text": text, "key": key}
        response = httpx.post(settings.SMS_URL, json=body, headers=headers, timeout=10)
        response.raise_for_status()


def backend() -> Backend:
    found: Backend = import_string(settings.SMS_BACKEND)()
    return found
