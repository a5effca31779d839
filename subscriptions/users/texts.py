"""Text messages to people who sign in, by the function that `SMS_SENDER` names."""

from __future__ import annotations

import sys

from django.conf import settings
from django.utils.module_loading import import_string


def send(phone: str, text: str) -> None:
    import_string(settings.SMS_SENDER)(phone, text)


def to_console(phone: str, text: str) -> None:
    """The default: whoever runs the platform reads the codes in its log."""
    sys.stderr.write(f"SMS to {phone}: {text}\n")
