"""What happens is told to the operator's systems: signed, in order, until it arrives."""

from __future__ import annotations

import base64
import datetime as dt
import os
import signal
import socket
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import hypothesis.extra.django
import pytest
from django.db import connection, transaction
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient
from standardwebhooks import Webhook, WebhookVerificationError

from subscriptions import clock, dispatching, outbox
from subscriptions.models import (
    Operator,
    OutboxEvent,
    Subscriber,
    WebhookDelivery,
    WebhookEndpoint,
)
from subscriptions.outbox import Happening
from subscriptions.webhooks import addresses, endpoints, queue, sending
from subscriptions.webhooks.calling import call
from tests.factories import (
    NOW,
    client_for,
    make_key,
    make_operator,
    make_subscriber,
    set_clock,
)
from tests.receiver import Received, Receiver, receiving
from tests.usage import DAY, HOUR, MINUTE, US, Gateway, assert_problem, get, post, record

WALL = dt.datetime.now(dt.UTC)


@pytest.fixture(autouse=True)
def _loopback_allowed() -> Iterator[None]:
    with override_settings(WEBHOOK_ALLOWED=["127.0.0.1/32"]):
        yield


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def listen(api: APIClient, url: str, **said: Any) -> Any:
    answer = post(api, "webhook-endpoints", {"url": url, **said})
    assert answer.status_code == 201, answer.content
    return answer.json()


def happen(subscriber: Subscriber, *keys: str, kind: str = "invoice.issued", at: Any = NOW) -> None:
    with transaction.atomic():
        outbox.tell(
            [
                Happening(subscriber.pk, kind, key, at + nr * US, {"n": key})
                for nr, key in enumerate(keys)
            ]
        )


def deliver(*, wall: dt.datetime | None = None) -> int:
    """All that workers would do now; answers how many calls were made."""
    wall = wall or dt.datetime.now(dt.UTC)
    while dispatching.dispatch(at=wall):
        pass
    return sending.send_due(now=lambda: wall, seconds=60)


def told(receiver: Receiver) -> list[str]:
    return [one.said["data"]["n"] for one in receiver.got]


# --- what is sent -------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_crossed_threshold_arrives_signed_and_in_order(
    api: APIClient, gateway: Gateway, subscriber: Subscriber, receiver: Receiver
) -> None:
    secret = listen(api, receiver.url)["secret"]

    gateway.charge(record(input_tokens=10_000_000, output_tokens=0))
    deliver()

    assert receiver.kinds() == ["bucket.threshold"] * 3 + ["bucket.exhausted"]
    for one in receiver.got:
        assert Webhook(secret).verify(one.raw.decode(), one.headers) == one.said
    assert [one.said["data"].get("percent") for one in receiver.got] == [50, 80, 100, None]
    first = receiver.got[0]
    bucket = get(api, "subscribers/s-1/balance?all=1")["buckets"][0]["id"]
    assert first.said == {
        "type": "bucket.threshold",
        "timestamp": "2026-06-10T04:00:00Z",
        "data": {
            "subscriber": "s-1",
            "bucket": bucket,
            "kind": "allowance",
            "percent": 50,
            "granted": "10000000.000",
            "used": "10000000.000",
        },
    }
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(first.raw.decode().replace("s-1", "s-2"), first.headers)
    assert deliver() == 0


@pytest.mark.django_db
def test_an_endpoint_hears_of_the_kinds_it_named_and_of_its_own_operator_only(
    api: APIClient, subscriber: Subscriber, receiver: Receiver
) -> None:
    listen(api, receiver.url, kinds=["invoice.paid"])
    theirs = make_subscriber(make_operator("theirs"))

    happen(subscriber, "a", "b")
    happen(subscriber, "c", kind="invoice.paid")
    happen(theirs, "d", kind="invoice.paid")
    deliver()

    assert told(receiver) == ["c"]
    assert not OutboxEvent.objects.filter(sent_at__isnull=True).exists()


@pytest.mark.django_db
def test_while_secrets_overlap_both_sign(
    api: APIClient, operator: Operator, subscriber: Subscriber, receiver: Receiver
) -> None:
    made = listen(api, receiver.url)
    rotated = post(api, f"webhook-endpoints/{made['id']}/rotate-secret", {"overlap_hours": 2})
    old, new = made["secret"], rotated.json()["secret"]

    happen(subscriber, "a")
    deliver()
    set_clock(operator, NOW + 2 * HOUR)
    happen(subscriber, "b")
    deliver()

    during, after = receiver.got
    for secret, one in ((old, during), (new, during), (new, after)):
        Webhook(secret).verify(one.raw.decode(), one.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(after.raw.decode(), after.headers)
    # Neither is in the database as it is, nor in any answer but the one that made it.
    shown = api.get(f"/api/v1/webhook-endpoints/{made['id']}").content.decode()
    row = str(WebhookEndpoint.objects.values().get())
    for secret in (old, new):
        assert secret not in shown
        assert secret not in row
        assert base64.b64encode(secret.encode()).decode() not in row


# --- order and failure --------------------------------------------------------------------------


@pytest.mark.django_db
def test_what_fails_holds_back_its_own_subscriber_only_and_comes_in_order(
    api: APIClient, operator: Operator, subscriber: Subscriber, receiver: Receiver
) -> None:
    listen(api, receiver.url)
    other = make_subscriber(operator, "s-2")
    bad = {"a-2"}
    receiver.answer = lambda received: 500 if received.said["data"]["n"] in bad else 200
    receiver.body = b"out of order\0" + b"x" * 10_000

    happen(subscriber, "a-1", "a-2", "a-3")
    happen(other, "b-1", "b-2")
    deliver()

    assert [n for n in told(receiver) if n[0] == "a"] == ["a-1", "a-2"]
    assert [n for n in told(receiver) if n[0] == "b"] == ["b-1", "b-2"]
    waiting = WebhookDelivery.objects.filter(state="waiting").order_by("id").first()
    assert waiting is not None
    shown = get(api, f"webhook-deliveries/{waiting.pk}")
    assert (shown["state"], shown["next_at"]) == ("waiting", "2026-06-10T04:00:05Z")
    [attempt] = shown["attempts"]
    assert (attempt["status"], attempt["error"]) == (500, "answered 500")
    assert attempt["answer"] == "out of order�" + "x" * 487

    # The same id, however often; the clock stands, so only its turn may come.
    assert deliver() == 0
    bad.clear()
    set_clock(operator, NOW + 5 * MINUTE)
    deliver()
    assert [n for n in told(receiver) if n[0] == "a"] == ["a-1", "a-2", "a-2", "a-3"]
    ids = [one.headers["webhook-id"] for one in receiver.got if one.said["data"]["n"] == "a-2"]
    assert len(set(ids)) == 1


@pytest.mark.django_db
def test_back_off_ends_after_three_days_and_the_endpoint_says_why(
    api: APIClient, operator: Operator, subscriber: Subscriber, receiver: Receiver
) -> None:
    endpoint = listen(api, receiver.url)["id"]
    receiver.answer = lambda received: 503
    happen(subscriber, "a", "b")

    waits = []
    while deliver():
        row = WebhookDelivery.objects.get(event_key="a")
        if row.state != "waiting":
            break
        paused = WebhookEndpoint.objects.get().paused_until or row.next_at
        waits.append(row.next_at - clock.now(operator))
        set_clock(operator, max(row.next_at, paused))

    assert told(receiver) == ["a"] * (len(waits) + 1)
    assert waits[: len(queue.BACK_OFF)] == list(queue.BACK_OFF)
    assert operator.clock_at == NOW + 3 * DAY
    shown = get(api, f"webhook-endpoints/{endpoint}")
    assert shown["state"] == "disabled"
    assert "since 2026-06-10T04:00:00+00:00: answered 503" in shown["disabled_reason"]

    # Nothing is sent and nothing kept; then it goes on, and what was missed is replayed.
    happen(subscriber, "c", at=NOW + 3 * DAY)
    assert deliver() == 0
    receiver.answer, receiver.got = lambda received: 200, []
    assert post(api, f"webhook-endpoints/{endpoint}/enable").json()["state"] == "enabled"
    deliver()
    assert told(receiver) == ["b"]
    span = {"since": NOW.isoformat(), "until": (NOW + 4 * DAY).isoformat()}
    replay = post(api, f"webhook-endpoints/{endpoint}/replay", span)
    assert replay.json() == {"again": 1, "made": 1}
    deliver()
    assert told(receiver) == ["b", "a", "c"]
    every = post(api, f"webhook-endpoints/{endpoint}/replay", {**span, "delivered_too": True})
    assert every.json() == {"again": 3, "made": 0}
    deliver()
    assert told(receiver) == ["b", "a", "c", "a", "b", "c"]


@pytest.mark.django_db
def test_a_dead_endpoint_is_called_rarely_and_holds_up_no_other(
    api: APIClient, operator: Operator, receiver: Receiver
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        listen(api, dead)
        listen(api, receiver.url)
        for nr in range(20):
            happen(make_subscriber(operator, f"s-{nr}"), f"n-{nr}")
        deliver()

    assert len(receiver.got) == 20
    endpoint = WebhookEndpoint.objects.get(url=dead)
    assert endpoint.failures <= endpoints.BAD_LUCK + sending.LINES_OF_ONE
    assert endpoint.paused_until is not None
    assert get(api, f"webhook-endpoints/{endpoint.pk}")["failing_since"] == "2026-06-10T04:00:00Z"


@pytest.mark.django_db
def test_one_who_is_gone_is_sent_nothing_more(
    api: APIClient, subscriber: Subscriber, receiver: Receiver
) -> None:
    endpoint = listen(api, receiver.url)["id"]
    receiver.answer = lambda received: 410
    happen(subscriber, "a")
    deliver()

    shown = get(api, f"webhook-endpoints/{endpoint}")
    assert (shown["state"], shown["disabled_reason"]) == (
        "disabled",
        "the endpoint answered 410 Gone",
    )
    assert_problem(post(api, f"webhook-endpoints/{endpoint}/test"), 409, "disabled")


@pytest.mark.django_db(transaction=True)
def test_killed_between_the_call_and_its_mark_it_is_sent_again_under_the_same_id(
    api: APIClient, subscriber: Subscriber, receiver: Receiver
) -> None:
    listen(api, receiver.url)
    happen(subscriber, "a", "b")
    while dispatching.dispatch(at=WALL):
        pass

    connection.close()
    child = os.fork()
    if child == 0:
        # The worker dies when the receiver has the event and nobody knows it.
        queue.ended = lambda answers: os.kill(os.getpid(), signal.SIGKILL)
        try:
            sending.send_due(now=lambda: WALL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert told(receiver) == ["a"]
    while not deliver():
        pass  # the server notices the dead worker's connection in its own time

    assert told(receiver) == ["a", "a", "b"]
    first, again, _ = (one.headers["webhook-id"] for one in receiver.got)
    assert first == again


class OrderTests(hypothesis.extra.django.TestCase):
    @settings(max_examples=8)
    @given(
        events=st.lists(st.integers(0, 2), min_size=1, max_size=12),
        fates=st.lists(st.booleans(), max_size=30),
        turns=st.lists(st.integers(1, 4), max_size=4),
    )
    def test_each_event_arrives_once_acknowledged_and_in_its_subscribers_order(
        self, events: list[int], fates: list[bool], turns: list[int]
    ) -> None:
        operator = make_operator(f"op-{Operator.objects.count()}")
        api = client_for(make_key(operator))
        people = [make_subscriber(operator, f"s-{nr}") for nr in range(3)]
        good: dict[str, list[int]] = defaultdict(list)
        came: dict[str, list[int]] = defaultdict(list)
        luck = iter(fates)

        def answer(received: Received) -> int:
            who, n = received.said["data"]["subscriber"], int(received.said["data"]["n"])
            well = next(luck, True)
            came[who].append(n)
            if well:
                good[who].append(n)
            return 200 if well else 500

        with override_settings(WEBHOOK_ALLOWED=["127.0.0.1/32"]), receiving() as receiver:
            receiver.answer = answer
            listen(api, receiver.url)
            left = list(enumerate(events))
            for turn in [*turns, len(left)]:
                for n, who in left[:turn]:
                    happen(people[who], str(n), at=NOW + n * US)
                left = left[turn:]
                deliver()
                set_clock(operator, clock.now(operator) + HOUR)
            while WebhookDelivery.objects.filter(state="waiting").exists():
                deliver()
                set_clock(operator, clock.now(operator) + HOUR)

        for name in [*came]:
            assert good[name] == sorted(set(came[name]))
            assert came[name] == sorted(came[name])
        assert sorted(n for each in good.values() for n in each) == list(range(len(events)))


# --- where it may go ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://example.com:22/",
        "https://user@example.com/",
        "https://user:pass@example.com/",
        "https://example.com/#part",
        "https://example.com/a b",
        "https://bücher.example/",
        "ftp://example.com/",
        "https://",
        "https://example.com:x/",
        "https://[::1/",
        "nothing",
        "https://127.0.0.2/",
        "https://127.2/",
        "https://2130706434/",
        "https://0x7f.2/",
        "https://0.0.0.0/",
        "https://10.1.2.3/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://100.100.100.200/",
        "https://169.254.169.254/latest/meta-data",
        "https://168.63.129.16/",
        "https://192.0.0.192/",
        "https://224.0.0.1/",
        "https://239.1.1.1/",
        "https://255.255.255.255/",
        "https://240.0.0.1/",
        "https://[::]/",
        "https://[::1]/",
        "https://[fc00::1]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1]/",
        "https://[ff02::1]/",
        "https://[ff0e::1]/",
        "https://[::ffff:127.0.0.2]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[2001:0:7f00:1::]/",
    ],
)
def test_an_address_that_is_not_public_is_refused(url: str) -> None:
    with pytest.raises(addresses.Forbidden):
        addresses.read(url)


@pytest.mark.parametrize(
    "url",
    ["https://93.184.215.14/", "https://[2606:2800:21f::1]:8443/x?y=z", "https://example.com"],
)
def test_a_public_address_is_allowed(url: str) -> None:
    assert not addresses.read(url).trusted


def answers_to(monkeypatch: pytest.MonkeyPatch, *turns: list[str]) -> list[str]:
    """Let names have these addresses, at each look-up the next; answers who was asked for."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if not host.endswith(".example"):
            return real(host, port, *args, **kwargs)
        found = turns[min(len(asked), len(turns) - 1)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.mark.parametrize(
    "found", [["10.0.0.1"], ["127.0.0.2"], ["93.184.215.14", "192.168.0.1"], ["169.254.169.254"]]
)
def test_a_name_of_a_private_address_is_not_called(
    monkeypatch: pytest.MonkeyPatch, found: list[str]
) -> None:
    answers_to(monkeypatch, found)

    answer = call("https://hooks.example/", {}, b"{}")

    assert (answer.status, answer.error) == (
        None,
        "hooks.example is at an address that is not public",
    )


def test_a_name_is_looked_up_once_and_called_where_it_was_checked(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    asked = answers_to(monkeypatch, ["127.0.0.1"], ["127.0.0.3"])
    with override_settings(WEBHOOK_ALLOWED=["hooks.example"]):
        url = f"http://hooks.example:{receiver.port}/hook"
        answer = call(url, {}, b"{}")

    assert (answer.status, asked) == (204, ["hooks.example"])
    # It was the host that was asked for, at the address that was checked.
    assert receiver.got[0].headers["host"] == f"hooks.example:{receiver.port}"


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    receiver.answer = lambda received: 302

    answer = call(receiver.url, {}, b"{}")

    assert (answer.status, answer.error, len(receiver.got)) == (302, "answered 302", 1)


def test_who_answers_byte_by_byte_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = call(f"http://127.0.0.1:{server.getsockname()[1]}/", {}, b"{}", seconds=0.2)

    assert answer.status is None
    assert answer.error


@pytest.mark.parametrize("failure", ["nobody.invalid", "a" * 64 + ".example"])
def test_a_name_that_is_none_is_an_answer_too(failure: str) -> None:
    answer = call(f"https://{failure}/", {}, b"{}")

    assert (answer.status, bool(answer.error)) == (None, True)


# --- doors --------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_test_event_arrives_and_can_be_sent_again(api: APIClient, receiver: Receiver) -> None:
    endpoint = listen(api, receiver.url, kinds=["invoice.paid"])["id"]

    sent = post(api, f"webhook-endpoints/{endpoint}/test").json()
    path = f"webhook-deliveries/{sent['id']}"
    assert_problem(post(api, f"{path}/replay"), 409, "still_waiting")
    deliver()
    assert get(api, path)["state"] == "delivered"
    assert post(api, f"{path}/replay").json()["state"] == "waiting"
    deliver()

    assert receiver.kinds() == ["webhook.test"] * 2
    assert {one.headers["webhook-id"] for one in receiver.got} == {sent["webhook_id"]}
    [listed] = get(api, f"webhook-endpoints/{endpoint}/deliveries?state=delivered")["items"]
    assert len(listed["attempts"]) == 2


@pytest.mark.django_db
def test_an_endpoint_is_changed_disabled_and_deleted(
    api: APIClient, subscriber: Subscriber, receiver: Receiver
) -> None:
    endpoint = listen(api, receiver.url)["id"]
    path = f"/api/v1/webhook-endpoints/{endpoint}"

    changed = api.patch(path, {"kinds": ["invoice.paid"], "description": "CRM"}, format="json")
    assert (changed.json()["kinds"], changed.json()["description"]) == (["invoice.paid"], "CRM")
    assert_problem(
        api.patch(path, {"url": "https://10.0.0.1/"}, format="json"), 422, "forbidden_address"
    )
    disabled = post(api, f"webhook-endpoints/{endpoint}/disable", {"reason": "moving"}).json()
    assert (disabled["state"], disabled["disabled_reason"]) == ("disabled", "moving")
    post(api, f"webhook-endpoints/{endpoint}/enable")
    happen(subscriber, "a", kind="invoice.paid")
    dispatching.dispatch(at=WALL)
    assert api.delete(path).status_code == 204

    assert deliver() == 0
    assert get(api, "webhook-endpoints")["items"] == []
    assert_problem(api.get(path), 404, "not_found")
    operator = subscriber.operator
    assert queue.forget(operator, before=NOW - DAY) == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ({}, "invalid"),
        ({"url": 5}, "invalid"),
        ({"url": "https://example.com", "kinds": ["no.such"]}, "invalid"),
        ({"url": "https://example.com", "kinds": "invoice.paid"}, "invalid"),
        ({"url": "https://localhost:8443/\0"}, "invalid"),
        ({"url": "http://example.com"}, "forbidden_address"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(api: APIClient, body: Any, cause: str) -> None:
    assert_problem(post(api, "webhook-endpoints", body), 422, cause)


@pytest.mark.django_db
def test_what_was_sent_long_ago_is_forgotten(
    api: APIClient, operator: Operator, subscriber: Subscriber, receiver: Receiver
) -> None:
    listen(api, receiver.url)
    happen(subscriber, "a")
    deliver()
    happen(subscriber, "b", at=NOW + DAY)

    assert outbox.forget(operator.pk, before=NOW + 2 * DAY, limit=10) == 1
    assert queue.forget(operator, before=NOW) == 0
    assert queue.forget(operator, before=NOW + US) == 1
    assert list(OutboxEvent.objects.values_list("key", flat=True)) == ["b"]
