"""Windows that are compared while usage comes in: what is told agrees with the books in the end."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from billing import due
from metering import rollups, usage_windows
from metering.models import UsageCounter, UsageWindow
from subscriptions.models import ApiKey, Operator
from tests.at_once import at_once
from tests.factories import NOW, make_operator
from tests.test_usage_windows import counter, numbered, tell
from tests.usage import Gateway, assert_books_agree, bare

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.xdist_group("windows_races"),
]


@pytest.fixture
def operator() -> Operator:
    operator = make_operator()
    bare(operator)
    return operator


def test_counters_told_while_their_records_come_in_end_in_agreement(
    operator: Operator, gateway: Gateway
) -> None:
    made = [numbered(n) for n in range(1, 401)]
    body = counter(made, sequences=[{"first": 1, "last": 400}])

    def sending(part: int) -> None:
        for start in range(part * 100, part * 100 + 100, 20):
            gateway.charge(*made[start : start + 20])

    def telling() -> list[Any]:
        return [tell(gateway, body) for _ in range(10)]

    def folding() -> None:
        for _ in range(20):
            rollups.fold_all(at=NOW)
            usage_windows.compare_due(operator.pk, at=NOW)

    answers: list[Any] = at_once(*(partial(sending, n) for n in range(4)), telling, folding)
    told = answers[-2]

    for one in told:  # each answer agrees with itself, whatever came in meanwhile
        missing = sum(r["last"] - r["first"] + 1 for r in one["missing"]["ranges"])
        assert one["difference"]["requests"] == missing == 400 - one["charged"]["requests"]
    due.run(operator, at=NOW)
    window = UsageWindow.objects.get()
    assert (window.state, window.late_requests) == ("closed", 0)
    assert_books_agree()


def test_a_record_that_comes_while_its_window_is_closed_is_never_silent(
    operator: Operator, gateway: Gateway
) -> None:
    for nr in range(8):
        made = [numbered(n, id=f"{nr}-{n}", model=f"m-{nr}") for n in (1, 2)]
        gateway.charge(*made)
        told_of = UsageWindow.objects.first()
        charged = 2 * (nr + 1) + nr  # and one late record each time
        body = counter([], requests=charged, input_tokens=0, output_tokens=0)
        window_id = told_of.pk if told_of else int(tell(gateway, body)["id"])
        tell(gateway, body)
        key_id = ApiKey.objects.values_list("pk", flat=True).get()

        def closing(window_id: int = window_id, key_id: int = key_id) -> None:
            usage_windows.close(window_id, reason="tokens are not counted", key_id=key_id, at=NOW)

        def coming(nr: int = nr) -> None:
            gateway.charge(numbered(3, id=f"{nr}-late"))

        at_once(
            closing,
            coming,
            lambda: rollups.fold_all(at=NOW),
            lambda: usage_windows.compare_due(operator.pk, at=NOW),
        )
        due.run(operator, at=NOW)

        window = UsageWindow.objects.get()
        assert window.findings is not None
        assert window.findings["charged"]["requests"] == charged + 1
        # Closed with what was seen then, or opened again because of what came.
        if window.state == "closed":
            last = window.events.filter(kind="closed").latest("id")
            assert last.detail["difference"] == window.findings["difference"]


def test_one_window_told_by_eight_at_once_is_one(gateway: Gateway) -> None:
    made = [numbered(n) for n in range(1, 6)]
    gateway.charge(*made)

    answers = at_once(
        *(partial(tell, gateway, counter(made, requests=5 + n % 2)) for n in range(8))
    )

    assert len({one["id"] for one in answers}) == 1
    window = UsageWindow.objects.get()
    held = UsageCounter.objects.get(window=window, revision=window.revision)
    assert window.state == ("closed" if held.requests == 5 else "differs")
    revisions = list(UsageCounter.objects.order_by("revision").values_list("revision", flat=True))
    assert revisions == list(range(1, window.revision + 1))
