"""What holds for every page of the portal, whichever there are: links lead to them."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connection
from django.test import Client, TestCase
from django.test.utils import override_settings
from django.urls import resolve, reverse

from tests.factories import make_subscriber
from tests.lively import NOW, Account, lively, sees, signed_in
from tests.portal_walk import Met, forms, names, walk
from tests.usage import Gateway, record

# What everybody may name is called so: names must stay text.
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
AWAY = "https://evil.example/"
# Addresses whose codes are the operator's, not a subscriber's; and signed ones, which whoever has
# them may pay at.
FOR_ALL = {"portal_plan", "portal_booster", "pay", "pay-state", "pay-again", "pay-return"}
# Pages that no other leads to, or only for a while: where to begin besides.
BESIDES = ("/usage/table.csv",)
MOST_QUERIES = 12
ROOMS = {
    "/": "billing.portal.urls",
    "/accounts/": "subscriptions.users.urls",
    "/pay/": "billing.checkout.urls",
}


@pytest.mark.timeout(1800)
@override_settings(
    PORTAL_OPERATOR="op",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
)
class EveryPage(TestCase):
    account: Account
    met: dict[str, Met]

    @classmethod
    def setUpTestData(cls) -> None:
        cls.account = lively(EVIL, (EVIL, "deepseek/deepseek-chat"))
        paid_from_two(cls.account)
        orders = [reverse("portal_order", args=[number]) for number in cls.account.orders]
        cls.met = walk(signed_in(cls.account.user), "/", *BESIDES, *orders)

    # What there is --------------------------------------------------------------------------------

    def test_a_page_asks_the_database_at_most_twelve_times(self) -> None:
        said = [
            "\n  ".join((path, *(query[:150] for query in page.queries)))
            for path, page in self.met.items()
            if len(page.queries) > MOST_QUERIES
        ]
        assert not said, "\n".join(said)

        # The dearest of them all was there, too.
        items = self.met["/usage/requests/"].answer.context["items"]
        assert max(len(item["receipt"]["buckets"]) for item in items) > 1

    def test_names_models_and_attributes_are_text(self) -> None:
        shown = 0
        for path, page in self.met.items():
            if page.reading:
                assert page.reading.active == [], path
                assert "<script>alert" not in page.answer.content.decode(), path
                shown += EVIL in " ".join(page.reading.text)
        assert shown > 5

    # To whom --------------------------------------------------------------------------------------

    def test_what_is_somebodys_own_is_not_there_for_anybody_else(self) -> None:
        user = sees(make_subscriber(self.account.operator, "s-2"))
        stranger = signed_in(user)
        own = {urlsplit(path).path for path, page in self.met.items() if is_own(path)}
        own |= {urlsplit(form.action).path for form in forms(self.met) if is_own(form.action)}

        assert len(own) > 5
        for path in sorted(own):
            assert stranger.get(path).status_code in (404, 405), path
            assert stranger.post(path).status_code in (404, 405), path

    def test_nothing_that_anybody_else_sends_changes_an_account(self) -> None:
        """Each form of its owner's pages, with all that stands in it."""
        user = sees(make_subscriber(self.account.operator, "s-2"))
        before = rows_of(self.account)

        for form in forms(self.met):
            signed_in(user).post(form.action, form.sent())
        assert rows_of(self.account) == before
        signed_in(self.account.user).post("/boosters/b5/")
        assert rows_of(self.account) != before

    def test_who_is_not_signed_in_sees_nothing_of_anybodys(self) -> None:
        for path, page in self.met.items():
            answer = Client().get(path)
            if answer.status_code == 200:
                shown = answer.content.decode()
                assert self.account.user.email not in shown, path
                assert not any(str(number) in shown for number in page.ids.values() if is_own(path))
            else:
                assert answer.status_code == 302, path
                assert answer["Location"].startswith("/accounts/"), path

    # By which way ---------------------------------------------------------------------------------

    def test_nothing_is_taken_without_the_token_of_a_page(self) -> None:
        client = signed_in(self.account.user, enforce_csrf_checks=True)

        for at, room in ROOMS.items():
            for name, route in names(room):
                path = at + re.sub(r"<[^>]+>", "1", route)
                assert client.post(path).status_code == 403, name

    def test_nothing_leads_elsewhere(self) -> None:
        client = signed_in(self.account.user)
        for path in self.met:
            joined = "&" if "?" in path else "?"
            answer = client.get(f"{path}{joined}next={AWAY}", headers={"referer": AWAY})
            assert not leads_away(answer), path
        for form in forms(self.met):
            sent = form.sent() | {"next": AWAY}
            client = signed_in(self.account.user)
            answer = client.post(form.action, sent, headers={"referer": AWAY})
            assert not leads_away(answer), form


def paid_from_two(account: Account) -> None:
    """A batch of more than is left of what rolled over."""
    used = {"subject": "user-s-1", "occurred_at": NOW, "input_tokens": 400_000, "output_tokens": 0}
    Gateway(account.operator).charge(*(record(f"two-{nr}", **used) for nr in range(2)))


def rows_of(account: Account) -> dict[str, str]:
    """By table, a digest of the rows that are the subscriber's or the user's own."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE a.attname IN ('subscriber_id', 'user_id') AND NOT c.relispartition"
            " AND c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace"
        )
        columns = cursor.fetchall()
        owner = {"subscriber_id": account.subscriber.pk, "user_id": account.user.pk}
        cursor.execute(
            " UNION ALL ".join(
                f"SELECT '{table}', md5(string_agg(t::text, '|' ORDER BY t::text))"
                f" FROM {table} t WHERE {column} = %s"
                for table, column in columns
            ),
            [owner[column] for _, column in columns],
        )
        return dict(cursor.fetchall())


def leads_away(answer: Any) -> bool:
    """Whether it goes to AWAY by itself, or offers a link there."""
    if answer.status_code in (301, 302, 303, 307, 308):
        return bool(urlsplit(answer["Location"]).hostname == urlsplit(AWAY).hostname)
    found = not answer.streaming and re.search(
        rb"""(href|action|content)=["'][^"'?]*evil\.example""", answer.content
    )
    return bool(found)


def is_own(path: str) -> bool:
    """Whether an address names something that is one subscriber's."""
    match = resolve(urlsplit(path).path)
    return bool(match.kwargs) and match.url_name not in FOR_ALL
