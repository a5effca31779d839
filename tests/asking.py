"""What gateways ask before the tokens are spent, for tests."""

from __future__ import annotations

from typing import Any

from tests.usage import Gateway, post, record

PATH = "reservations"


def asked(id: str = "a-1", **said: Any) -> dict[str, Any]:
    """An ask for 120 units by `user-s-1`; a value of None leaves its field out."""
    full = {"id": id, "subject": "user-s-1", "model": "deepseek/chat", "units": "120", **said}
    return {name: value for name, value in full.items() if value is not None}


def reserve(gateway: Gateway, id: str = "a-1", **said: Any) -> Any:
    """The body of the 201 that answers an ask."""
    answer = post(gateway.client, PATH, asked(id, **said))
    assert answer.status_code == 201, answer.content
    return answer.json()


def commit(gateway: Gateway, id: str = "a-1", **said: Any) -> Any:
    """The body of the 200 that answers a commit, of a record with the reservation's id."""
    answer = try_commit(gateway, id, **said)
    assert answer.status_code == 200, answer.content
    return answer.json()


def try_commit(gateway: Gateway, id: str = "a-1", **said: Any) -> Any:
    return post(gateway.client, f"{PATH}/{id}/commit", record(**{"id": id, **said}))


def release(gateway: Gateway, id: str = "a-1") -> Any:
    answer = post(gateway.client, f"{PATH}/{id}/release")
    assert answer.status_code == 200, answer.content
    return answer.json()


def held(shown: Any) -> dict[str, str]:
    """What a balance says is reserved, by kind; of a kind's several buckets the last."""
    return {b["kind"]: b["reserved"] for b in shown["buckets"] if float(b["reserved"])}
