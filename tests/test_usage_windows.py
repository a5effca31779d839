"""The reconciliation centre: what a gateway counted, against what came of it here."""

from __future__ import annotations

import datetime as dt
import io
import json
import random
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction
from django.db.utils import DatabaseError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import due
from metering import comparing, rollups, usage_windows
from metering.models import UsageCounter, UsageWindow, WindowEvent
from subscriptions import clock
from subscriptions.models import ApiKey, Operator, Subscriber
from tests.factories import (
    NOW,
    client_for,
    make_gateway_key,
    make_key,
    make_operator,
    make_subscriber,
    set_clock,
)
from tests.usage import (
    DAY,
    HOUR,
    MINUTE,
    US,
    Gateway,
    assert_books_agree,
    assert_problem,
    bare,
    counted,
    get,
    post,
    record,
)

pytestmark = pytest.mark.django_db

COUNTERS = "/api/v1/usage-counters"
START = NOW - HOUR
TOTALS = (
    "requests",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    return bare(operator)


@pytest.fixture
def gateway(operator: Operator, subscriber: Subscriber) -> Gateway:
    return Gateway(operator)


def numbered(n: int, **said: Any) -> dict[str, Any]:
    """The gateway's record number `n`, a second after the one before it."""
    return record(
        **{
            "id": f"r-{n}",
            "occurred_at": START + n * dt.timedelta(seconds=1),
            "input_tokens": 100 + n,
            "attributes": {"sequence": n},
            **said,
        },
    )


def totals_of(records: list[dict[str, Any]]) -> dict[str, int]:
    """What a gateway that made these records counts."""
    return {
        "requests": len(records),
        **{name: sum(one.get(name, 0) for one in records) for name in TOTALS[1:]},
    }


def counter(records: list[dict[str, Any]], **said: Any) -> dict[str, Any]:
    """Totals of the hour before NOW."""
    full = {
        "window_start": START.isoformat(),
        "window_end": NOW.isoformat(),
        **totals_of(records),
        **said,
    }
    return {name: value for name, value in full.items() if value is not None}


def tell(gateway: Gateway, body: dict[str, Any]) -> Any:
    """The window that answers a counter."""
    answer = gateway.send(body, path=COUNTERS)
    assert answer.status_code == 200, answer.content
    return answer.json()


def ranges(window: Any) -> list[tuple[int, int]]:
    return [(one["first"], one["last"]) for one in window["missing"]["ranges"]]


def differences(window: Any) -> dict[str, int]:
    """Only those that are not 0."""
    return {name: many for name, many in window["difference"].items() if many}


# The whole way -----------------------------------------------------------------------------------


def test_what_a_gateway_lost_is_named_sent_again_and_the_window_closed(
    gateway: Gateway, api: APIClient
) -> None:
    made = [numbered(n) for n in range(1, 101)]
    lost = {4, 5, 6, 50, 99, 100}
    sequences = [{"first": 1, "last": 100}]
    gateway.charge(*(one for n, one in enumerate(made, 1) if n not in lost))

    told = tell(gateway, counter(made, sequences=sequences))

    assert told["state"] == "differs"
    assert differences(told) == {
        "requests": 6,
        "input_tokens": sum(100 + n for n in lost),
        "output_tokens": 6 * 20,
    }
    assert ranges(told) == [(4, 6), (50, 50), (99, 100)]
    assert told["missing"]["requests"] == 6
    assert told["resend"]["ranges"] == told["missing"]["ranges"]
    assert told["resend"]["whole_window"] is False
    [waiting] = get(gateway.client, "usage-counters?state=differs")["items"]
    assert waiting == told

    again = [
        made[n - 1]
        for one in waiting["resend"]["ranges"]
        for n in range(one["first"], one["last"] + 1)
    ]
    assert counted(gateway.charge(*again)) == (6, 0, 0)
    closed = tell(gateway, counter(made, sequences=sequences))

    assert (closed["id"], closed["revision"], closed["state"]) == (told["id"], 1, "closed")
    assert differences(closed) == {}
    assert ranges(closed) == []
    assert closed["resend"] is None
    assert closed["closed_reason"] is None
    assert get(gateway.client, "usage-counters?state=differs")["items"] == []
    history = get(api, f"usage-windows/{closed['id']}")
    assert [event["kind"] for event in history["events"]] == ["counted", "asked", "closed"]
    assert_books_agree()


def test_numbers_that_are_not_told_beforehand_name_what_lacks_between_those_that_came(
    gateway: Gateway,
) -> None:
    made = [numbered(n) for n in range(1, 21)]
    gateway.charge(*made[1:9], *made[12:19])

    told = tell(gateway, counter(made))

    assert ranges(told) == [(10, 12)]
    assert told["missing"] == {
        "requests": 5,
        "unnamed": 2,  # the first and the last: nothing tells their numbers
        "ranges": [{"source": "", "first": 10, "last": 12}],
        "more": False,
    }
    assert told["resend"]["whole_window"] is True
    gateway.charge(*made)
    assert tell(gateway, counter(made))["state"] == "closed"


def test_without_numbers_the_whole_window_is_asked_for(gateway: Gateway) -> None:
    made = [numbered(n, attributes=None) for n in range(1, 11)]
    gateway.charge(*made[:7])

    told = tell(gateway, counter(made))

    assert (told["state"], told["difference"]["requests"]) == ("differs", 3)
    assert (told["missing"]["requests"], told["missing"]["ranges"]) == (3, [])
    assert told["resend"]["whole_window"] is True
    answer = gateway.charge(*made)
    assert counted(answer) == (3, 7, 0)
    closed = tell(gateway, counter(made))
    assert (closed["state"], closed["duplicates"]) == ("closed", 7)


def test_a_window_holds_what_happened_in_it_whenever_it_was_stored(
    operator: Operator, gateway: Gateway
) -> None:
    inside = [record("a", occurred_at=START), record("b", occurred_at=NOW - US)]
    gateway.charge(inside[0], record("c", occurred_at=START - US), record("d", occurred_at=NOW))
    set_clock(operator, NOW + 3 * DAY)
    gateway.charge(inside[1])

    assert tell(gateway, counter(inside))["state"] == "closed"


def test_each_class_of_tokens_is_compared_that_the_gateway_tells(gateway: Gateway) -> None:
    made = [
        numbered(1, input_tokens=500, cached_input_tokens=300, cache_write_tokens=100),
        numbered(2, output_tokens=70, reasoning_tokens=50),
    ]
    gateway.charge(*made)
    body = counter(made)

    assert tell(gateway, body)["state"] == "closed"
    for name in TOTALS:
        told = tell(gateway, {**body, name: body[name] + 1})
        assert (told["state"], differences(told)) == ("differs", {name: 1})
    told = tell(gateway, {**body, "cached_input_tokens": None, "reasoning_tokens": None})
    assert told["state"] == "closed"
    assert told["difference"]["cached_input_tokens"] is None
    assert told["charged"]["cached_input_tokens"] == 300


def test_more_than_the_gateway_counted_is_a_difference_and_nothing_is_asked_for(
    gateway: Gateway,
) -> None:
    made = [numbered(n) for n in range(1, 4)]
    gateway.charge(*made)

    told = tell(gateway, counter(made[:2]))

    assert (told["state"], told["difference"]["requests"]) == ("differs", -1)
    assert told["missing"]["requests"] == 0
    assert told["resend"] is None


# Duplicates, quarantine, sources -----------------------------------------------------------------


def test_duplicates_are_counted_by_the_time_they_carry(gateway: Gateway) -> None:
    made = [numbered(n) for n in range(1, 6)]
    gateway.charge(*made, made[0])  # twice in one request
    gateway.charge(made[1])  # alone
    gateway.charge(*made, numbered(6))
    gateway.charge(numbered(2, occurred_at=START - MINUTE))  # a time outside of the window

    told = tell(gateway, counter([*made, numbered(6)]))

    assert (told["state"], told["duplicates"]) == ("closed", 1 + 1 + 5)


def test_what_waits_in_the_quarantine_is_not_missing_and_closes_once_it_is_charged(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    made = [numbered(n) for n in range(1, 6)]
    made[1]["subject"] = made[2]["subject"] = "user-s-2"
    gateway.charge(*made[:4])
    sequences = [{"first": 1, "last": 5}]

    told = tell(gateway, counter(made, sequences=sequences))

    assert told["difference"]["requests"] == 3
    assert (told["rejected"], told["quarantined"]) == (2, {"unknown_subject": 2})
    assert ranges(told) == [(5, 5)]
    assert (told["missing"]["unnamed"], told["resend"]["whole_window"]) == (0, False)

    make_subscriber(operator, "s-2")
    for item in get(api, "quarantine")["items"]:
        assert post(api, f"quarantine/{item['id']}/retry").json()["status"] == "charged"
    gateway.charge(made[4])
    closed = tell(gateway, counter(made, sequences=sequences))

    assert closed["state"] == "closed"
    assert (closed["rejected"], closed["quarantined"]) == (2, {})
    assert closed["settled"] == {"charged": 2}


def test_a_record_that_cannot_be_read_belongs_to_the_time_it_came(
    operator: Operator, gateway: Gateway
) -> None:
    bad = {"id": "x", "occurred_at": "yesterday", "attributes": {"sequence": 10**30}}
    gateway.charge(bad, {**bad, "attributes": 7}, numbered(1))
    set_clock(operator, NOW + MINUTE)

    told = tell(gateway, counter([numbered(1)], window_end=(NOW + MINUTE).isoformat()))

    assert (told["state"], told["quarantined"]) == ("closed", {"invalid_record": 2})


def test_a_conflict_is_rejected_and_lacks_nowhere(gateway: Gateway) -> None:
    made = [numbered(n, attributes=None) for n in range(1, 4)]
    gateway.charge(*made[:2])
    gateway.charge(numbered(1, input_tokens=7, attributes=None))

    told = tell(gateway, counter(made))

    assert told["quarantined"] == {"conflict": 1}
    assert told["missing"]["requests"] == 1


def test_a_window_is_of_all_sources_or_of_one(gateway: Gateway) -> None:
    def event(n: int) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "type": "tokens",
            "id": f"e-{n}",
            "source": "proxy-2",
            "subject": "user-s-1",
            "time": (START + n * MINUTE).isoformat(),
            "data": {"model": "m", "prompt_tokens": 5, "completion_tokens": 2},
        }

    native = [numbered(n) for n in range(1, 4)]
    gateway.charge(*native)
    for n in (1, 2):
        answer = gateway.send(event(n), "application/cloudevents+json", path="/api/v1/events")
        assert answer.status_code == 204
    gateway.send(event(1), "application/cloudevents+json", path="/api/v1/events")
    events = {
        **totals_of([]), "requests": 2, "input_tokens": 10, "output_tokens": 4
    }  # fmt: skip
    both = {name: events[name] + totals_of(native)[name] for name in TOTALS}

    everything = tell(gateway, counter([], **both))
    own = tell(gateway, counter([], **events, source="proxy-2"))
    plain = tell(gateway, counter(native, source=""))

    assert [one["state"] for one in (everything, own, plain)] == ["closed"] * 3
    assert len({one["id"] for one in (everything, own, plain)}) == 3
    assert [one["source"] for one in (everything, own, plain)] == [None, "proxy-2", ""]
    assert [one["duplicates"] for one in (everything, own, plain)] == [1, 1, 0]
    assert tell(gateway, counter([], **events, source="proxy-3"))["state"] == "differs"


def test_cloud_events_are_numbered_by_each_source_for_itself(gateway: Gateway) -> None:
    def event(source: str, sequence: Any) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "type": "tokens",
            "id": f"e-{sequence}",
            "source": source,
            "subject": "user-s-1",
            "time": START.isoformat(),
            "sequence": sequence,
            "data": {"model": "m", "prompt_tokens": 5, "completion_tokens": 2},
        }

    sent = [event("a", "0001"), event("a", 3), event("b", "2"), event("b", [9]), event("b", "x")]
    kind = "application/cloudevents-batch+json"
    assert gateway.send(sent, kind, path="/api/v1/events").status_code == 204

    told = tell(
        gateway,
        counter(
            [],
            requests=5,
            input_tokens=25,
            output_tokens=10,
            sequences=[
                {"source": "b", "first": 1, "last": 2},
                {"source": "a", "first": 1, "last": 3},
            ],
        ),
    )

    assert told["missing"]["ranges"] == [
        {"source": "a", "first": 2, "last": 2},
        {"source": "b", "first": 1, "last": 1},
    ]


def test_a_number_that_came_beside_its_window_is_named_and_found(gateway: Gateway) -> None:
    made = [numbered(n) for n in range(1, 6)]
    gateway.charge(*made[:4], numbered(5, occurred_at=NOW + MINUTE))

    told = tell(gateway, counter(made, sequences=[{"first": 1, "last": 5}]))

    assert (told["difference"]["requests"], told["outside"]) == (1, 1)
    assert ranges(told) == [(5, 5)]


def test_a_gateway_may_number_each_window_from_1(gateway: Gateway) -> None:
    def hour(n: int) -> list[dict[str, Any]]:
        return [
            numbered(k, id=f"{n}-{k}", occurred_at=START - n * HOUR + k * MINUTE)
            for k in range(1, 6)
        ]

    gateway.charge(*hour(0), *hour(1)[:2], *hour(2))

    told = tell(
        gateway,
        counter(
            hour(1),
            sequences=[{"first": 1, "last": 5}],
            window_start=(START - HOUR).isoformat(),
            window_end=START.isoformat(),
        ),
    )

    assert ranges(told) == [(3, 5)]


def test_numbers_that_came_for_the_window_before_do_not_lack_in_this_one(gateway: Gateway) -> None:
    made = [numbered(n) for n in (1, 3, 4, 6)]
    gateway.charge(*made[:3], numbered(2, occurred_at=START - MINUTE), numbered(9))

    told = tell(gateway, counter([*made, numbered(9), numbered(10)]))

    assert ranges(told) == [(5, 8)]


def test_numbers_may_be_text_and_what_is_none_is_no_number(gateway: Gateway) -> None:
    said = ["1", 2, "x", 4.5, None, {"a": 1}, "", -1, "8" * 40, 10**18 - 1]
    made = [numbered(n, attributes={"sequence": value}) for n, value in enumerate(said)]
    gateway.charge(*made)

    told = tell(
        gateway,
        counter(
            made, sequences=[{"first": 1, "last": 3}, {"first": 10**18 - 2, "last": 10**18 - 1}]
        ),
    )

    assert ranges(told) == [(3, 3), (10**18 - 2, 10**18 - 2)]
    assert told["state"] == "differs"


def test_of_very_many_gaps_the_first_thousand_are_named(gateway: Gateway) -> None:
    made = [numbered(n) for n in range(0, 2402, 2)]
    gateway.charge(*made)

    told = tell(gateway, counter(made, sequences=[{"first": 0, "last": 10**18 - 1}]))

    assert len(ranges(told)) == 1000
    assert ranges(told)[-1] == (1999, 1999)
    assert told["missing"]["more"] is True
    assert told["missing"]["requests"] == 10**18 - 1201


# Telling again, and later ------------------------------------------------------------------------


def test_telling_the_same_again_changes_nothing(gateway: Gateway, api: APIClient) -> None:
    made = [numbered(n) for n in range(1, 4)]
    gateway.charge(*made[:2])
    first = tell(gateway, counter(made))

    again = tell(gateway, counter(made))

    assert again == first
    history = get(api, f"usage-windows/{first['id']}")
    assert [one["revision"] for one in history["counters"]] == [1]
    assert [event["kind"] for event in history["events"]] == ["counted", "asked"]


def test_a_later_counter_takes_the_place_of_an_earlier_which_is_kept(
    gateway: Gateway, api: APIClient
) -> None:
    made = [numbered(n) for n in range(1, 4)]
    gateway.charge(*made)
    closed = tell(gateway, counter(made))
    more = tell(gateway, counter([*made, numbered(4)]))
    gateway.charge(numbered(4))
    last = tell(gateway, counter([*made, numbered(4)]))

    assert [one["state"] for one in (closed, more, last)] == ["closed", "differs", "closed"]
    assert {one["id"] for one in (closed, more, last)} == {closed["id"]}
    history = get(api, f"usage-windows/{closed['id']}")
    assert [(one["revision"], one["requests"]) for one in history["counters"]] == [(1, 3), (2, 4)]
    assert history["counted"]["requests"] == 4
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        UsageCounter.objects.filter(revision=1).update(requests=4)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        WindowEvent.objects.all().delete()


def test_usage_that_comes_after_a_window_was_closed_opens_it_again(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    made = [numbered(n) for n in range(1, 4)]
    gateway.charge(*made)
    closed = tell(gateway, counter(made))
    due.run(operator, at=NOW)
    assert get(api, f"usage-windows/{closed['id']}")["state"] == "closed"

    gateway.charge(numbered(4), record("elsewhere", occurred_at=NOW + US))
    due.run(operator, at=NOW)

    window = get(api, f"usage-windows/{closed['id']}")
    assert (window["state"], window["difference"]["requests"]) == ("differs", -1)
    assert (window["late_requests"], window["closed_at"]) == (1, None)
    assert [(event["kind"], event["detail"].get("requests")) for event in window["events"]] == [
        ("counted", None),
        ("closed", None),
        ("late", 1),
        ("reopened", None),
    ]
    assert [one["id"] for one in get(api, "usage-windows?state=differs")["items"]] == [closed["id"]]
    assert tell(gateway, counter([*made, numbered(4)]))["state"] == "closed"


def test_usage_of_another_time_or_gateway_leaves_a_closed_window_alone(
    operator: Operator, gateway: Gateway
) -> None:
    made = [numbered(n) for n in range(1, 4)]
    gateway.charge(*made)
    tell(gateway, counter(made))
    due.run(operator, at=NOW)
    before = UsageWindow.objects.get()

    Gateway(operator, name="other").charge(numbered(4))
    gateway.charge(record("later", occurred_at=NOW), record("before", occurred_at=START - HOUR))
    rollups.fold_all(at=NOW)

    # The batch reaches from before the window to after it: it is looked at, and holds nothing.
    assert UsageWindow.objects.get().touches == before.touches + 1
    due.run(operator, at=NOW)
    assert UsageWindow.objects.get().state == "closed"
    assert UsageWindow.objects.get().late_requests == 0


def test_usage_that_is_resent_is_compared_without_being_asked(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    made = [numbered(n) for n in range(1, 6)]
    gateway.charge(*made[:3])
    told = tell(gateway, counter(made))

    gateway.charge(*made[3:])
    assert get(api, f"usage-windows/{told['id']}")["state"] == "differs"
    answer = post(api, "test-clock", {"now": (NOW + MINUTE).isoformat()})

    assert answer.status_code == 200
    assert get(api, f"usage-windows/{told['id']}")["state"] == "closed"


# What the operator decides -----------------------------------------------------------------------


def test_an_operator_accepts_a_difference_with_a_reason(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    made = [numbered(n) for n in range(1, 6)]
    gateway.charge(*made[:3])
    told = tell(gateway, counter(made))
    path = f"usage-windows/{told['id']}"

    closed = post(api, f"{path}/close", {"reason": "its disk was lost"})

    assert closed.status_code == 200
    body = closed.json()
    assert (body["state"], body["closed_reason"]) == ("closed", "its disk was lost")
    assert body["difference"]["requests"] == 2
    assert body["resend"] is None
    assert (body["events"][-1]["kind"], body["events"][-1]["by"]) == ("closed", "crm")
    again = post(api, f"{path}/close", {"reason": "another"}).json()
    assert again == body
    for one in (tell(gateway, counter(made)), post(api, f"{path}/compare").json()):
        assert (one["state"], one["closed_reason"]) == ("closed", "its disk was lost")
    # Some of it is found after all: what was accepted is no longer the difference.
    gateway.charge(made[3])
    due.run(operator, at=NOW)
    window = get(api, path)
    assert (window["state"], window["late_requests"]) == ("differs", 1)
    gateway.charge(made[4])
    due.run(operator, at=NOW)
    assert get(api, path)["state"] == "closed"


def test_all_of_an_accepted_difference_may_come_late(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    made = [numbered(n) for n in range(1, 6)]
    gateway.charge(*made[:3])
    told = tell(gateway, counter(made))
    post(api, f"usage-windows/{told['id']}/close", {"reason": "gone"})

    gateway.charge(*made)
    due.run(operator, at=NOW)

    window = get(api, f"usage-windows/{told['id']}")
    assert (window["state"], window["late_requests"]) == ("closed", 2)
    assert differences(window) == {}


def test_an_operator_asks_for_a_resend_and_the_gateway_hears_of_it(
    gateway: Gateway, api: APIClient
) -> None:
    made = [numbered(n) for n in range(1, 4)]
    gateway.charge(*made)
    told = tell(gateway, counter(made, output_tokens=61))
    assert told["resend"] is None
    path = f"usage-windows/{told['id']}"

    asked = post(api, f"{path}/resend", {"reason": "tokens differ"})

    assert asked.status_code == 200
    assert asked.json()["events"][-1]["reason"] == "tokens differ"
    for one in (
        get(gateway.client, "usage-counters?state=differs")["items"][0],
        tell(gateway, counter(made, output_tokens=61)),
    ):
        assert one["resend"] == {
            "asked_at": "2026-06-10T04:00:00Z",
            "reason": "tokens differ",
            "whole_window": True,
            "ranges": [],
        }
    assert tell(gateway, counter(made))["resend"] is None
    assert_problem(post(api, f"{path}/resend", {"reason": "again"}), 409, "window_closed")


def test_a_decision_needs_a_reason(gateway: Gateway, api: APIClient) -> None:
    told = tell(gateway, counter([numbered(1)]))

    for door in ("close", "resend"):
        path = f"usage-windows/{told['id']}/{door}"
        for body in ({}, {"reason": ""}, {"reason": 5}, {"reason": "x" * 201}, {"reason": "a\0b"}):
            assert_problem(post(api, path, body), 422, "invalid")
        assert_problem(
            post(api, f"usage-windows/{10**30}/{door}", {"reason": "x"}), 404, "not_found"
        )


def test_a_window_that_was_not_compared_is_not_closed(
    gateway: Gateway, api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_windows, "compare", lambda *args, **options: None)
    told = tell(gateway, counter([numbered(1)]))

    assert (told["state"], told["charged"], told["compared_at"]) == ("open", None, None)
    path = f"usage-windows/{told['id']}"
    assert_problem(post(api, f"{path}/close", {"reason": "x"}), 409, "not_compared")
    assert_problem(post(api, f"{path}/resend", {"reason": "x"}), 409, "not_compared")


def test_what_takes_too_long_is_left_for_the_background(
    operator: Operator, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = comparing._FIND_SQL.replace("FROM totals,", "FROM pg_sleep(3), totals,")
    with monkeypatch.context() as patch:
        patch.setattr(comparing, "_FIND_SQL", slow)
        patch.setattr(usage_windows, "PATIENCE_SECONDS", 1)
        assert tell(gateway, counter([]))["state"] == "open"

    due.run(operator, at=NOW)

    assert get(gateway.client, "usage-counters")["items"][0]["state"] == "closed"


# Lists -------------------------------------------------------------------------------------------


def test_windows_are_listed_by_gateway_and_state(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    other = Gateway(operator, name="other")
    for n in range(3):
        start = START - n * HOUR
        tell(
            gateway,
            counter(
                [],
                requests=n % 2,
                window_start=start.isoformat(),
                window_end=(start + HOUR).isoformat(),
            ),
        )
    tell(other, counter([]))

    def listed(query: str) -> list[tuple[str, str]]:
        items = get(api, f"usage-windows{query}")["items"]
        return [(one["gateway"], one["state"]) for one in items]

    assert listed("") == [
        ("gateway", "closed"),
        ("gateway", "differs"),
        ("gateway", "closed"),
        ("other", "closed"),
    ]
    assert listed("?gateway=other") == [("other", "closed")]
    assert listed("?state=differs") == [("gateway", "differs")]
    assert len(get(gateway.client, "usage-counters")["items"]) == 3
    first = get(api, "usage-windows?limit=3")
    assert [one["gateway"] for one in get(api, first["next"])["items"]] == ["other"]
    own = get(gateway.client, "usage-counters?limit=2")
    assert len(get(gateway.client, own["next"])["items"]) == 1
    for path, client in (("usage-windows", api), ("usage-counters", gateway.client)):
        for query in ("state=lost", "limit=0", "cursor=x"):
            assert client.get(f"/api/v1/{path}?{query}").status_code == 400


def test_another_operator_or_gateway_sees_no_window_and_counts_none_of_its_records(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    stranger = make_operator("stranger")
    bare(stranger)
    theirs, crm = Gateway(stranger), client_for(make_key(stranger))
    beside = Gateway(operator, name="beside")
    gateway.charge(numbered(1))
    told = tell(gateway, counter([numbered(1), numbered(2)]))

    assert get(crm, "usage-windows")["items"] == []
    assert crm.get(f"/api/v1/usage-windows/{told['id']}").status_code == 404
    for door in ("compare", "resend", "close"):
        answer = post(crm, f"usage-windows/{told['id']}/{door}", {"reason": "x"})
        assert_problem(answer, 404, "not_found")
    for other in (theirs, beside):
        assert get(other.client, "usage-counters")["items"] == []
        assert tell(other, counter([]))["charged"]["requests"] == 0
    assert get(api, f"usage-windows/{told['id']}")["state"] == "differs"


def test_a_rotated_key_is_the_same_gateway_and_a_revoked_one_is_none(
    operator: Operator, gateway: Gateway
) -> None:
    made = [numbered(1)]
    told = tell(gateway, counter(made))
    rotated = Gateway(operator, key=make_gateway_key(operator))

    rotated.charge(*made)
    assert tell(rotated, counter(made))["id"] == told["id"]
    first = ApiKey.objects.filter(role="gateway").order_by("id").first()
    assert first is not None
    ApiKey.objects.filter(pk=first.pk).update(revoked_at=clock.wall())
    assert_problem(gateway.send(counter(made), path=COUNTERS), 401, "unauthorized")
    assert gateway.client.get(COUNTERS).status_code == 401


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ({"requests": -1}, "invalid"),
        ({"requests": 10**15 + 1}, "invalid"),
        ({"input_tokens": 10**400}, "invalid"),
        ({"output_tokens": "many"}, "invalid"),
        ({"output_tokens": 1.5}, "invalid"),
        ({"requests": True}, "invalid"),
        ({"requests": None}, "invalid"),
        ({"output_tokens": None}, "invalid"),
        ({"cached_input_tokens": 6}, "invalid"),
        ({"reasoning_tokens": 6}, "invalid"),
        ({"window_start": "2026-06-10T03:00:00"}, "invalid"),
        ({"window_start": "yesterday"}, "invalid"),
        ({"window_start": {}}, "invalid"),
        ({"window_start": None}, "invalid"),
        ({"source": "x" * 257}, "invalid"),
        ({"source": "a\0b"}, "invalid"),
        ({"sequences": [{"first": 2, "last": 1}]}, "invalid"),
        ({"sequences": [{"first": -1, "last": 1}]}, "invalid"),
        ({"sequences": [{"first": 0, "last": 10**18}]}, "invalid"),
        ({"sequences": [{"first": 1, "last": 5}, {"first": 5, "last": 9}]}, "invalid"),
        ({"sequences": [{"first": 1, "last": 5, "source": "b"}], "source": "a"}, "invalid"),
        ({"sequences": [{"first": n, "last": n} for n in range(1001)]}, "invalid"),
        ({"sequences": {"first": 1, "last": 5}}, "invalid"),
        ({"window_start": NOW.isoformat()}, "bad_window"),
        ({"window_start": (NOW + HOUR).isoformat()}, "bad_window"),
        ({"window_end": (NOW + 6 * MINUTE).isoformat()}, "bad_window"),
        ({"window_end": (NOW + DAY).isoformat()}, "bad_window"),
        ({"window_start": (NOW - 400 * DAY).isoformat()}, "bad_window"),
        ({"window_start": "0001-01-01T00:00:00Z"}, "bad_window"),
        (
            {
                "window_start": (NOW - 190 * DAY).isoformat(),
                "window_end": (NOW - 189 * DAY).isoformat(),
            },
            "bad_window",
        ),
        ({"window_end": "9999-12-31T23:59:59+00:00"}, "bad_window"),
    ],
)
def test_a_counter_that_makes_no_sense_is_refused(
    gateway: Gateway, said: dict[str, Any], cause: str
) -> None:
    body = counter([], requests=1, input_tokens=5, output_tokens=5)
    body.pop("cached_input_tokens", None)

    answer = gateway.send(
        {k: v for k, v in {**body, **said}.items() if v is not None}, path=COUNTERS
    )

    assert_problem(answer, 422, cause)
    assert not UsageWindow.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nothing",
        b'{"requests": NaN}',
        b'{"requests": 1e400}',
        b'{"requests": "\xff"}',
        b"[" * 100_000,
        b'{"requests":' + b'{"a":' * 5_000,
        b"null",
        b"[]",
        b'"text"',
    ],
)
def test_what_is_no_counter_at_all_is_400(gateway: Gateway, body: bytes) -> None:
    assert_problem(gateway.send(body, path=COUNTERS), 400, "malformed")


def test_a_window_may_end_as_far_ahead_as_clocks_differ_and_last_a_month(gateway: Gateway) -> None:
    for start, end in ((START, NOW + 5 * MINUTE), (NOW - 31 * DAY, NOW), (NOW - US, NOW)):
        body = counter([], window_start=start.isoformat(), window_end=end.isoformat())
        assert tell(gateway, body)["state"] == "closed"


# What is always true -----------------------------------------------------------------------------


def test_whatever_was_lost_repeated_and_reordered_exactly_the_lost_is_named(
    operator: Operator, gateway: Gateway
) -> None:
    """And once that is sent again there is no difference, and the window is closed."""
    hours = iter(range(10_000))

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        fates=st.lists(
            st.sampled_from(["sent", "lost", "twice", "refused"]), min_size=1, max_size=30
        ),
        first=st.integers(0, 10**18 - 40),
        batches=st.integers(1, 4),
        told=st.booleans(),
        order=st.randoms(use_true_random=False),
    )
    def check(fates: list[str], first: int, batches: int, told: bool, order: random.Random) -> None:
        start = NOW - 30 * DAY + 3 * next(hours) * MINUTE
        run = f"{start:%d%H%M}"
        made = [
            record(
                f"{run}-{n}",
                occurred_at=start + order.randrange(180) * dt.timedelta(seconds=1),
                input_tokens=n + 1,
                attributes={"sequence": first + n},
                subject=f"user-{run}" if fate == "refused" else "user-s-1",
            )
            for n, fate in enumerate(fates)
        ]
        sent = [
            one
            for one, fate in zip(made, fates, strict=True)
            for _ in range({"lost": 0, "twice": 2}.get(fate, 1))
        ]
        order.shuffle(sent)
        for nr in range(batches):
            if sent[nr::batches]:
                gateway.charge(*sent[nr::batches])
        body = counter(
            made,
            window_start=start.isoformat(),
            window_end=(start + 3 * MINUTE).isoformat(),
            sequences=[{"first": first, "last": first + len(made) - 1}] if told else None,
        )

        window = tell(gateway, body)

        charged = [one for one, f in zip(made, fates, strict=True) if f in ("sent", "twice")]
        assert window["charged"] == totals_of(charged)
        assert window["duplicates"] == fates.count("twice")
        assert sum(window["quarantined"].values()) == fates.count("refused")
        assert window["missing"]["requests"] == fates.count("lost")
        named = {
            n - first
            for one in window["missing"]["ranges"]
            for n in range(one["first"], one["last"] + 1)
        }
        lost = {n for n, fate in enumerate(fates) if fate == "lost"}
        assert named == lost if told else named <= lost
        assert (window["state"] == "closed") == (charged == made)

        make_subscriber(operator, f"x-{run}", subjects=(f"user-{run}",))
        resend = window["resend"] or {"whole_window": False}
        again = made if resend["whole_window"] else [made[n] for n in named]
        refused = [one for one, fate in zip(made, fates, strict=True) if fate == "refused"]
        if again or refused:
            gateway.charge(*again, *refused)
        last = tell(gateway, body)
        assert (last["state"], differences(last)) == ("closed", {})
        assert last["missing"]["requests"] == 0

    check()
    due.run(operator, at=NOW)
    assert not UsageWindow.objects.exclude(state="closed").exists()
    assert not UsageWindow.objects.filter(late_requests__gt=0).exists()
    assert_books_agree()


def test_retention_keeps_records_for_as_long_as_windows_are_compared() -> None:
    assert usage_windows.KEPT < due.RECORDS_KEPT


# The command -------------------------------------------------------------------------------------


def test_the_command_lists_windows_that_differ(operator: Operator, gateway: Gateway) -> None:
    made = [numbered(n) for n in range(1, 6)]
    gateway.charge(*made[:2], numbered(4, subject="nobody"))
    told = tell(gateway, counter(made, sequences=[{"first": 1, "last": 5}]))

    def said(*options: str) -> str:
        out = io.StringIO()
        call_command("usage_windows", *options, stdout=out)
        return out.getvalue()

    assert said() == (
        f"op gateway #{told['id']}  2026-06-10 03:00:00 to 2026-06-10 04:00:00 UTC  differs"
        "  requests +3, input_tokens +312, output_tokens +60  quarantined unknown_subject 1"
        "  missing 2: :3-3, :5-5\n"
    )
    assert json.loads(said("--json", "--operator", "op"))["missing"]["requests"] == 2
    assert (
        said("--operator", "other") == said("--gateway", "other") == said("--state", "open") == ""
    )
    gateway.charge(*made)
    rollups.fold_all(at=NOW)
    said("--compare")
    assert said() == ""
    assert "no difference" in said("--state", "all")
