"""What happens is told to its subscriber: once, in its language, when it wants to hear."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import hypothesis.extra.django
import pytest
from django.core import mail
from django.db import transaction
from django.test import Client, override_settings
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from subscriptions import dispatching, expiring, lifecycle, outbox
from subscriptions.models import (
    Channel,
    Notice,
    NoticePolicy,
    NoticePreference,
    Operator,
    Subscriber,
)
from subscriptions.notices import policies, queue, sending, sms, wording
from subscriptions.notices.kinds import KINDS, REQUIRED
from subscriptions.outbox import Happening
from tests.factories import (
    NOW,
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
)
from tests.receiver import receiving
from tests.usage import DAY, HOUR, MINUTE, Gateway, assert_problem, get, post, put, record

pytestmark = pytest.mark.django_db

HTTP = "subscriptions.notices.sms.Http"


def reach(api: APIClient, external_id: str = "s-1", **said: Any) -> None:
    """Give a subscriber addresses; a value of None leaves one out."""
    said = {"email": "one@example.com", "msisdn": "13800000001", **said}
    answer = put(api, f"subscribers/{external_id}", {k: v for k, v in said.items() if v})
    assert answer.status_code in (200, 201), answer.content


def happen(subscriber: Subscriber, kind: str, *, key: str = "k", at: Any = NOW) -> None:
    said = {"percent": 50, "kind": "allowance", "granted": 2000, "used": 1000, "frozen": False}
    said |= {"until": NOW.isoformat(), "price_per_million": MONEY, "units": "1.000"}
    with transaction.atomic():
        outbox.tell([Happening(subscriber.pk, kind, key, at, said)])


def notify() -> Counter[str]:
    """All that workers would do now; answers how many went out by each channel."""
    while dispatching.dispatch(at=NOW):
        pass
    return Counter(
        {
            str(channel): sending.send_due(channel, now=lambda: NOW, seconds=60)
            for channel in (Channel.EMAIL, Channel.SMS)
        }
    )


def states(channel: str = "sms") -> list[str]:
    rows = Notice.objects.filter(channel=channel).order_by("id")
    return [row.state for row in rows]


def test_a_crossed_threshold_is_told_once_by_each_channel(
    api: APIClient, gateway: Gateway, subscriber: Subscriber, tmp_path: Path
) -> None:
    reach(api)
    with override_settings(
        SMS_BACKEND="subscriptions.notices.sms.File", SMS_FILE=str(tmp_path / "sms" / "out.txt")
    ):
        for name in ("a", "b"):
            gateway.charge(record(name, input_tokens=4_200_000, output_tokens=0))
            notify()
            notify()

    sent = (tmp_path / "sms" / "out.txt").read_text().splitlines()
    texts = [
        "您的套餐额度已用 50%：已用 840 万，共 1,000 万词元。",
        "您的套餐额度已用 80%：已用 840 万，共 1,000 万词元。",
    ]
    assert [line.split("\t")[::2] for line in sent] == [["13800000001", text] for text in texts]
    assert [one.subject for one in mail.outbox] == ["词元已用 50%", "词元已用 80%"]
    assert all(text in one.body for text, one in zip(texts, mail.outbox, strict=True))
    items = get(api, "subscribers/s-1/notices")["items"]
    assert [(one["channel"], one["state"]) for one in items] == [
        ("email", "sent"),
        ("sms", "sent"),
    ] * 2
    # What is kept of it is no address.
    assert "example.com" not in str(Notice.objects.values())


def test_a_subscriber_reads_its_own_language(api: APIClient, subscriber: Subscriber) -> None:
    reach(api, language="en", msisdn=None)
    assert get(api, "subscribers/s-1")["language"] == "en"
    assert_problem(put(api, "subscribers/s-1", {"language": "fr"}), 422, "invalid")

    happen(subscriber, "subscription.suspended")
    notify()

    [one] = mail.outbox
    assert one.subject == "Your service is suspended"
    assert "List-Unsubscribe" not in one.extra_headers


MONEY = {"amount": "9.90", "currency": "CNY"}
SAID = {
    **dict.fromkeys(("gross", "mean", "amount_due", "price", "price_per_million"), MONEY),
    **dict.fromkeys(("until", "due_at", "expires_at", "period_start"), "2026-06-30T16:00:00+00:00"),
    "percent": 80,
    "kind": "gift",
    "granted": 2000,
    "used": 1600,
    "remaining": "0.400",
    "units": "400.000",
    "invoice": "CT-1",
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_words_in_both_languages(operator: Operator, kind: str) -> None:
    for language in Subscriber.Language.values:
        words = wording.say(kind, SAID, language=language, operator=operator)
        assert words.subject
        assert words.short
        assert "{" not in words.body


def test_what_overage_costs_is_told_in_the_operators_zone_as_people_read_it(
    operator: Operator,
) -> None:
    said = {
        "until": "2026-06-30T16:00:00+00:00",
        "block": {"units": "400000.000", "price": {"amount": "1.00", "currency": "CNY"}},
        "cap": {"amount": "20.00", "currency": "CNY"},
    }

    short = wording.say("overage.started", said, language="zh-hans", operator=operator).short

    assert short == (
        "您的词元已用完，此后的用量另行计费：每 40 万词元 1.00 元，最多 20.00 元。"
        "此价格适用至 2026年7月1日 00:00。"
    )


# --- what they want -----------------------------------------------------------------------------


def test_what_was_declined_is_not_told_and_what_is_required_cannot_be(
    api: APIClient, subscriber: Subscriber
) -> None:
    reach(api)
    path = "subscribers/s-1/notice-preferences"
    no = {"kind": "bucket.threshold", "channel": "sms", "wanted": False}

    shown = put(api, path, {"items": [no]}).json()["items"]
    again = put(api, path, {"items": [no]}).json()["items"]
    for kind in REQUIRED:
        refused = put(api, path, {"items": [no, {**no, "kind": kind}]})
        assert_problem(refused, 422, "required_notice")
    happen(subscriber, "bucket.threshold", key="a")
    happen(subscriber, "overage.started", key="b")
    went = notify()

    assert shown == again == get(api, path)["items"]
    told = {(one["kind"], one["channel"]): one for one in shown}
    assert told["bucket.threshold", "sms"] == {
        **no,
        "required": False,
        "changed_at": "2026-06-10T04:00:00Z",
    }
    assert told["bucket.threshold", "email"]["wanted"]
    assert told["overage.started", "sms"]["required"]
    assert went == {"email": 2, "sms": 1}
    assert states() == ["dropped", "sent"]
    # All that was said is kept.
    assert put(api, path, {"items": [{**no, "wanted": True}]}).status_code == 200
    assert list(NoticePreference.objects.order_by("nr").values_list("nr", "wanted")) == [
        (1, False),
        (2, True),
    ]


def test_a_link_in_the_mail_declines_by_a_post_only(api: APIClient, subscriber: Subscriber) -> None:
    reach(api, msisdn=None)
    happen(subscriber, "bucket.threshold", key="a")
    notify()

    [one] = mail.outbox
    headers = one.extra_headers
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    found = re.fullmatch(r"<http://127.0.0.1:8000(/\S+)>", headers["List-Unsubscribe"])
    assert found
    assert found[1] in one.body
    people = Client(enforce_csrf_checks=True)
    assert people.get(found[1]).status_code == 200
    assert not NoticePreference.objects.exists()
    assert people.post(found[1], {"List-Unsubscribe": "One-Click"}).status_code == 200
    happen(subscriber, "bucket.threshold", key="b")
    assert notify()["email"] == 0
    assert NoticePreference.objects.get().by == "link"
    for forged in (found[1][:-1] + "x", found[1].replace("decline/", "decline/x")):
        assert people.post(forged).status_code == 404


@pytest.mark.parametrize(
    ("at", "until"),
    [
        (local(2026, 6, 10, 20, 59), None),
        (local(2026, 6, 10, 21), local(2026, 6, 11, 8)),
        (local(2026, 6, 11, 7, 59), local(2026, 6, 11, 8)),
        (local(2026, 6, 11, 8), None),
    ],
)
def test_at_night_only_what_is_required_is_texted(
    api: APIClient,
    operator: Operator,
    subscriber: Subscriber,
    at: dt.datetime,
    until: dt.datetime | None,
) -> None:
    reach(api)
    set_clock(operator, at)
    happen(subscriber, "bucket.threshold", key="a", at=at)
    happen(subscriber, "overage.started", key="b", at=at)

    assert notify() == {"email": 2, "sms": 2 if until is None else 1}
    if until is not None:
        set_clock(operator, until)
        assert notify()["sms"] == 1
    assert states() == ["sent", "sent"]


def test_a_quiet_time_within_a_day_or_none_at_all() -> None:
    zone = ZoneInfo("Asia/Shanghai")
    policy = NoticePolicy(quiet_from=dt.time(12), quiet_until=dt.time(14))
    assert policies.loud_again(policy, zone, NOW) == local(2026, 6, 10, 14)
    policy.quiet_until = dt.time(12)
    assert policies.loud_again(policy, zone, NOW) == NOW


# --- what fails ---------------------------------------------------------------------------------


def test_what_fails_is_tried_again_later_and_says_why_at_last(
    api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    reach(api, email=None)
    happen(subscriber, "overage.started")
    waits = []
    with (
        receiving() as provider,
        override_settings(SMS_BACKEND=HTTP, SMS_URL=provider.url, SMS_TOKEN="t"),
    ):
        provider.answer = lambda received: 500
        at = NOW
        while True:
            notify()
            if states() != ["waiting"]:
                break
            row = Notice.objects.get()
            waits.append(row.next_at - at)
            at = row.next_at
            set_clock(operator, at)

    assert waits == list(queue.BACK_OFF)
    assert len(provider.got) == len(queue.BACK_OFF) + 1
    assert len({one.headers["idempotency-key"] for one in provider.got}) == 1
    first = provider.got[0]
    assert (first.said["to"], first.headers["authorization"]) == ("13800000001", "Bearer t")
    [shown] = get(api, "subscribers/s-1/notices")["items"]
    assert shown["state"] == "failed"
    assert "500" in shown["reason"]


def test_a_backend_that_fails_for_all_is_not_asked_for_all(
    api: APIClient, operator: Operator
) -> None:
    for nr in range(6):
        reach(api, f"s-{nr}", email=None)
        happen(Subscriber.objects.get(external_id=f"s-{nr}"), "overage.started")
    with receiving() as provider, override_settings(SMS_BACKEND=HTTP, SMS_URL=provider.url):
        provider.answer = lambda received: 500
        notify()
        assert len(provider.got) == 3
        provider.answer = lambda received: 200
        assert notify()["sms"] == 3
        set_clock(operator, NOW + MINUTE)
        assert notify()["sms"] == 3


class OnceTests(hypothesis.extra.django.TestCase):
    @settings(max_examples=8)
    @given(
        events=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=12),
        # One notice may meet all of it: once more, and it has failed for good.
        luck=st.lists(st.booleans(), max_size=len(queue.BACK_OFF)),
    )
    @example(events=[(0, 0)], luck=[False] * len(queue.BACK_OFF))
    def test_each_event_is_told_exactly_once_by_each_channel(
        self, events: list[tuple[int, int]], luck: list[bool]
    ) -> None:
        mail.outbox.clear()
        operator = make_operator(f"op-{Operator.objects.count()}")
        api = client_for(make_key(operator))
        for nr in range(2):
            reach(api, f"s-{nr}", email=f"s{nr}@example.com")
        people = list(Subscriber.objects.filter(operator=operator).order_by("external_id"))
        texted: Counter[str] = Counter()
        fates = iter(luck)

        class Phones:
            def send(self, number: str, text: str, key: str) -> None:
                if not next(fates, True):
                    raise ConnectionError("not now")
                texted[key] += 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sms, "backend", Phones)
            for step, (who, n) in enumerate(events):
                happen(people[who], "overage.started", key=f"{n}")
                if step % 3 == 0:
                    notify()
            notify()
            while Notice.objects.filter(state="waiting").exists():
                notify()
                operator.refresh_from_db()
                set_clock(operator, (operator.clock_at or NOW) + HOUR)

        distinct = len(set(events))
        assert (len(texted), set(texted.values())) == (distinct, {1})
        assert len({one.extra_headers["Message-ID"] for one in mail.outbox}) == distinct
        assert len(mail.outbox) == distinct


# --- what is told -------------------------------------------------------------------------------


def test_what_expires_soon_is_told_once(
    api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    reach(api, msisdn=None)
    for days, units in ((2, 5_000_000), (10, 7_000_000)):
        until = NOW + days * DAY
        lifecycle.give(subscriber.pk, units=units, valid_until=until, reason="x", at=NOW)

    assert expiring.sweep(operator, at=NOW) == 1
    assert expiring.sweep(operator, at=NOW + HOUR) == 0
    assert expiring.sweep(operator, at=NOW + 8 * DAY) == 1
    assert expiring.sweep(operator, at=NOW + 9 * DAY) == 0
    notify()

    assert [one.subject for one in mail.outbox] == ["词元即将到期"] * 2
    assert "还剩 5,000词元，将于 2026年6月12日 12:00 到期" in mail.outbox[0].body


def test_a_bill_out_of_all_proportion_is_told_at_once() -> None:
    operator = make_operator("ct", at=local(2026, 3, 1))
    api = client_for(make_key(operator))
    plan = make_plan(operator, "meter", on_exhaustion="meter", price_per_million="10")
    used = {"s-1": 14_000_000, "s-2": 13_900_000}
    for name in used:
        subscribe(make_subscriber(operator, name), plan)
        reach(api, name, msisdn=None)
    assert post(api, "test-clock", {"now": NOW.isoformat()}).status_code == 200
    gateway = Gateway(operator)
    for name, tokens in used.items():
        gateway.charge(record(name, subject=f"user-{name}", input_tokens=tokens, output_tokens=0))
    assert post(api, "test-clock", {"now": local(2026, 7, 3).isoformat()}).status_code == 200
    mail.outbox.clear()
    notify()

    [one] = [one for one in mail.outbox if one.subject == "账单异常提醒"]
    assert "为 49.90 元，超过前三个月平均 9.90 元 的五倍" in one.body


# --- doors --------------------------------------------------------------------------------------


def test_a_policy_is_settled(api: APIClient) -> None:
    default = {"quiet_from": "21:00", "quiet_until": "08:00", "expiry_days": 3}
    assert get(api, "notice-policy") == default
    settled = {"quiet_from": "22:30", "quiet_until": "07:00", "expiry_days": 7}
    assert put(api, "notice-policy", settled).json() == settled == get(api, "notice-policy")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("notice-policy", {}),
        ("notice-policy", {"quiet_from": "25:00", "quiet_until": "08:00", "expiry_days": 3}),
        ("notice-policy", {"quiet_from": 21, "quiet_until": "08:00", "expiry_days": 3}),
        ("notice-policy", {"quiet_from": "21:00", "quiet_until": "08:00", "expiry_days": "3"}),
        ("subscribers/s-1/notice-preferences", {}),
        ("subscribers/s-1/notice-preferences", {"items": [{"kind": "x", "channel": "sms"}]}),
        (
            "subscribers/s-1/notice-preferences",
            {"items": [{"kind": "bucket.threshold", "channel": "fax", "wanted": False}]},
        ),
    ],
)
def test_what_cannot_be_is_refused(
    api: APIClient, subscriber: Subscriber, path: str, body: Any
) -> None:
    assert_problem(put(api, path, body), 422, "invalid")
