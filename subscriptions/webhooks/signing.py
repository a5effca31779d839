"""Signatures as Standard Webhooks has them: HMAC-SHA256 over id, time and body."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import secrets
from collections.abc import Iterable

_PREFIX = "whsec_"


def new_secret() -> str:
    """`whsec_` and 32 random bytes in base64."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def message_id(subscriber_id: int, event_key: str) -> str:
    """The same at every attempt and every replay: receivers know by it what they have."""
    named = f"{subscriber_id}:{event_key}".encode()
    return f"evt_{hashlib.sha256(named).hexdigest()[:32]}"


def headers(
    message: str, at: dt.datetime, body: bytes, signed_with: Iterable[str]
) -> dict[str, str]:
    """The three headers, with a signature by each secret."""
    stamp = str(int(at.timestamp()))
    signed = f"{message}.{stamp}.".encode() + body
    signatures = []
    for secret in signed_with:
        key = base64.b64decode(secret.removeprefix(_PREFIX))
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        signatures.append(f"v1,{base64.b64encode(digest).decode()}")
    return {
        "webhook-id": message,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(signatures),
    }
