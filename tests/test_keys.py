"""Keys of subscribers: made, shown once, limited, rotated, revoked; and who is let in by one."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from metering import rollups
from subscriptions.models import Guard, KeyMisses, KeyStep, Operator, Subscriber, SubscriberKey
from subscriptions.subscriber_keys import guessing, keeping
from tests import adapter_fixtures as sent
from tests.asking import commit, release, reserve
from tests.factories import (
    NOW,
    client_for,
    local,
    make_key,
    make_operator,
    make_subscriber,
    set_clock,
)
from tests.keys import KEYS, introspect, make_subscriber_key
from tests.usage import (
    DAY,
    HOUR,
    MINUTE,
    Gateway,
    assert_books_agree,
    assert_problem,
    balance,
    get,
    post,
    put,
    record,
    texts_holding,
)

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("subscriber"),
]


def change(api: APIClient, key: Any, **terms: Any) -> Any:
    answer = api.patch(f"/api/v1/{KEYS}/{key['id']}", terms, format="json")
    assert answer.status_code == 200, answer.content
    return answer.json()


def revoke(api: APIClient, key: Any) -> Any:
    return post(api, f"{KEYS}/{key['id']}/revoke")


def use(gateway: Gateway, key: Any, tokens: int, id: str = "r-1", **more: Any) -> None:
    said = record(id, subject=key["subject"], input_tokens=tokens, output_tokens=0, **more)
    assert gateway.charge(said)["accepted"] == 1


def cap(units: str, per: str = "month") -> dict[str, Any]:
    return {"cap": {"units": units, "per": per}}


# Made, shown, found ------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_kept_as_a_hash(api: APIClient) -> None:
    made = make_subscriber_key(api, "laptop", models=["deepseek/*"], **cap("500"))

    secret = made["secret"]
    assert secret.startswith("sk-tb-")
    assert texts_holding(secret) == []
    [shown] = get(api, KEYS)["items"]
    assert "secret" not in shown
    assert (shown["name"], shown["models"]) == ("laptop", ["deepseek/*"])
    assert shown["cap"] == {"units": "500.000", "per": "month"}
    assert shown["secrets"][0]["hint"] == f"{secret[:9]}…{secret[-4:]}"
    assert (shown["last_used_at"], shown["used_this_month"]) == (None, "0.000")


def test_a_gateway_learns_whose_a_presented_key_is(api: APIClient, gateway: Gateway) -> None:
    made = make_subscriber_key(api, "laptop", models=["deepseek/*"], **cap("500", "day"))

    said = introspect(gateway, made["secret"], model="gpt-4o")

    assert said == {
        "active": True,
        "token_type": "Bearer",
        "sub": "s-1",
        "subject": made["subject"],
        "subscriber": "s-1",
        "key": {"id": made["id"], "name": "laptop"},
        "models": ["deepseek/*"],
        "model_allowed": False,
        "cap": {
            "units": "500.000",
            "per": "day",
            "kind": "cap",
            "left": "500.000",
            "resets_at": "2026-06-10T16:00:00Z",
        },
        "iat": int(NOW.timestamp()),
    }
    form = gateway.client.generic(
        "POST",
        "/api/v1/keys/introspect",
        f"token={made['secret']}&token_type_hint=access_token",
        "application/x-www-form-urlencoded",
    )
    assert form.json()["subject"] == made["subject"]
    assert form["Cache-Control"] == "no-store"


def test_what_was_reserved_or_used_is_off_what_the_cap_has_left(
    api: APIClient, gateway: Gateway
) -> None:
    made = make_subscriber_key(api, **cap("1000"))
    use(gateway, made, 300)
    reserve(gateway, "a-1", subject=made["subject"], units="200")

    assert introspect(gateway, made["secret"])["cap"]["left"] == "500.000"

    rollups.fold_all(at=NOW)
    assert introspect(gateway, made["secret"])["cap"]["left"] == "500.000"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\u0000"}'])
def test_a_look_up_that_says_nothing_is_refused(body: bytes, gateway: Gateway) -> None:
    assert gateway.send(body, path="/api/v1/keys/introspect").status_code in (400, 422)


def test_a_rotated_key_lives_on_for_the_overlap(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    made = make_subscriber_key(api)

    new = post(api, f"{KEYS}/{made['id']}/rotate", {"overlap_hours": 2}).json()

    assert new["subject"] == made["subject"]
    assert introspect(gateway, made["secret"])["exp"] == int((NOW + 2 * HOUR).timestamp())
    assert "exp" not in introspect(gateway, new["secret"])
    set_clock(operator, NOW + 2 * HOUR)
    assert introspect(gateway, made["secret"]) == {"active": False}
    assert introspect(gateway, new["secret"])["active"]

    newest = post(api, f"{KEYS}/{made['id']}/rotate", {"overlap_hours": 0}).json()
    assert introspect(gateway, new["secret"]) == {"active": False}
    assert introspect(gateway, newest["secret"])["active"]


def test_a_revoked_key_lets_nobody_in_and_what_it_was_used_for_is_charged(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    made = make_subscriber_key(api)
    reserve(gateway, "a-1", subject=made["subject"])

    assert revoke(api, made).status_code == 200

    assert introspect(gateway, made["secret"]) == {"active": False}
    set_clock(operator, NOW + MINUTE)
    denied = reserve(gateway, "a-2", subject=made["subject"])
    assert (denied["decision"], denied["cause"]) == ("deny", "key_revoked")
    assert commit(gateway, "a-1", subject=made["subject"])["accepted"] == 1
    use(gateway, made, 50, occurred_at=NOW + MINUTE)
    assert balance(api)["available"] == "9999830.000"
    assert [step["kind"] for step in get(api, f"{KEYS}/{made['id']}")["steps"]] == [
        "revoked",
        "created",
    ]
    assert revoke(api, made).status_code == 200
    assert_problem(post(api, f"{KEYS}/{made['id']}/rotate", {}), 409, "key_revoked")
    make_subscriber_key(api, made["name"])  # the name is free again


def test_every_change_is_a_step_that_nobody_rewrites(api: APIClient) -> None:
    made = make_subscriber_key(api)

    change(api, made, **cap("7"))
    change(api, made, **cap("7.000"))  # says nothing new
    last = change(api, made, name="desk", cap=None)

    assert [(step["kind"], step["by"], step["detail"]) for step in last["steps"][:2]] == [
        (
            "changed",
            "crm",
            {"name": ["laptop", "desk"], "cap": ["7.000", None], "cap_per": ["month", ""]},
        ),
        ("changed", "crm", {"cap": [None, "7.000"], "cap_per": ["", "month"]}),
    ]
    assert len(last["steps"]) == 3
    for rewrite in (KeyStep.objects.all().delete, lambda: KeyStep.objects.update(by="me")):
        with pytest.raises(IntegrityError), transaction.atomic():
            rewrite()


@pytest.mark.parametrize(
    ("draft", "status", "cause"),
    [
        ({}, 422, "invalid"),
        ({"name": " "}, 422, "invalid"),
        ({"name": "a", "cap": {"units": "0", "per": "day"}}, 422, "invalid"),
        ({"name": "a", "cap": {"units": "5", "per": "week"}}, 422, "invalid"),
        ({"name": "a", "cap": {"units": "5"}}, 422, "invalid"),
        ({"name": "a", "models": ["*"] * 51}, 422, "invalid"),
        ({"name": "laptop"}, 409, "key_name_taken"),
        ({"name": "a", "subject": "user-s-1"}, 409, "subject_taken"),
    ],
)
def test_a_draft_that_makes_no_key(
    draft: dict[str, Any], status: int, cause: str, api: APIClient
) -> None:
    make_subscriber_key(api)

    assert_problem(post(api, KEYS, draft), status, cause)

    assert SubscriberKey.objects.count() == 1


def test_a_subscriber_has_so_many_keys_and_no_more(
    api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "MOST", 2)
    first = make_subscriber_key(api, "a")
    make_subscriber_key(api, "b")

    assert_problem(post(api, KEYS, {"name": "c"}), 409, "too_many_keys")

    revoke(api, first)
    make_subscriber_key(api, "c")


def test_the_subjects_of_keys_are_in_no_list_of_the_crm(api: APIClient, gateway: Gateway) -> None:
    made = make_subscriber_key(api)

    shown = put(api, "subscribers/s-1", {"subjects": ["user-s-1", "user-new"]}).json()

    assert shown["subjects"] == ["user-s-1", "user-new"]
    use(gateway, made, 10)
    taken = put(api, "subscribers/s-2", {"subjects": [made["subject"]]})
    assert_problem(taken, 409, "subject_taken")
    own = put(api, "subscribers/s-1", {"subjects": [made["subject"]]})
    assert_problem(own, 409, "subject_taken")


def test_names_of_keys_are_found_by_their_subjects(api: APIClient, subscriber: Subscriber) -> None:
    first, second = make_subscriber_key(api, "a"), make_subscriber_key(api, "b")
    revoke(api, first)

    assert keeping.names_of(subscriber.pk) == {first["subject"]: "a", second["subject"]: "b"}


# Guessing ----------------------------------------------------------------------------------------


def test_a_client_that_guesses_is_not_listened_to_and_shuts_nobody_else_out(
    operator: Operator, api: APIClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guessing, "OF_CLIENT", 3)
    made = make_subscriber_key(api)
    for nr in range(2):
        assert introspect(gateway, f"sk-tb-{nr}", client="10.0.0.1") == {"active": False}

    body = {"token": "sk-tb-3", "client": "10.0.0.1"}
    refused = post(gateway.client, "keys/introspect", body)

    assert_problem(refused, 429, "too_many_guesses")
    assert refused["Retry-After"] == "600"
    right = {"token": made["secret"], "client": "10.0.0.1"}
    assert_problem(post(gateway.client, "keys/introspect", right), 429, "too_many_guesses")
    assert introspect(gateway, made["secret"], client="10.0.0.2")["active"]
    assert introspect(gateway, made["secret"])["active"]
    set_clock(operator, NOW + 10 * MINUTE)
    assert introspect(gateway, made["secret"], client="10.0.0.1")["active"]
    assert introspect(gateway, "sk-tb-4", client="10.0.0.1") == {"active": False}
    assert guessing.forget(operator.pk, at=NOW + DAY) == KeyMisses.objects.count() + 1


def test_misses_that_name_no_client_refuse_only_misses(
    api: APIClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guessing, "OF_GATEWAY", 2)
    made = make_subscriber_key(api)
    introspect(gateway, "sk-tb-1")

    refused = post(gateway.client, "keys/introspect", {"token": "sk-tb-2"})

    assert_problem(refused, 429, "too_many_guesses")
    assert introspect(gateway, made["secret"])["active"]


def test_another_operators_key_is_none(api: APIClient) -> None:
    made = make_subscriber_key(api)
    theirs = make_operator("theirs")
    make_subscriber(theirs, subjects=())

    assert introspect(Gateway(theirs), made["secret"]) == {"active": False}
    assert get(client_for(make_key(theirs)), KEYS) == {"items": []}
    path = f"/api/v1/{KEYS}/{made['id']}"
    assert_problem(client_for(make_key(theirs)).get(path), 404, "not_found")


# Asking ------------------------------------------------------------------------------------------


def test_a_cap_is_of_its_key_alone(api: APIClient, gateway: Gateway) -> None:
    capped, free = make_subscriber_key(api, "a", **cap("100")), make_subscriber_key(api, "b")
    use(gateway, capped, 90)

    denied = reserve(gateway, "a-1", subject=capped["subject"], units="11")
    rest = reserve(gateway, "a-2", subject=capped["subject"], units="10")

    assert (denied["decision"], denied["cause"]) == ("deny", "key_capped")
    assert denied["limit"] == {
        "per": "month",
        "kind": "cap",
        "left": "10.000",
        "resets_at": "2026-06-30T16:00:00Z",
    }
    assert rest["decision"] == "allow"
    for nr, subject in enumerate((free["subject"], "user-s-1")):
        assert reserve(gateway, f"b-{nr}", subject=subject, units="500")["decision"] == "allow"
    release(gateway, "a-2")
    assert reserve(gateway, "a-3", subject=capped["subject"], units="10")["decision"] == "allow"


def test_a_cap_begins_anew_with_the_day_or_month_of_the_zone(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    made = make_subscriber_key(api, **cap("100", "day"))
    use(gateway, made, 100, "late", occurred_at=NOW - DAY)
    use(gateway, made, 100)
    assert reserve(gateway, "a-1", subject=made["subject"], units="1")["cause"] == "key_capped"

    set_clock(operator, local(2026, 6, 11))

    assert reserve(gateway, "a-2", subject=made["subject"], units="100")["decision"] == "allow"
    rollups.fold_all(at=NOW)
    [shown] = get(api, KEYS)["items"]
    assert (shown["used_today"], shown["used_this_month"]) == ("0.000", "200.000")
    assert shown["last_used_at"] == "2026-06-10T04:00:00Z"


def test_usage_beyond_a_cap_is_charged_and_then_nothing_is_granted(
    api: APIClient, gateway: Gateway
) -> None:
    made = make_subscriber_key(api, **cap("100"))
    reserve(gateway, "a-1", subject=made["subject"], units="100")

    answer = commit(gateway, "a-1", subject=made["subject"], input_tokens=400, output_tokens=0)

    assert answer["units"] == "400.000"
    denied = reserve(gateway, "a-2", subject=made["subject"], units="1")
    assert (denied["cause"], denied["limit"]["left"]) == ("key_capped", "0.000")


def test_a_key_uses_the_models_that_it_may(api: APIClient, gateway: Gateway) -> None:
    made = make_subscriber_key(api, models=["deepseek/*", "gpt-4o"])

    def ask(id: str, model: str) -> Any:
        return reserve(gateway, id, subject=made["subject"], model=model)

    assert ask("a-1", "deepseek/chat")["decision"] == "allow"
    denied = ask("a-2", "gpt-4o-mini")
    assert (denied["decision"], denied["cause"]) == ("deny", "model_not_allowed")
    headers = {"X-Subject": made["subject"], "X-Model": "gpt-4o-mini"}
    refused = gateway.client.get("/api/v1/authorize", headers=headers)
    assert_problem(refused, 403, "model_not_allowed")


def test_a_changed_cap_holds_for_the_next_ask_of_a_subject_that_is_remembered(
    api: APIClient, gateway: Gateway
) -> None:
    made = make_subscriber_key(api)
    for nr in range(3):  # by now it goes in one message
        assert (
            reserve(gateway, f"a-{nr}", subject=made["subject"], units="5")["decision"] == "allow"
        )

    change(api, made, **cap("20"))

    assert reserve(gateway, "b-1", subject=made["subject"], units="6")["cause"] == "key_capped"
    assert reserve(gateway, "b-2", subject=made["subject"], units="5")["decision"] == "allow"
    change(api, made, **cap("30"))
    assert reserve(gateway, "b-3", subject=made["subject"], units="10")["decision"] == "allow"
    change(api, made, cap=None)
    assert not Guard.objects.exists()
    assert reserve(gateway, "b-4", subject=made["subject"], units="999")["decision"] == "allow"


def test_a_slice_is_renewed_within_the_cap(api: APIClient, gateway: Gateway) -> None:
    made = make_subscriber_key(api, **cap("150"))
    subject = made["subject"]
    first = reserve(gateway, "s-1", subject=subject, units="100", slice=True)
    assert (first["granted"], first["decision"]) == ("100.000", "allow")

    said = record("r-1", subject=subject, input_tokens=90, output_tokens=0)
    renewed = post(gateway.client, "reservations/s-1/usage", said).json()

    assert (renewed["granted"], renewed["final"]) == ("60.000", True)
    revoke(api, made)
    more = record("r-2", subject=subject, input_tokens=55, output_tokens=0)
    last = post(gateway.client, "reservations/s-1/usage", more).json()
    assert (last["units"], last["cause"]) == ("55.000", "key_revoked")


def test_forward_auth_takes_the_key_itself(api: APIClient, gateway: Gateway) -> None:
    made = make_subscriber_key(api, **cap("100"))

    def ask(presented: str) -> Any:
        headers = {"X-Presented-Key": presented, "X-Model": "deepseek/chat"}
        return gateway.client.get("/api/v1/authorize", headers=headers)

    allowed = ask(f"Bearer {made['secret']}")
    assert (allowed.status_code, allowed["X-Subject"]) == (200, made["subject"])
    assert allowed.json()["subject"] == made["subject"]
    assert_problem(ask("sk-tb-none"), 403, "unknown_key")
    use(gateway, made, 100)
    refused = ask(made["secret"])
    assert_problem(refused, 429, "key_capped")
    assert int(refused["Retry-After"]) == (local(2026, 7, 1) - NOW).total_seconds()


def test_who_has_no_capped_key_is_asked_for_at_no_more_queries(
    api: APIClient, gateway: Gateway
) -> None:
    def queries(id: str, subject: str) -> int:
        with CaptureQueriesContext(connection) as caught:
            assert reserve(gateway, id, subject=subject, units="5")["decision"] == "allow"
        return len(caught)

    queries("warm", "user-s-1")
    before = queries("a-1", "user-s-1")
    key = make_subscriber_key(api)
    queries("warm-2", key["subject"])

    assert queries("a-2", key["subject"]) == before
    queries("warm-3", "user-s-1")
    assert queries("a-3", "user-s-1") == before


# Usage by key ------------------------------------------------------------------------------------


def test_totals_of_keys_follow_voids_and_agree_with_the_records(
    api: APIClient, gateway: Gateway
) -> None:
    made = make_subscriber_key(api)
    use(gateway, made, 100, "r-1")
    use(gateway, made, 40, "r-2")
    gateway.charge(record("other"))
    rollups.fold_all(at=NOW)
    path = "subscribers/s-1/usage-records/r-2/void"
    assert post(api, path, {"reason": "sent twice"}).status_code == 200

    [shown] = get(api, KEYS)["items"]

    assert shown["used_this_month"] == "100.000"
    assert_books_agree()


def test_litellm_names_a_key_by_its_alias_and_one_that_names_nobody_by_its_hash(
    api: APIClient, gateway: Gateway
) -> None:
    made = make_subscriber_key(api)
    hashed = make_subscriber_key(api, "hashed", subject="88dc28d0f030c55ed4ab77ed8faf098196cb1c05")

    def event(id: str, **metadata: Any) -> Any:
        body = sent.litellm(id)
        body["end_user"] = ""
        body["metadata"] = {**body["metadata"], "user_api_key_end_user_id": None, **metadata}
        return body

    answer = gateway.send(
        [
            event("l-1", user_api_key_alias=made["subject"], user_api_key_user_id="user-s-1"),
            event(
                "l-2",
                user_api_key_alias=None,
                user_api_key_user_id=None,
                user_api_key_hash=hashed["subject"],
            ),
        ],
        path="/api/v1/events",
    )

    assert answer.status_code in (200, 204), answer.content
    rollups.fold_all(at=NOW)
    assert all(float(one["used_this_month"]) > 0 for one in get(api, KEYS)["items"])
