"""A subscriber who looks at the portal, for tests."""

from __future__ import annotations

from typing import Any

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from subscriptions.models import Access, Subscriber, User
from tests.factories import NOW
from tests.payer import Browser


def user_of(subscriber: Subscriber) -> User:
    """The user who sees this account, made where there is none yet."""
    known = User.objects.filter(accesses__subscriber=subscriber).first()
    if known is not None:
        return known
    user = User.objects.create_user(email=f"{subscriber.pk}@example.com", created_at=NOW)
    Access.objects.create(
        user=user, operator=subscriber.operator, subscriber=subscriber, created_at=NOW
    )
    return user


def client_of(subscriber: Subscriber, language: str = "en") -> Client:
    """A browser in which this subscriber is signed in."""
    client = Client(headers={"accept-language": language})
    client.force_login(user_of(subscriber))
    return client


def browser_of(subscriber: Subscriber, language: str = "en") -> Browser:
    """The same, for one who presses the buttons of pages."""
    browser = Browser(**{"accept-language": language})
    browser.client.force_login(user_of(subscriber))
    return browser


def text_of(client: Client, path: str, **headers: str) -> str:
    """The text of a page that is there."""
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200, path
    return answer.content.decode()


def assert_cheap(client: Client, path: str, most: int = 12) -> None:
    """The page asks the database at most so often, when it is not the first that is seen."""
    client.get(path)
    answer, asked = asking(client, path)
    assert answer.status_code == 200, path
    assert len(asked) <= most, [path, *(sql[:90] for sql in asked)]


def asking(client: Client, path: str) -> tuple[Any, list[str]]:
    """The answer, and what it asked the database until its last byte."""
    with CaptureQueriesContext(connection) as queries:
        answer: Any = client.get(path)
        if answer.streaming:
            answer.read = b"".join(answer)
    return answer, [query["sql"] for query in queries.captured_queries]
