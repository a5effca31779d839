"""What providers tell: kept once, when it is theirs, and worked until it is done or somebody's."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
from typing import Any

import pytest
from django.core.management import call_command
from django.db import Error, transaction
from rest_framework.test import APIClient

from billing import inbox
from billing.models import PaymentTask, ProviderAccount, ProviderEvent, ProviderSecret
from billing.ways import accounts
from billing.ways.provider import About
from subscriptions import sealing
from subscriptions.models import Operator, Subscriber
from tests.factories import NOW, make_operator, set_clock
from tests.providers import SIGNED_WITH, event, intent, signature, stripe_account, tell
from tests.usage import DAY, HOUR, assert_books_agree, assert_problem, get, post, put, texts_holding

pytestmark = pytest.mark.django_db


@pytest.fixture
def account(operator: Operator) -> ProviderAccount:
    return stripe_account(operator)


def events() -> list[tuple[str, str]]:
    return list(ProviderEvent.objects.order_by("id").values_list("event_id", "state"))


# --- the door -----------------------------------------------------------------------------------


def test_a_notice_is_kept_once_as_it_came(account: ProviderAccount) -> None:
    body = event("payment_intent.succeeded", intent("no-such-order-1"))

    assert [tell(account, body).status_code for _ in range(3)] == [200, 200, 200]

    kept = ProviderEvent.objects.get()
    assert (bytes(kept.body), kept.kind) == (body, "payment_intent.succeeded")
    assert (kept.state, kept.received_at) == ("new", NOW)


def test_what_is_not_the_providers_is_refused_and_not_kept(
    operator: Operator, account: ProviderAccount
) -> None:
    body = event("payment_intent.succeeded", intent("x"))
    other = stripe_account(make_operator("other"), secret="whsec_of_another")
    forged = {
        "another body": signature(body + b" "),
        "another secret": signature(body, "whsec_of_another"),
        "too old": signature(body, age=301),
        "no time": "v1=" + "0" * 64,
        "nothing": "",
        "rubbish": "t=x,v1=\udcff".encode("utf-8", "replace").decode("latin-1"),
    }

    for header in forged.values():
        assert_problem(tell(account, body, header), 400, "unverified")
    assert_problem(tell(other, body), 400, "unverified")
    for wrong in (
        event("payment_intent.succeeded", intent("x"), livemode=True),
        event("payment_intent.succeeded", intent("x"), account="acct_of_another"),
    ):
        assert_problem(tell(account, wrong), 400, "unverified")
    for body in (b"not json", b"[]", b"{}", b'{"id": 1}', b"[" * 100_000, b"\xff\xfe"):
        header = signature(body) if body[:1] != b"\xff" else "t=1,v1=0"
        assert tell(account, body, header).status_code == 400
    assert events() == []


def test_a_body_that_is_too_large_is_refused_before_it_is_read(account: ProviderAccount) -> None:
    class Endless(io.RawIOBase):
        reads = 0

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            return b"x" * max(size, 0)

    address = f"/webhooks/stripe/{account.public_id}"
    stream = Endless()

    large: dict[str, Any] = {"wsgi.input": stream, "CONTENT_LENGTH": str(10 * 1024 * 1024)}
    answer = APIClient().generic("POST", address, content_type="application/json", **large)
    assert_problem(answer, 413, "too_large")
    assert stream.reads == 0
    just = event("x", {"id": "x", "pad": "y" * (1024 * 1024 - 200)})
    assert tell(account, just).status_code == 200
    assert_problem(tell(account, just + b" " * 200), 413, "too_large")


def test_an_account_that_is_not_there_is_not_found(account: ProviderAccount) -> None:
    client = APIClient()
    for address in (
        "/webhooks/stripe/none",
        f"/webhooks/sandbox/{account.public_id}",
        "/webhooks/stripe/%00",
    ):
        assert client.post(address, {}, format="json").status_code in (400, 404), address
    assert client.get(f"/webhooks/stripe/{account.public_id}").status_code == 405


def test_while_a_secret_is_rotated_both_are_taken(
    operator: Operator, account: ProviderAccount
) -> None:
    accounts.add_secret(account, "webhook", "whsec_second", at=NOW, overlap=HOUR)

    def told(secret: str, id: str) -> int:
        body = event("x", {"id": "x"}, id=id)
        return int(tell(account, body, signature(body, secret)).status_code)

    assert [told(SIGNED_WITH, "evt_1"), told("whsec_second", "evt_2")] == [200, 200]
    Operator.objects.filter(pk=operator.pk).update(clock_at=NOW + HOUR)
    assert [told(SIGNED_WITH, "evt_3"), told("whsec_second", "evt_4")] == [400, 200]


# --- what follows -------------------------------------------------------------------------------


def test_what_no_key_of_ours_can_check_is_told_again_later(
    account: ProviderAccount, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    body = event("payment_intent.succeeded", intent("no-such-order-1"))
    known = settings.SECRET_KEY

    settings.SECRET_KEY = "one that sealed nothing"
    answer = tell(account, body)
    assert_problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"] == "60"
    assert "cannot be opened" in caplog.text
    assert events() == []

    settings.SECRET_KEY = known
    assert tell(account, body).status_code == 200


def test_what_is_not_about_us_is_done_with(operator: Operator, account: ProviderAccount) -> None:
    for nr, kind in enumerate(("customer.created", "payment_intent.succeeded")):
        tell(account, event(kind, intent(), id=f"evt_{nr}"))

    assert inbox.work(operator, at=NOW) == 2
    assert inbox.work(operator, at=NOW + 3 * DAY) == 0
    assert events() == [("evt_0", "ignored"), ("evt_1", "ignored")]
    assert PaymentTask.objects.count() == 0


def test_money_for_an_order_that_nobody_knows_waits_for_staff(
    operator: Operator, account: ProviderAccount, subscriber: Subscriber, api: APIClient
) -> None:
    for nr in range(2):  # told twice, by two notices
        body = event("payment_intent.succeeded", intent("CT-O-1-1", 1234), id=f"evt_{nr}")
        tell(account, body)
    assert inbox.work(operator, at=NOW) == 2

    [task] = get(api, "payment-tasks?state=open")["items"]
    assert (task["cause"], task["amount"]["amount"]) == ("unknown_order", "12.34")
    assert_problem(
        post(api, f"payment-tasks/{task['id']}/resolve", {"action": "wallet", "note": "x"}),
        422,
        "invalid",
    )
    whose = {"action": "wallet", "note": "s-1 showed the receipt", "subscriber": "s-1"}
    for _ in range(2):
        answer = post(api, f"payment-tasks/{task['id']}/resolve", whose)
        assert (answer.status_code, answer.json()["state"]) == (200, "resolved")
    again = post(api, f"payment-tasks/{task['id']}/resolve", {"action": "refund", "note": "x"})
    assert_problem(again, 409, "task_resolved")
    assert get(api, "subscribers/s-1/wallet")["balance"]["amount"] == "12.34"
    assert_books_agree()


def test_what_cannot_be_worked_is_tried_again_and_then_is_a_task(
    operator: Operator, account: ProviderAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*said: object) -> str:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setitem(inbox.TAKERS, About.PAYMENT, broken)
    tell(account, event("payment_intent.succeeded", intent("x-1")))
    tell(account, event("customer.created", {"id": "cus"}, id="evt_2"))

    assert inbox.work(operator, at=NOW) == 2  # it holds up no other
    assert events() == [("evt_1", "failed"), ("evt_2", "ignored")]
    assert inbox.work(operator, at=NOW) == 0
    for day in range(1, 20):
        inbox.work(operator, at=NOW + day * DAY)

    row = ProviderEvent.objects.get(event_id="evt_1")
    assert (row.reason, row.next_try_at, row.attempts) == ("RuntimeError", None, 9)
    assert PaymentTask.objects.get().cause == "event_failed"


# --- accounts -----------------------------------------------------------------------------------


def test_secrets_go_in_and_never_come_out(operator: Operator, api: APIClient) -> None:
    given = {
        "name": "acct_7",
        "live": True,
        "api_secret": "sk_live_0123456789abcd",
        "webhook_secret": "whsec_0123456789efgh",
    }

    first = put(api, "payment-providers/stripe", given)
    again = put(api, "payment-providers/stripe", {"name": "acct_7", "live": True})

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert [one["hint"] for one in first.json()["secrets"]] == ["abcd", "efgh"]
    listed = str(get(api, "payment-providers"))
    out = io.StringIO()
    call_command("providers", "list", stdout=out)
    for secret in (str(given["api_secret"]), str(given["webhook_secret"])):
        assert secret not in listed + out.getvalue()
        assert texts_holding(secret) == []
    account = accounts.find(operator, "stripe")
    assert accounts.secrets_of(account, "api", at=NOW) == [given["api_secret"]]


def test_another_account_is_used_from_now_on_and_the_one_before_still_heard(
    operator: Operator, api: APIClient, account: ProviderAccount
) -> None:
    assert_problem(
        put(api, "payment-providers/stripe", {"name": "acct_2", "live": False}), 422, "invalid"
    )
    assert accounts.find(operator, "stripe") == account
    stripe_account(operator, "acct_2", secret="whsec_other")

    assert tell(account, event("x", {"id": "x"})).status_code == 200
    names = [one["name"] for one in get(api, "payment-providers")["items"]]
    assert names == ["acct_1", "acct_2"]
    assert api.delete("/api/v1/payment-providers/stripe").json()["ended_at"]
    assert_problem(api.delete("/api/v1/payment-providers/stripe"), 404, "not_found")
    assert_problem(put(api, "payment-providers/paypal", {}), 404, "not_found")


def test_the_command_sets_and_rotates(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(*said: str, typed: str = "") -> dict[str, object]:
        out = io.StringIO()
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        call_command("providers", "--operator", operator.code, *said, stdout=out)
        shown: dict[str, object] = json.loads(out.getvalue().splitlines()[-1])
        return shown

    command("set", "stripe", "--name", "acct_9", typed="sk_1\nwhsec_1\n")
    command("rotate", "stripe", "api", "--overlap-hours", "0", typed="sk_2\n")
    account = accounts.find(operator, "stripe")

    assert accounts.secrets_of(account, "api", at=NOW) == ["sk_2"]
    assert accounts.secrets_of(account, "webhook", at=NOW) == ["whsec_1"]
    assert command("end", "stripe")["ended_at"]


def test_sealed_secrets_outlive_another_secret_key(
    operator: Operator, account: ProviderAccount, settings: object
) -> None:
    before = str(settings.SECRET_KEY)  # type: ignore[attr-defined]
    settings.SECRET_KEY = "another"  # type: ignore[attr-defined]
    with pytest.raises(sealing.Unreadable):
        accounts.secrets_of(account, "api", at=NOW)
    settings.SECRET_KEY_FALLBACKS = [before]  # type: ignore[attr-defined]
    assert accounts.seal_again() == ProviderSecret.objects.count() == 2
    settings.SECRET_KEY_FALLBACKS = []  # type: ignore[attr-defined]
    assert accounts.secrets_of(account, "api", at=NOW + dt.timedelta(1)) == ["sk_test_of_acct_1"]


# --- what is kept of them ------------------------------------------------------------------------


def test_past_its_time_a_body_is_emptied_under_its_digest_and_is_still_the_same_notice(
    operator: Operator, account: ProviderAccount, api: APIClient
) -> None:
    done = event("payment_intent.succeeded", intent("x"), id="evt_done")
    broken = event("charge.dispute.created", {"id": "du_1"}, id="evt_broken")
    late = event("payment_intent.succeeded", intent("y", id="pi_2"), id="evt_late")
    for body in (done, broken):
        assert tell(account, body).status_code == 200
    for hours in range(0, 250, 25):
        inbox.work(operator, at=NOW + hours * HOUR)
    said = {"name": "acct_1", "live": False, "notices_kept_days": 30}
    assert put(api, "payment-providers/stripe", said).json()["notices_kept_days"] == 30
    for days in (29, 1831):
        refused = put(api, "payment-providers/stripe", said | {"notices_kept_days": days})
        assert_problem(refused, 422, "invalid")
    set_clock(operator, NOW + DAY)
    assert tell(account, late).status_code == 200
    inbox.work(operator, at=NOW + DAY)

    def whole() -> set[str]:
        return set(ProviderEvent.objects.filter(digest="").values_list("event_id", flat=True))

    assert inbox.empty_old(operator, at=NOW + 30 * DAY) == 0
    assert inbox.empty_old(operator, at=NOW + 30 * DAY + HOUR) == 1
    assert whole() == {"evt_broken", "evt_late"}  # staff have not looked at the first yet
    task = PaymentTask.objects.get(event__event_id="evt_broken")
    resolved = post(api, f"payment-tasks/{task.pk}/resolve", {"action": "note", "note": "seen"})
    assert resolved.status_code == 200
    assert inbox.empty_old(operator, at=NOW + 31 * DAY + HOUR) == 2
    assert inbox.empty_old(operator, at=NOW + 99 * DAY) == 0

    kept = ProviderEvent.objects.get(event_id="evt_done")
    assert (bytes(kept.body), kept.digest) == (b"", hashlib.sha256(done).hexdigest())
    assert tell(account, done).status_code == 200
    assert events() == [("evt_done", "done"), ("evt_broken", "failed"), ("evt_late", "done")]
    for change in ({"digest": "0" * 64}, {"body": b"x", "digest": ""}, {"state": "ignored"}):
        with pytest.raises(Error), transaction.atomic():
            ProviderEvent.objects.filter(event_id="evt_done").update(**change)
