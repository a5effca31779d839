"""What the ORM is taught of PostgreSQL: lists as one array, instants read fast."""

from __future__ import annotations

import datetime as dt

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from subscriptions.models import Operator, Subject, Subscriber
from tests.factories import make_operator, make_subscriber

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


class TestAmong(TestCase):
    @given(st.lists(TEXTS, max_size=6), st.data())
    def test_texts_among_others_are_found_whatever_they_hold(
        self, texts: list[str], data: st.DataObject
    ) -> None:
        for nr, text in enumerate(texts):
            Operator.objects.create(code=f"o-{nr}", name=text, created_at=NOW)
        wanted = data.draw(st.lists(st.sampled_from([*texts, "{", '","', "NULL", "\\"])))

        found = Operator.objects.filter(name__among=wanted).order_by("pk")

        assert list(found) == list(Operator.objects.filter(name__in=wanted).order_by("pk"))


@pytest.mark.django_db
def test_numbers_among_others_are_one_parameter_of_keys_and_foreign_keys() -> None:
    operator = make_operator()
    people = [make_subscriber(operator, f"s-{nr}", subjects=(f"n-{nr}",)) for nr in range(3)]
    ids = {person.pk for person in people[:2]} | {0, -1, 2**62}

    with CaptureQueriesContext(connection) as asked:
        assert set(Subscriber.objects.filter(pk__among=ids)) == set(people[:2])
        assert Subject.objects.filter(subscriber__among=ids).count() == 2
        assert Subject.objects.filter(subscriber_id__among=ids).count() == 2
        assert Subject.objects.exclude(subscriber_id__among=ids).count() == 1

    assert all(one["sql"].count("ANY") == 1 for one in asked)


@pytest.mark.django_db
def test_among_none_nothing_is_asked() -> None:
    with CaptureQueriesContext(connection) as asked:
        assert not Subscriber.objects.filter(pk__among=[])
    assert not asked


@pytest.mark.django_db
@pytest.mark.parametrize(
    "text",
    [
        "2026-06-01 00:00:00+00",
        "2026-06-01 01:02:03.5+00",
        "2026-06-01 01:02:03.000001+00",
        "1970-01-01 00:00:00+00",
        "0044-03-15 12:00:00+00",
        "9999-12-31 23:59:59.999999+00",
    ],
)
def test_an_instant_is_read_as_it_is_to_the_microsecond(text: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::timestamptz", [text])
        [(plain,)] = cursor.fetchall()
        cursor.execute("SET LOCAL TIME ZONE 'Asia/Shanghai'")
        cursor.execute("SELECT %s::timestamptz", [text])
        [(elsewhere,)] = cursor.fetchall() if not text.startswith("9999") else [(plain,)]

    assert plain == dt.datetime.fromisoformat(text)
    assert plain.tzinfo is elsewhere.tzinfo is dt.UTC
    assert elsewhere == plain
