"""The console's pages of work: what each role may do on them, and that the domain does it."""

from __future__ import annotations

import copy
import csv
import datetime as dt
import io
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import openpyxl
import pytest
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import resolve, reverse
from rest_framework.test import APIClient

from billing import complaints, dunning, figures, transfers
from billing.anomalies import cases
from billing.anomalies.finding import Finding
from billing.console import complaints as queue_of_complaints
from billing.interchange import exports, imports
from billing.interchange.columns import BY_KIND, EXPORTED
from billing.models import (
    AnomalyCase,
    Approval,
    Complaint,
    ExportJob,
    Handover,
    ImportJob,
    ProviderAccount,
    ProviderEvent,
    VoucherBatch,
)
from billing.transfers import Pays, Told
from billing.vouchers import keeping as vouchers
from metering import quarantine, usage_windows
from metering.models import QuarantinedRecord, UsageWindow
from subscriptions import dispatching, keys, lifecycle, outbox
from subscriptions.console.site import site
from subscriptions.models import (
    ApiKey,
    AuditEntry,
    Bucket,
    Coupon,
    Gateway,
    Notice,
    Operator,
    Role,
    Subject,
    Subscriber,
    Suspension,
    WebhookDelivery,
)
from subscriptions.outbox import Happening
from subscriptions.webhooks.signing import message_id
from tests.console import at_work, hire
from tests.factories import (
    NOW,
    buckets_of,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
    yuan,
)
from tests.usage import HOUR, assert_books_agree, get, post, put, record
from tests.usage import Gateway as Sender
from tests.vouchers import sold_vouchers

pytestmark = pytest.mark.django_db

ROLES = tuple(Role)


@pytest.fixture(autouse=True)
def _counted_apart(settings: Any, operator: Operator) -> Iterator[None]:
    settings.PORTAL_OPERATOR = operator.code
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    """With a plan, money in the wallet, an event and a notice."""
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    return subscriber


Enter = Callable[[str], Client]


@pytest.fixture
def enter(operator: Operator) -> Enter:
    """Somebody of a role, at work."""

    def made(role: str) -> Client:
        return at_work(Client(), hire(operator, role))

    return made


def address(name: str, *of: Any) -> str:
    return reverse(f"admin:{name}", args=of)


def do(client: Client, name: str, /, *of: Any, **said: Any) -> Any:
    """Open the form as a person does, and send it with what it hides."""
    where = address(name, *of)
    page = client.get(where)
    assert page.status_code == 200, (name, page.status_code)
    once = page.context["form"].initial.get("once", "x")
    return client.post(where, {"once": once, "reason": "they asked", **said})


def done(answer: Any) -> None:
    assert answer.status_code == 302, answer.content.decode()[:3000]


def streamed(answer: Any) -> str:
    return b"".join(answer.streaming_content).decode()


def noted(name: str) -> AuditEntry:
    return AuditEntry.objects.filter(action=name).latest("id")


# The subscriber ---------------------------------------------------------------------------------


def lively(operator: Operator, subscriber: Subscriber, api: APIClient) -> None:
    """Usage, an invoice's worth of nothing, money, events, a notice and a delivery."""
    said = {"name": "Li Lei", "email": "lilei@example.com", "msisdn": "13800001234"}
    assert put(api, "subscribers/s-1", said).status_code == 200
    hear = {"url": "https://example.com/hooks", "kinds": []}
    assert post(api, "webhook-endpoints", hear).status_code == 201
    Sender(operator).charge(record("r-1", input_tokens=1_000_000, output_tokens=0))
    arrived = transfers.tell(operator, Told("b-1", Decimal("8.00"), "CNY", NOW), at=NOW)
    transfers.match(operator, arrived.pk, Pays(wallet=subscriber.pk), at=NOW)
    with transaction.atomic():
        outbox.tell([Happening(subscriber.pk, "subscription.suspended", "k", NOW, {"frozen": 0})])
    while dispatching.dispatch(at=NOW):
        pass


def test_a_subscriber_is_on_one_page_with_what_is_personal_masked_until_it_is_asked_for(
    operator: Operator, subscriber: Subscriber, api: APIClient, enter: Enter
) -> None:
    lively(operator, subscriber, api)
    put(api, "subscribers/s-1", {"subjects": ["user-s-1", "13800001234"]})
    agent = enter(Role.AGENT)

    page = agent.get(address("subscriber", subscriber.pk)).content.decode()

    assert "900 万" in page.replace("\xa0", " ")  # of ten million
    assert "8.00 元" in page
    assert '<path class="s1"' in page
    assert "Li Lei" not in page
    assert "lilei@example.com" not in page
    assert "138****1234" in page
    for no_reason in ({}, {"reason": "  "}):
        refused = agent.post(address("subscriber", subscriber.pk), no_reason)
        assert refused.status_code == 422
        assert "Li Lei" not in refused.content.decode()
    assert "138****1234 · user-s-1" in page
    assert "13800001234" not in page
    assert not AuditEntry.objects.filter(action="subscriber.show").exists()
    asked = {"reason": "she called about her bill"}
    shown = agent.post(address("subscriber", subscriber.pk), asked).content.decode()
    assert "Li Lei" in shown
    assert "13800001234" in shown
    entry = noted("subscriber.show")
    assert (entry.subscriber_id, entry.after, entry.reason) == (
        subscriber.pk,
        {"shown": ["name", "msisdn", "email", "subjects"]},
        "she called about her bill",
    )
    assert "she called about her bill" in agent.get(address("subscriber", subscriber.pk)).text
    assert "Li Lei" not in str(entry.after)


@pytest.mark.parametrize(
    "asked",
    ["s-1", "13800001234", "LILEI@example.com", "user-s-1", "Li Lei"],
)
def test_a_subscriber_is_found_by_what_people_say(
    operator: Operator, subscriber: Subscriber, api: APIClient, enter: Enter, asked: str
) -> None:
    said = {"name": "Li Lei", "email": "lilei@example.com", "msisdn": "13800001234"}
    put(api, "subscribers/s-1", said | {"subjects": ["user-s-1"]})
    theirs = make_operator("theirs")
    make_subscriber(theirs, "t-1")
    agent = enter(Role.AGENT)

    found = agent.get(address("find_subscriber"), {"q": asked})

    assert found["Location"] == address("subscriber", subscriber.pk)
    assert agent.get(address("find_subscriber"), {"q": "t-1"}).status_code == 200
    assert agent.get(address("find_subscriber"), {"q": "\0%"}).status_code == 200


def test_an_event_is_found_by_the_id_that_others_know(
    operator: Operator, subscriber: Subscriber, api: APIClient, enter: Enter
) -> None:
    """That of a payment company, of a webhook, of a usage record; by whoever may read those."""
    lively(operator, subscriber, api)
    delivery = WebhookDelivery.objects.filter(subscriber_id=subscriber.pk).earliest("pk")
    WebhookDelivery.objects.filter(pk=delivery.pk).update(event_key="a\\b:ü")
    account = ProviderAccount.objects.create(
        operator=operator, provider="stripe", name="acct_1", public_id="p" * 32, created_at=NOW
    )
    ProviderEvent.objects.create(
        account=account,
        operator=operator,
        event_id="evt_1",
        kind="refund.updated",
        body=b"{}",
        received_at=NOW,
        state="done",
        ended_at=NOW,
    )
    ways = {
        "evt_1": "provider_events_row",
        message_id(subscriber.pk, "a\\b:ü"): "webhook_deliveries_row",
        "s-1 r-1": "usage_records_row",
        "user-s-1  r-1": "usage_records_row",
    }
    for asked, name in ways.items():
        found = enter(Role.PLATFORM).get(address("find_subscriber"), {"q": asked})
        assert resolve(found["Location"]).url_name == name, asked
        assert enter(Role.PLATFORM).get(found["Location"]).status_code == 200
        product = enter(Role.PRODUCT).get(address("find_subscriber"), {"q": asked})
        assert product.status_code == 200, asked
        other = at_work(Client(), hire(make_operator(f"o-{len(asked)}-{name[:5]}"), Role.PLATFORM))
        assert other.get(address("find_subscriber"), {"q": asked}).status_code == 200, asked


def test_who_owes_is_not_restored_by_hand(
    operator: Operator, subscriber: Subscriber, enter: Enter
) -> None:
    lifecycle.suspend(subscriber.pk, reason=dunning.UNPAID, at=NOW)

    for role in (Role.AGENT, Role.OPERATIONS, Role.FINANCE):
        refused = do(enter(role), "restore_line", subscriber.pk)
        assert refused.status_code == 409

    assert Suspension.objects.get().ends_at is None
    assert not AuditEntry.objects.exists()


def test_an_agent_gives_tokens_and_above_the_limit_asks_for_approval(
    operator: Operator, subscriber: Subscriber, api: APIClient, enter: Enter
) -> None:
    policy = get(api, "approval-policy")
    policy["units_limit"] = "1000000.000"
    assert put(api, "approval-policy", policy).status_code == 200, policy
    agent = enter(Role.AGENT)
    gift = {"tokens": "1000000", "until": "2026-07-01"}

    where = address("give_units", subscriber.pk)
    form = {"once": "a" * 32, "reason": "an outage", **gift}
    for _ in range(2):
        done(agent.post(where, form))
    [bucket] = buckets_of(subscriber, Bucket.Kind.GIFT)
    assert (bucket.granted, bucket.note) == (1_000_000_000, "an outage")
    assert bucket.valid_until.isoformat() == "2026-07-01T16:00:00+00:00"
    entry = noted("give_units")
    assert (entry.reason, entry.about) == ("an outage", "subscriber/s-1")
    assert entry.after == {"tokens": "1000000", "until": "2026-07-01"}

    done(do(agent, "give_units", subscriber.pk, tokens="1000001", until="2026-07-01"))
    assert len(buckets_of(subscriber, Bucket.Kind.GIFT)) == 1
    assert Approval.objects.get().asked_by == f"agent@{operator.code}.example.com"
    wrong = do(agent, "give_units", subscriber.pk, tokens="-1", until="2026-07-01")
    assert wrong.status_code == 422
    late = do(agent, "give_units", subscriber.pk, tokens="1", until="2026-06-01")
    assert late.status_code == 422
    assert agent.post(where, gift | {"once": "b"}).status_code == 422  # without a reason
    assert_books_agree()


def test_an_agent_sells_changes_takes_back_freezes_and_restores(
    operator: Operator, subscriber: Subscriber, api: APIClient, enter: Enter
) -> None:
    said = {"name": "Pack", "price": "5.00", "units": "1000000", "valid_days": 30}
    assert put(api, "boosters/pack", said).status_code == 201
    make_plan(operator, "big", price=yuan("19.90"), allowance=20_000_000_000)
    Sender(operator).charge(record("r-1", input_tokens=500, output_tokens=0))
    agent, whose = enter(Role.AGENT), subscriber.pk

    done(do(agent, "sell_booster", whose, booster="pack"))
    [booster] = buckets_of(subscriber, Bucket.Kind.BOOSTER)
    assert booster.granted == 1_000_000_000
    done(do(agent, "void_usage", whose, request="r-1"))
    assert sum(one.used for one in buckets_of(subscriber)) == 0
    assert do(agent, "void_usage", whose, request="r-9").status_code == 422
    done(do(agent, "change_plan", whose, plan="big", when="now"))
    assert subscriber.subscriptions.get().plan.code == "big"
    assert noted("change_plan").before == {"plan": "light"}
    refused = do(agent, "change_plan", whose, plan="light", when="now")
    assert refused.status_code == 422
    assert "not_an_upgrade" not in refused.content.decode()
    done(do(agent, "change_plan", whose, plan="light", when="period"))
    done(do(agent, "suspend_line", whose))
    line = Suspension.objects.get()
    assert (line.frozen, line.reason, line.ends_at) == (True, "they asked", None)
    assert "work-alert" in agent.get(address("subscriber", whose)).content.decode()
    done(do(agent, "restore_line", whose))
    assert Suspension.objects.get().ends_at is not None or not Suspension.objects.exists()
    assert AuditEntry.objects.filter(subscriber=subscriber).count() == 6
    assert_books_agree()


def test_what_was_told_is_told_again(
    operator: Operator, subscriber: Subscriber, api: APIClient, enter: Enter
) -> None:
    lively(operator, subscriber, api)
    Notice.objects.update(state="failed", ended_at=NOW, reason="no", attempts=7)
    delivery = WebhookDelivery.objects.filter(subscriber_id=subscriber.pk).first()
    assert delivery is not None
    WebhookDelivery.objects.update(state="failed", ended_at=NOW)
    other = make_subscriber(operator, "s-2")
    agent = enter(Role.AGENT)
    notice = Notice.objects.filter(subscriber=subscriber).first()
    assert notice is not None

    done(do(agent, "send_notice_again", subscriber.pk, notice.pk))
    done(do(agent, "send_webhook_again", subscriber.pk, delivery.pk))

    notice.refresh_from_db()
    delivery.refresh_from_db()
    assert (notice.state, notice.attempts, delivery.state) == ("waiting", 0, "waiting")
    for name, of in (("send_notice_again", notice.pk), ("send_webhook_again", delivery.pk)):
        assert agent.get(address(name, other.pk, of)).status_code == 404


def test_staff_see_the_portal_as_the_subscriber_does_and_change_nothing(
    operator: Operator, subscriber: Subscriber, enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = enter(Role.AGENT)

    began = do(agent, "look_as_subscriber", subscriber.pk)
    assert began["Location"] == "/"
    page = agent.get("/").content.decode()
    assert "s-1" in page
    assert address("stop_looking") in page
    assert "Light" in page
    for path, said in (
        ("/wallet/voucher/", {"code": "x"}),
        ("/plans/cancel/", {}),
        ("/boosters/x/", {}),
    ):
        assert agent.post(path, said).status_code == 403, path
    assert noted("look_as_subscriber").subscriber_id == subscriber.pk

    assert agent.post(address("stop_looking"))["Location"] == address("subscriber", subscriber.pk)
    assert address("stop_looking") not in agent.get("/").content.decode()
    # Half an hour, and while they work here.
    do(agent, "look_as_subscriber", subscriber.pk)
    session = agent.session
    session["looks_at"] = [*session["looks_at"][:2], 0]
    session.save()
    assert address("stop_looking") not in agent.get("/").content.decode()


# Anomalies ----------------------------------------------------------------------------------------


def case_of(operator: Operator, subscriber: Subscriber, key: str = "k") -> AnomalyCase:
    evidence = {"hour": NOW.isoformat(), "units": "5000000.000", "requests": 9}
    with transaction.atomic():
        cases.keep(operator, [Finding(subscriber.pk, "velocity", key, evidence)], at=NOW)
    return AnomalyCase.objects.latest("id")


def test_a_case_is_frozen_released_and_dismissed_with_reasons(
    operator: Operator, subscriber: Subscriber, enter: Enter
) -> None:
    case = case_of(operator, subscriber)
    staff = enter(Role.OPERATIONS)
    assert "5,000,000" in staff.get(address("anomalies")).content.decode()

    done(do(staff, "freeze_case", case.pk))
    assert Suspension.objects.get().frozen
    dismissed = do(staff, "dismiss_case", case.pk)
    assert dismissed.status_code == 409
    done(do(staff, "release_case", case.pk))
    done(do(staff, "dismiss_case", case.pk))

    case.refresh_from_db()
    assert (case.state, [one.reason for one in cases.steps_of(case)]) == (
        "dismissed",
        ["they asked"] * 3,
    )
    assert not Suspension.objects.filter(ends_at__isnull=True).exists()
    assert noted("dismiss_case").before == {"state": "released"}
    again = case_of(operator, subscriber, "another")
    done(do(staff, "confirm_case", again.pk))
    assert staff.get(address("anomalies") + "?state=confirmed").status_code == 200


# Complaints ---------------------------------------------------------------------------------------


def complain(operator: Operator, subscriber: Subscriber, key: str, days_ago: int = 0) -> Complaint:
    at = NOW - dt.timedelta(days=days_ago)
    text = f"<b>{key}</b> fails"
    return complaints.lodge(
        operator, subscriber.pk, kind="service", text=text, key=key, channel="hotline", at=at
    )


def test_complaints_come_by_the_day_their_answer_is_due_and_are_answered_and_closed(
    operator: Operator, subscriber: Subscriber, enter: Enter
) -> None:
    fresh, old = complain(operator, subscriber, "new"), complain(operator, subscriber, "old", 20)
    agent, finance = enter(Role.AGENT), enter(Role.FINANCE)
    queue = agent.get(address("complaints")).context["lines"]
    assert [(one.number, late) for one, _kind, late in queue] == [
        (old.number, True),
        (fresh.number, False),
    ]
    measured = figures.measure(operator, at=NOW).values["complaints"]
    assert measured == {"open": 2, "overdue": 1}
    tiles = {tile.leads_to: tile for group in _groups(agent) for tile in group.tiles}
    assert (tiles["complaints"].value, tiles["complaints"].bad) == ("2", True)
    page = agent.get(address("complaint", old.number)).text
    assert "&lt;b&gt;old&lt;/b&gt; fails" in page

    assert do(agent, "close_complaint", old.number).status_code == 422  # nobody answered it
    assert do(agent, "answer_complaint", old.number, text=" ").status_code == 422
    done(do(agent, "answer_complaint", old.number, text="we mend it"))
    old.refresh_from_db()
    assert old.state == "answered"
    assert "we mend it" in finance.get(address("complaint", old.number)).text
    entry = noted("answer_complaint")
    assert (entry.before, entry.after) == ({"state": "open"}, {"state": "answered"})
    done(do(finance, "close_complaint", old.number))
    assert noted("close_complaint").reason == "they asked"
    assert do(agent, "answer_complaint", old.number, text="more").status_code == 409

    for state, number in (("closed", old.number), ("open", fresh.number)):
        [(one, _kind, _late)] = agent.get(f"{address('complaints')}?state={state}").context["lines"]
        assert one.number == number
    assert old.number in agent.get(address("subscriber", subscriber.pk)).text
    assert enter(Role.PRODUCT).get(address("complaints")).status_code == 403


def _groups(client: Client) -> Any:
    return client.get(address("index")).context["groups"]


def test_the_queue_of_complaints_is_read_page_by_page(
    operator: Operator, subscriber: Subscriber, enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two are due at one instant.
    made = [complain(operator, subscriber, f"c-{nr}", 6 - nr // 2) for nr in range(6)]
    monkeypatch.setattr(queue_of_complaints, "_MOST", 2)
    agent = enter(Role.AGENT)
    for state, wanted in (("open", made), ("closed", made[::-1])):
        seen, before = [], ""
        while before is not None:
            page = agent.get(f"{address('complaints')}?state={state}&before={before}").context
            seen += [one.number for one, _kind, _late in page["lines"]]
            before = page["more"]
        assert seen == [one.number for one in wanted]
        for one in made if state == "open" else []:
            complaints.close(operator, one.number, text="so", by="x", at=NOW)


# Gateways -----------------------------------------------------------------------------------------


def test_a_gateways_key_is_shown_once_and_revoked(
    operator: Operator, subscriber: Subscriber, enter: Enter
) -> None:
    staff = enter(Role.OPERATIONS)

    made = do(staff, "add_gateway", name="edge-1")
    gateway = Gateway.objects.get(name="edge-1")
    first = made.context["secret"]
    assert keys.find(first) is not None
    assert first not in staff.get(address("gateway", gateway.pk)).content.decode()
    second = do(staff, "issue_gateway_key", gateway.pk).context["secret"]
    key = ApiKey.objects.get(digest=keys.digest_of(first))
    done(do(staff, "revoke_gateway_key", gateway.pk, key.pk))

    assert keys.find(first) is None
    assert keys.find(second) is not None
    assert first not in str(list(AuditEntry.objects.values()))
    theirs = keys.issue(operator_code="x", role="gateway", name="g", at=NOW)
    assert staff.get(address("gateway", keys.find(theirs).gateway_id)).status_code == 404  # type: ignore[union-attr]


def test_a_gateways_rate_and_errors_are_of_the_last_minutes(
    operator: Operator, subscriber: Subscriber, enter: Enter
) -> None:
    sender = Sender(operator)
    sender.charge(*(record(f"r-{nr}", input_tokens=5, output_tokens=0) for nr in range(3)))
    sender.send(record("lost", subject="nobody", input_tokens=5, output_tokens=0))
    staff = enter(Role.OPERATIONS)

    page = staff.get(address("gateways"))

    [(_gateway, pulse)] = page.context["gateways"]
    assert (pulse.live, pulse.records, pulse.refused, pulse.waiting) == (3, 3, 1, 1)
    assert "25%" in page.content.decode()


def test_the_quarantine_says_why_in_words_and_is_tried_again_at_once(
    operator: Operator, subscriber: Subscriber, enter: Enter
) -> None:
    sender = Sender(operator)
    for nr in range(3):
        sender.send(record(f"lost-{nr}", subject="new", input_tokens=5, output_tokens=0))
    sender.send(record("bad", input_tokens=-5, output_tokens=0))
    staff = enter(Role.OPERATIONS)
    page = staff.get(address("quarantine")).content.decode()
    assert "unknown_subject" not in page.replace("cause=unknown_subject", "").replace(
        "cause-unknown_subject", ""
    )
    # In the reader's language; beside it, what the gateway was told.
    assert "号码 new 在其使用时间" in page
    assert "no subscriber is called" in page
    english = staff.get(address("quarantine"), headers={"accept-language": "en"}).text
    assert "Nobody has the number new at its time" in english
    make_subscriber(operator, "s-9", subjects=("new",))
    subscribe(Subscriber.objects.get(external_id="s-9"), make_plan(operator))

    where = address("retry_quarantine") + "?cause=unknown_subject"
    form = staff.get(where)
    done(
        staff.post(
            where, {"once": "1", "reason": "bound", "cause": form.context["form"]["cause"].value()}
        )
    )

    states = dict(QuarantinedRecord.objects.values_list("record_id", "resolution"))
    assert states == {"lost-0": "charged", "lost-1": "charged", "lost-2": "charged", "bad": ""}
    assert noted("retry_quarantine").after == {"cause": "unknown_subject"}
    assert_books_agree()


def test_a_record_that_was_not_charged_is_found_by_its_id_or_its_number(
    operator: Operator, subscriber: Subscriber, enter: Enter
) -> None:
    other = make_operator("theirs")
    for sender in (Sender(operator), Sender(operator, name="edge-2"), Sender(other)):
        sender.send(record("evt-77", subject="13811112222", input_tokens=5, output_tokens=0))
    Sender(operator, name="edge-3").send(record("evt-78", subject="new", input_tokens=5))
    QuarantinedRecord.objects.filter(operator=operator, gateway__name="edge-2").update(
        resolution="charged", resolved_at=NOW
    )
    agent = enter(Role.AGENT)

    def found(text: str) -> list[tuple[str, str, str]]:
        records = agent.get(address("quarantine"), {"q": text}).context["records"]
        return [(one.gateway.name, one.record_id, one.resolution) for one, *_ in records]

    first = Gateway.objects.filter(operator=operator).earliest("pk").name
    assert found("evt-77") == [("edge-2", "evt-77", "charged"), (first, "evt-77", "")]
    assert len(found(" 13811112222 ")) == 2
    assert [one[1] for one in found("new")] == ["evt-78"]
    elsewhere = agent.get(address("find_subscriber"), {"q": "evt-77"})
    assert elsewhere["Location"] == address("quarantine") + "?q=evt-77"
    for nothing in ("evt-7", "13800000000", "' OR 1=1 --\0%_💥", "9" * 900):
        page = agent.get(address("quarantine"), {"q": nothing})
        assert (page.status_code, page.context["records"]) == (200, []), nothing
    assert "13811112222" not in agent.get(address("quarantine"), {"q": "evt-77"}).text


def test_the_quarantine_is_searched_and_counted_by_indexes(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait: what is asked for needs no row of the table that is not shown."""
    sender = Sender(operator)
    for nr in range(4):
        sender.send(record(f"lost-{nr}", subject="new", input_tokens=5, output_tokens=0))
    sender.send(record("bad", input_tokens=-5, output_tokens=0))
    assert quarantine.waiting(operator.pk) == {"unknown_subject": 4, "invalid_record": 1}
    monkeypatch.setattr(quarantine, "MOST_COUNTED", 3)
    assert quarantine.waiting(operator.pk) == {"unknown_subject": 3, "invalid_record": 1}

    # As many as make the planner choose, and not go by the few that are there.
    last = QuarantinedRecord.objects.latest("pk")
    more = [copy.copy(last) for _ in range(3000)]
    for nr, one in enumerate(more):
        one.pk, one.record_id, one.subject = None, f"more-{nr}", f"who-{nr}"
        one.digest = nr.to_bytes(32, "big")
    QuarantinedRecord.objects.bulk_create(more)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE metering_quarantinedrecord")
    own = QuarantinedRecord.objects.filter(operator=operator).order_by("-pk")
    for index, rows in (
        ("quarantine_by_record", own.filter(record_id="lost-1")),
        ("quarantine_by_subject", own.filter(subject="new")),
        ("quarantine_waiting", own.filter(resolved_at__isnull=True, cause="no_usage")),
    ):
        plan = rows[:51].explain()
        assert index in plan, plan
        assert "Sort" not in plan


def window_of(operator: Operator, sender: Sender) -> UsageWindow:
    """One of which the gateway counted two requests, and one came."""
    sender.charge(
        record(
            "w-1",
            occurred_at=NOW - HOUR,
            input_tokens=10,
            output_tokens=0,
            attributes={"sequence": 1},
        )
    )
    key = ApiKey.objects.filter(gateway__operator=operator).latest("id")
    assert key.gateway is not None
    body = json.dumps(
        {
            "window_start": (NOW - 2 * HOUR).isoformat(),
            "window_end": NOW.isoformat(),
            "requests": 2,
            "input_tokens": 20,
            "output_tokens": 0,
            "sequences": [{"first": 1, "last": 2}],
        }
    )
    told = usage_windows.post(key.gateway, key.pk, usage_windows.parse(body.encode()), at=NOW)
    usage_windows.compare(told, at=NOW)
    return usage_windows.find(operator.pk, told)


def test_a_window_with_missing_records_is_asked_for_and_accepted(
    operator: Operator, subscriber: Subscriber, enter: Enter
) -> None:
    window = window_of(operator, Sender(operator))
    assert window.state == "differs"
    staff = enter(Role.OPERATIONS)
    assert str(window.pk) in staff.get(address("usage_windows")).content.decode()
    page = staff.get(address("usage_window", window.pk))
    assert (
        page.context["ranges"] == [{"source": "", "first": 2, "last": 2}] or page.context["ranges"]
    )

    done(do(staff, "ask_for_resend", window.pk))
    window.refresh_from_db()
    assert window.asked_reason == "they asked"
    assert staff.post(address("usage_window", window.pk)).status_code == 302
    done(do(staff, "close_window", window.pk))

    window.refresh_from_db()
    assert (window.state, window.closed_reason) == ("closed", "they asked")
    by = {one["kind"]: one["by"] for one in usage_windows.history_of(window)["events"]}
    assert by["closed"] == by["asked"] == f"{Role.OPERATIONS}@{operator.code}.example.com"


# Vouchers, files, handovers -----------------------------------------------------------------------

BATCH = {
    "code": "SPRING",
    "name": "Spring",
    "count": "3",
    "gives": "money",
    "amount": "50.00",
    "first": "2026-06-01",
    "last": "2026-12-31",
}


def test_a_batch_of_vouchers_is_ordered_shown_once_sold_and_made_void(
    operator: Operator, subscriber: Subscriber, enter: Enter
) -> None:
    staff = enter(Role.FINANCE)

    ordered = do(staff, "order_vouchers", **BATCH)
    key = ordered.context["secret"]
    for batch_id in vouchers.making(operator.pk):
        while vouchers.make_next(batch_id, at=NOW):
            pass
    assert do(staff, "show_voucher_codes", "SPRING", key="wrong").status_code == 422
    file = do(staff, "show_voucher_codes", "SPRING", key=key)
    lines = streamed(file).split()
    codes = dict(line.split(",") for line in lines[1:])
    assert list(codes) == ["SPRING-0000001", "SPRING-0000002", "SPRING-0000003"]
    assert do(staff, "show_voucher_codes", "SPRING", key=key).status_code == 409
    done(do(staff, "activate_vouchers", "SPRING", first="1", last="3"))
    done(do(staff, "void_vouchers", "SPRING", first="3", last="3"))

    batch = VoucherBatch.objects.get()
    assert vouchers.counts(batch)["void"] == 1
    for secret in (key, *codes.values()):
        assert secret not in str(list(AuditEntry.objects.values()))
    assert do(staff, "order_vouchers", **(BATCH | {"code": "B2", "amount": ""})).status_code == 422
    assert do(staff, "order_vouchers", **(BATCH | {"amount": "60.00"})).status_code == 409
    assert_books_agree()


def test_a_file_is_tried_out_applied_and_said_line_by_line(
    operator: Operator, enter: Enter
) -> None:
    staff = enter(Role.OPERATIONS)
    rows = b"external_id,name\nf-1,One\n,Two\nf-3,Three\n"

    sent = staff.post(
        address("send_file"),
        {
            "once": "1",
            "reason": "the CRM's list",
            "kind": "subscribers",
            "file": SimpleUploadedFile("list.csv", rows),
        },
    )
    job = ImportJob.objects.get()
    assert sent["Location"] == address("import_job", job.pk)
    imports.work(job.pk, instant=lambda: NOW, more=lambda: True)
    page = staff.get(address("import_job", job.pk))
    assert len(page.context["rejected"]) == 1
    assert Subscriber.objects.count() == 0
    done(do(staff, "start_import", job.pk))
    imports.work(job.pk, instant=lambda: NOW, more=lambda: True)

    names = Subscriber.objects.order_by("external_id").values_list("external_id", flat=True)
    assert list(names) == ["f-1", "f-3"]
    said = streamed(staff.get(address("import_result", job.pk)))
    assert len(said.strip().splitlines()) == 4
    assert (
        "hx-get"
        not in staff.get(
            address("import_job", job.pk), headers={"HX-Request": "true"}
        ).content.decode()
    )
    done(do(staff, "order_export", kind="subscribers"))
    out = ExportJob.objects.get()
    exports.work(out.pk, instant=lambda: NOW, more=lambda: True)
    table = streamed(staff.get(address("export_file", out.pk)))
    assert "f-3" in table
    assert noted("export_file").about == f"export/{out.pk}"
    assert do(staff, "order_export", kind="vouchers").status_code == 422
    assert do(staff, "cancel_import", job.pk).status_code in (302, 409)


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_an_export_of_each_kind_adds_up(
    operator: Operator, subscriber: Subscriber, api: APIClient, enter: Enter, form: str
) -> None:
    """Opened as whoever downloads it does; its rows are the table's, and its sums."""
    for nr in range(3):
        make_subscriber(operator, f"e-{nr}", subjects=())
        coupon = {"name": "C", "amount": {"amount": f"{nr + 1}.50", "currency": "CNY"}}
        assert put(api, f"coupons/c-{nr}", coupon).status_code == 201
    sold_vouchers(operator, api, count=4)
    make_subscriber(make_operator("theirs"), "t-1")
    staff = enter(Role.FINANCE)
    wanted = {
        "subscribers": (4, None, Decimal(0)),
        "coupons": (3, "amount", sum(one.amount.amount for one in Coupon.objects.all())),
        "vouchers": (4, "amount", 4 * VoucherBatch.objects.get().amount),
    }
    for kind, (many, column, total) in wanted.items():
        of = "SPRING" if kind == "vouchers" else ""
        done(do(staff, "order_export", kind=kind, form=form, of=of))
        job = ExportJob.objects.latest("pk")
        exports.work(job.pk, instant=lambda: NOW, more=lambda: True)
        answer: Any = staff.get(address("export_file", job.pk))
        header, *lines = opened(b"".join(answer.streaming_content), form)

        assert len(lines) == many, kind
        if column is not None:
            names = [*BY_KIND[kind], *EXPORTED[kind]]
            assert len(header) == len(names)
            said = [line[names.index(column)] for line in lines]
            assert sum(Decimal(one.split()[0]) for one in said) == total, said


def opened(file: bytes, form: str) -> list[list[str]]:
    """Its rows, as a spreadsheet shows them."""
    if form == "csv":
        return list(csv.reader(io.StringIO(file.decode("utf-8-sig"), newline="")))
    sheet: Any = openpyxl.load_workbook(io.BytesIO(file)).active
    return [["" if cell.value is None else str(cell.value) for cell in row] for row in sheet]


def test_a_number_is_transferred_after_a_look_at_what_would_move(
    operator: Operator, subscriber: Subscriber, enter: Enter
) -> None:
    make_subscriber(operator, "s-2", subjects=())
    staff = enter(Role.AGENT)
    said = {
        "giver": "s-1",
        "receiver": "s-2",
        "subjects": "user-s-1",
        "balance": "keep",
        "reason": "sold on",
        "once": "1",
    }

    looked = staff.post(address("transfer_number"), said)
    assert looked.status_code == 200
    assert "user-s-1" in looked.content.decode()
    assert not Handover.objects.exists()
    done(staff.post(address("transfer_number"), said | {"sure": "1"}))

    handover = Handover.objects.get()
    assert (handover.state, handover.kind, handover.reason) == ("done", "transfer", "sold on")
    held = Subject.objects.get(subject="user-s-1", valid_until__isnull=True)
    assert held.subscriber.external_id == "s-2"
    assert staff.get(address("handover", handover.pk)).status_code == 200
    nobody = staff.post(address("transfer_number"), said | {"receiver": "s-99"})
    assert nobody.status_code == 422
    recycled = said | {"giver": "s-2"}
    recycled.pop("receiver")
    done(staff.post(address("recycle_number"), recycled | {"sure": "1"}))
    merged = {"giver": "s-2", "receiver": "s-1", "reason": "twice", "once": "2", "sure": "1"}
    done(staff.post(address("merge_subscriber"), merged))
    assert Handover.objects.count() == 3
    assert_books_agree()


# Each page ----------------------------------------------------------------------------------------

# Statements of a page with something on it, with those of the way in (session, user, staff,
# networks, permissions).
PAGES = {
    "find_subscriber": 10,
    "subscriber": 15,
    "anomalies": 12,
    "complaints": 12,
    "complaint": 13,
    "gateways": 12,
    "gateway": 13,
    "usage_windows": 13,
    "usage_window": 14,
    "quarantine": 12,
    "voucher_batches": 12,
    "voucher_batch": 13,
    "files": 12,
    "import_job": 12,
    "handovers": 12,
}


def test_each_page_asks_a_few_statements_however_much_is_on_it(
    operator: Operator, subscriber: Subscriber, api: APIClient, enter: Enter
) -> None:
    of = rich(operator, subscriber, api)
    staff = enter(Role.PLATFORM)
    counted = {}
    for name in PAGES:
        where = address(name, *of.get(name, ()))
        assert staff.get(where).status_code == 200, name
        with CaptureQueriesContext(connection) as asked:
            assert staff.get(where).status_code == 200, name
        counted[name] = len(asked)
    assert {name: number for name, number in counted.items() if number > PAGES[name]} == {}


def rich(operator: Operator, subscriber: Subscriber, api: APIClient) -> dict[str, tuple[Any, ...]]:
    """Something on every page; the names of the rows that pages are about."""
    lively(operator, subscriber, api)
    sender = Sender(operator, name="edge")
    window = window_of(operator, sender)
    sender.send(record("lost", subject="nobody", input_tokens=5, output_tokens=0))
    case = case_of(operator, subscriber)
    complaint = complain(operator, subscriber, "k", 20)
    terms = vouchers.Terms(
        name="V",
        count=3,
        valid_from=NOW,
        valid_until=NOW + dt.timedelta(days=9),
        amount=Decimal(5),
        currency="CNY",
    )
    vouchers.order(operator, "V1", terms, by="x", at=NOW)
    rows = b"external_id,name\nf-1,One\n,Two\n"
    job = imports.receive(operator, "subscribers", [rows], name="l.csv", by="x", at=NOW)
    imports.work(job.pk, instant=lambda: NOW, more=lambda: True)
    return {
        "subscriber": (subscriber.pk,),
        "anomaly": (case.pk,),
        "complaint": (complaint.number,),
        "gateway": (window.gateway_id,),
        "usage_window": (window.pk,),
        "voucher_batch": ("V1",),
        "import_job": (job.pk,),
    }


OWN = sorted(
    name
    for name, page in site.pages.items()
    if page.__module__.startswith(("billing.console", "metering.console"))
)


def test_another_operators_staff_finds_none_of_it(
    operator: Operator, subscriber: Subscriber, api: APIClient
) -> None:
    of = rich(operator, subscriber, api)
    theirs = at_work(Client(), hire(make_operator("theirs"), Role.PLATFORM))
    named = {
        "subscriber_id": subscriber.pk,
        "case_id": of["anomaly"][0],
        "gateway_id": of["gateway"][0],
        "window_id": of["usage_window"][0],
        "job_id": of["import_job"][0],
        "code": "V1",
        "key_id": 1,
        "notice_id": 1,
        "delivery_id": 1,
        "handover_id": 1,
        "number": of["complaint"][0],
    }
    for name in OWN:
        names = [
            part.split(">")[0].split(":")[1] for part in site.pages[name].address.split("<")[1:]
        ]
        if not names or not all(one in named for one in names):
            continue
        where = reverse(f"admin:{name}", kwargs={one: named[one] for one in names})
        assert theirs.get(where).status_code == 404, name
        once = {"once": "1", "reason": "x"}
        assert theirs.post(where, once).status_code in (404, 405), name
    assert not AuditEntry.objects.exists()
