"""Keys of subscribers, for tests."""

from __future__ import annotations

from typing import Any

from rest_framework.test import APIClient

from tests.usage import Gateway, post

KEYS = "subscribers/s-1/keys"


def make_subscriber_key(api: APIClient, name: str = "laptop", **terms: Any) -> Any:
    """The body of the 201 that shows the secret."""
    answer = post(api, KEYS, {"name": name, **terms})
    assert answer.status_code == 201, answer.content
    return answer.json()


def introspect(gateway: Gateway, token: str, **more: Any) -> Any:
    answer = post(gateway.client, "keys/introspect", {"token": token, **more})
    assert answer.status_code == 200, answer.content
    return answer.json()
