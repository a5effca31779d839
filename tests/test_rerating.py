"""A range of usage under another rate card: previewed, then applied as it was previewed."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from rest_framework.test import APIClient

from metering import rerating, tasks
from metering.models import Adjustment, Rerating, UsageRecord
from subscriptions import registry
from subscriptions.models import BucketEntry, Operator, Subscriber
from tests.factories import (
    NOW,
    make_plan,
    make_rate_card,
    make_subscriber,
    subscribe,
)
from tests.usage import (
    DAY,
    Gateway,
    T,
    assert_books_agree,
    assert_problem,
    get,
    post,
    record,
    records_of,
    split_of,
    usage_by,
)

pytestmark = pytest.mark.django_db


FAIR = {"cheap": ("0.5",) * 5, "dear": ("5",) * 5}


@pytest.fixture
def subscriber(operator: Operator, gateway: Gateway) -> Subscriber:
    """`s-1` with 1,000 units, who used 120 of a cheap model and 120 of a dear one."""
    make_rate_card(operator, "fair", weights=FAIR)
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, allowance=500 * T, on_exhaustion="meter", price_per_million="1.20")
    subscribe(subscriber, plan, starts_at=NOW - DAY)
    gateway.charge(record("a", model="cheap"), record("b", model="dear"))
    return subscriber


ORDER = {
    "rate_card": "fair",
    "since": (NOW - DAY).isoformat(),
    "until": (NOW + DAY).isoformat(),
    "reason": "the card was wrong",
}


def preview(api: APIClient, **said: Any) -> Any:
    answer = post(api, "re-ratings", ORDER | said)
    assert answer.status_code == 201, answer.content
    return answer.json()


def apply(api: APIClient, run: Any) -> Any:
    return post(api, f"re-ratings/{run['id']}/apply")


def test_a_preview_says_who_gains_and_loses_and_moves_nothing(
    operator: Operator, gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    make_subscriber(operator, "s-2")
    gateway.charge(record("c", subject="user-s-2", model="cheap"))

    run = preview(api)

    assert (run["gain"], run["lose"], run["applied_at"]) == (1, 1, None)
    rows = [(s["subscriber"], s["records"], s["difference"]) for s in run["subscribers"]]
    assert rows == [("s-1", 2, "420.000"), ("s-2", 1, "-60.000")]
    assert not Adjustment.objects.exists()


def test_what_was_previewed_is_applied_in_one_batch(api: APIClient, subscriber: Subscriber) -> None:
    run = preview(api)

    done = apply(api, run).json()

    assert done["applied_at"] is not None
    assert {item["id"]: item["units"] for item in records_of(api)} == {
        "a": "60.000",
        "b": "600.000",
    }
    assert split_of(api)["b"] == [("allowance", "440.000"), ("overage", "160.000")]
    assert Adjustment.objects.get().records == 2
    [day] = usage_by(api, "day", NOW - DAY, NOW + DAY)
    assert (day["requests"], day["units"]) == (2, "660.000")
    assert_books_agree()


def test_applied_twice_it_is_applied_once(api: APIClient, subscriber: Subscriber) -> None:
    run = preview(api)

    assert apply(api, run).json() == apply(api, run).json()

    assert Adjustment.objects.count() == 1
    assert_books_agree()


def test_after_new_usage_or_another_card_version_it_has_to_be_previewed_again(
    operator: Operator, gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    run = preview(api)
    gateway.charge(record("late", model="cheap"))
    assert_problem(apply(api, run), 409, "snapshot_changed")
    run = preview(api)
    path = "subscribers/s-1/usage-records/late/void"
    assert post(api, path, {"reason": "x"}).status_code == 200
    assert_problem(apply(api, run), 409, "snapshot_changed")
    run = preview(api)
    make_rate_card(operator, "fair", weights={"*": ("2",) * 5})
    assert_problem(apply(api, run), 409, "snapshot_changed")

    assert apply(api, preview(api)).status_code == 200
    assert {item["id"]: item["units"] for item in records_of(api)} == {
        "a": "240.000",
        "b": "240.000",
        "late": "0.000",
    }
    assert_books_agree()


def test_only_what_a_card_weighed_is_weighed_anew(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    make_rate_card(operator, "another")

    run = preview(api, replaces="another")

    assert [(s["records"], s["difference"]) for s in run["subscribers"]] == [(0, "0.000")]
    assert preview(api, replaces="standard")["records"] == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"since": ORDER["until"]},
        {"rate_card": "none"},
        {"replaces": "none"},
        {"reason": ""},
        {"until": "tomorrow"},
    ],
)
def test_a_range_or_card_that_cannot_be_is_422(
    api: APIClient, subscriber: Subscriber, wrong: dict[str, str]
) -> None:
    assert_problem(post(api, "re-ratings", ORDER | wrong), 422, "invalid")
    assert not Rerating.objects.exists()


def test_re_ratings_and_all_their_subscribers_are_listed(
    operator: Operator, gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    for name in ("s-2", "s-3"):
        make_subscriber(operator, name)
        gateway.charge(record(name, subject=f"user-{name}", model="cheap"))
    run = preview(api)
    apply(api, preview(api))

    states = [(item["state"], item["gain"]) for item in get(api, "re-ratings")["items"]]
    assert states == [("previewed", 2), ("applied", 2)]
    path = f"re-ratings/{run['id']}"
    first = get(api, f"{path}/subscribers?limit=2")
    items = first["items"] + get(api, first["next"])["items"]
    assert [item["subscriber"] for item in items] == ["s-1", "s-2", "s-3"]
    assert {k: get(api, path)[k] for k in ("records", "units_before", "difference")} == {
        "records": 4,
        "units_before": "480.000",
        "difference": "300.000",
    }


# Large ranges: the rows are the queue ------------------------------------------------------------


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerating, "SMALL", 1)


def ring() -> None:
    for run_id in rerating.waiting():
        tasks.rerate(run_id)


@pytest.fixture
def many(operator: Operator, gateway: Gateway, subscriber: Subscriber) -> None:
    """Four more, each with a record."""
    for nr in range(2, 6):
        make_subscriber(operator, f"s-{nr}")
        gateway.charge(record(f"x-{nr}", subject=f"user-s-{nr}", model="cheap"))


@pytest.mark.usefixtures("large", "many")
def test_a_large_range_is_left_to_the_worker(api: APIClient) -> None:
    answer = post(api, "re-ratings", ORDER)
    path = f"re-ratings/{answer.json()['id']}"
    assert (answer.status_code, answer.json()["state"]) == (202, "previewing")
    assert_problem(post(api, f"{path}/apply"), 409, "not_previewed")

    ring()
    shown = get(api, path)
    assert (shown["state"], shown["gain"], shown["lose"]) == ("previewed", 4, 1)
    assert not Adjustment.objects.exists()

    answer = post(api, f"{path}/apply")
    assert (answer.status_code, answer.json()["subscribers_left"]) == (202, 5)
    ring()

    shown = get(api, path)
    assert (shown["state"], shown["subscribers_left"]) == ("applied", 0)
    assert post(api, f"{path}/apply").json() == shown
    assert Adjustment.objects.count() == 5
    assert_books_agree()


@pytest.mark.usefixtures("large", "many")
def test_a_run_that_was_cut_off_goes_on_where_it_was(operator: Operator, api: APIClient) -> None:
    run_id = int(post(api, "re-ratings", ORDER).json()["id"])

    def cut_off(shares: int) -> Rerating:
        left = iter(range(shares))
        return rerating.work(run_id, at=NOW, more=lambda: next(left, None) is not None)

    assert cut_off(2).state == "previewing"
    assert rerating.sums_of(cut_off(2)).left == 1
    assert cut_off(2).state == "previewed"
    rerating.begin(Rerating.objects.get())
    assert cut_off(3).state == "applying"
    assert Adjustment.objects.count() == 3
    make_subscriber(operator, "s-9")  # what comes now is weighed as ever
    Gateway(operator).charge(record("new", subject="user-s-9", model="cheap"))

    assert cut_off(3).state == "applied"
    assert Adjustment.objects.count() == 5
    assert rerating.waiting() == []
    assert_books_agree()


@pytest.mark.usefixtures("large", "many")
def test_what_is_overtaken_while_it_is_applied_is_left_as_it_is(
    gateway: Gateway, api: APIClient
) -> None:
    path = f"re-ratings/{post(api, 're-ratings', ORDER).json()['id']}"
    ring()
    post(api, f"{path}/apply")
    ends = iter((True, False))
    rerating.work(Rerating.objects.get().pk, at=NOW, more=lambda: next(ends))
    gateway.charge(record("late", subject="user-s-3", model="cheap"))

    ring()

    shown = get(api, path)
    assert (shown["state"], shown["subscribers_stale"]) == ("applied", 1)
    assert [s["subscriber"] for s in shown["subscribers"] if s["stale"]] == ["s-3"]
    assert {item["units"] for item in records_of(api, external_id="s-3")} == {"120.000"}
    assert_books_agree()
    # Previewed again, only what was left out is still to be done.
    again = rerating.work(int(post(api, "re-ratings", ORDER).json()["id"]), at=NOW)
    assert rerating.sums_of(again).records == 2


@pytest.mark.usefixtures("large", "many")
def test_a_card_published_while_a_preview_is_made_spoils_it(
    operator: Operator, api: APIClient
) -> None:
    run_id = int(post(api, "re-ratings", ORDER).json()["id"])
    make_rate_card(operator, "fair", weights={"*": ("2",) * 5})

    assert rerating.work(run_id, at=NOW).state == "refused"
    assert_problem(post(api, f"re-ratings/{run_id}/apply"), 409, "snapshot_changed")


@pytest.mark.usefixtures("large", "many")
def test_whose_preview_cannot_be_made_holds_up_nobody_and_is_named(
    operator: Operator, api: APIClient
) -> None:
    broken = registry.find(operator, "s-1")
    records = UsageRecord.objects.filter(subscriber_id=broken.pk)
    [weight_id] = set(records.values_list("weight_id", flat=True))
    records.update(weight_id=10**12)

    path = f"re-ratings/{post(api, 're-ratings', ORDER | {'replaces': 'standard'}).json()['id']}"
    ring()
    ring()

    shown = get(api, path)
    assert (shown["state"], shown["subscribers_left"], shown["subscribers_failed"]) == (
        "previewing",
        1,
        1,
    )
    rows = get(api, f"{path}/subscribers")["items"]
    assert [(row["subscriber"], row["problem"]) for row in rows if row["problem"]] == [
        ("s-1", "KeyError: 1000000000000")
    ]
    records.update(weight_id=weight_id)
    ring()
    shown = get(api, path)
    assert (shown["state"], shown["subscribers_failed"]) == ("previewed", 0)


@pytest.mark.usefixtures("large", "many")
def test_whose_share_cannot_be_applied_holds_up_nobody_and_is_named(
    operator: Operator, api: APIClient
) -> None:
    path = f"re-ratings/{post(api, 're-ratings', ORDER).json()['id']}"
    ring()
    broken = registry.find(operator, "s-1")
    entries = BucketEntry.objects.filter(subscriber_id=broken.pk, units__gt=0)
    lost = list(entries)
    entries.delete()

    post(api, f"{path}/apply")
    ring()
    with pytest.raises(CommandError, match="s-1: "):
        command("apply", path.removeprefix("re-ratings/"))

    shown = get(api, path)
    assert (shown["state"], shown["subscribers_left"], shown["subscribers_failed"]) == (
        "applying",
        1,
        1,
    )
    assert Adjustment.objects.count() == 4
    BucketEntry.objects.bulk_create(lost)
    ring()
    shown = get(api, path)
    assert (shown["state"], shown["subscribers_failed"]) == ("applied", 0)
    assert Adjustment.objects.count() == 5
    assert_books_agree()


# The command -------------------------------------------------------------------------------------


def test_by_command_it_is_previewed_and_applied(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    said = ["--operator", operator.code, "--rate-card", "fair", "--reason", "the card was wrong"]
    said += ["--since", ORDER["since"], "--until", ORDER["until"]]

    shown = command("preview", *said)

    number = Rerating.objects.get().pk
    assert f"re-rating {number} of op: previewed" in shown
    assert "240.000 -> 660.000 units; 0 gain, 1 lose" in shown
    assert not Adjustment.objects.exists()
    for _ in range(2):
        assert "applied" in command("apply", str(number))
    assert Adjustment.objects.get().made_by == "manage.py rerate"
    assert_books_agree()


def test_the_command_refuses_what_the_door_refuses(
    operator: Operator, gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    run = preview(api)
    gateway.charge(record("late", model="cheap"))

    with pytest.raises(CommandError, match="preview again"):
        command("apply", run["id"])
    with pytest.raises(CommandError, match="no re-rating"):
        command("show", "12345678901234567890123")
    assert "refused" in command("show", run["id"])


def command(*said: str) -> str:
    out = io.StringIO()
    call_command("rerate", *said, stdout=out, stderr=io.StringIO())
    return out.getvalue()
