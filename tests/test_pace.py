"""Long jobs rest while gateways are busy."""

from __future__ import annotations

import pytest
from django.db import connection

from billing import pace


@pytest.mark.parametrize(
    ("batches_a_second", "worked", "rests"),
    [(0, 4, 0), (9.9, 4, 0), (10, 4, 2), (1000, 0.5, 0.25), (1000, 60, 5)],
)
def test_a_rest_is_half_of_the_work_before_it_while_gateways_are_busy(
    batches_a_second: float, worked: float, rests: float
) -> None:
    assert pace.rest(batches_a_second, worked) == rests


@pytest.mark.django_db
def test_how_busy_they_are_is_seen_by_the_numbers_of_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, slept = [100.0], list[float]()
    monkeypatch.setattr("billing.pace.time.monotonic", lambda: now[0])
    monkeypatch.setattr("billing.pace.time.sleep", slept.append)
    job = pace.Pace()
    for numbers, seconds in [(0, 4), (400, 4), (0, 1), (0, 4), (0, 1)]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(nextval('subscriptions_batch_id')) FROM generate_series(1, %s)",
                [numbers],
            )
        now[0] += seconds
        job.give_way()

    assert slept == [0, 2, 0.5, 0, 0]
