"""Sweeps for lines of subscribers' own that come at the same moment."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import connection, transaction

from subscriptions.models import OutboxEvent
from subscriptions.safety import alerts
from tests.at_once import at_once
from tests.factories import (
    NOW,
    client_for,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.usage import Gateway, put, record

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("races")]


def somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        return bool(cursor.fetchone()[0])


def test_two_sweeps_tell_of_a_line_once() -> None:
    operator = make_operator()
    subscribe(make_subscriber(operator), make_plan(operator))
    lines = {"used_percent": [30], "units_left": []}
    put(client_for(make_key(operator)), "subscribers/s-1/safety/alerts", lines)
    Gateway(operator).charge(record("r-1", input_tokens=5_000_000, output_tokens=0))
    swept = threading.Event()

    def first() -> int:
        with transaction.atomic():
            told = alerts.sweep(operator, at=NOW)
            swept.set()
            for _ in range(400):
                if somebody_waits():
                    break
                time.sleep(0.05)
        return told

    def second() -> int:
        swept.wait(60)
        return alerts.sweep(operator, at=NOW)

    assert at_once(first, second) == [1, 0]
    assert OutboxEvent.objects.filter(kind=alerts.REACHED).count() == 1
