"""Providers' files against our books, day by day: what matches, what differs, what staff say."""

from __future__ import annotations

import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import Error, connection, transaction
from rest_framework.test import APIClient

from billing import corrections, disputes, ledger, refunds
from billing.models import (
    PaymentDifference,
    ProviderAccount,
    ProviderFile,
    ProviderLine,
    ProviderPayment,
    Refund,
)
from billing.orders import buying, keeping, paying
from billing.ways.provider import About, Answer, Event, Fate
from subscriptions import clock
from subscriptions.models import Operator
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_subscriber,
    set_clock,
)
from tests.providers import stripe_account
from tests.usage import DAY, assert_books_agree, assert_problem, get, post, put

pytestmark = pytest.mark.django_db

START = local(2026, 6, 10, 12)
REFUND = {"amount": "5.00", "reason": "asked"}
STRIPE = (
    "balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category,source_id,"
    "payment_intent_id,payment_metadata[key]"
)
ALIPAY = (
    "账务流水号,业务流水号,商户订单号,商品名称,发生时间,对方账号,收入金额（+元）,支出金额（-元）,"
    "账户余额（元）,交易渠道,业务类型,备注"
)
WECHAT = (
    "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,"
    "货币种类,应结订单金额,代金券金额,微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态,"
    "商品名称,商户数据包,手续费,费率,订单金额,申请退款金额,费率备注"
)


@pytest.fixture
def operator() -> Operator:
    operator = make_operator("ct", at=START)
    make_subscriber(operator)
    return operator


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator))


def paid(operator: Operator, amount: str, reference: str) -> str:
    """A top-up that Stripe says is paid; the key of its attempt."""
    at = clock.now(operator)
    account = stripe_account(operator)
    whose = operator.subscribers.get().pk
    order = buying.order_top_up(operator, whose, Decimal(amount), currency="CNY", at=at)
    with transaction.atomic():
        held = keeping.locked(operator, order.number)
        intent = keeping.attempt(held, "card", at=at, account=account)
    came = Answer(Fate.SUCCEEDED, reference, amount=Decimal(amount), currency="CNY")
    paying.hear(operator, order.number, intent.nr, account, came, at=at)
    return intent.key


def line(name: str, gross: str, fee: str = "0.00", **said: str) -> str:
    """A line of Stripe's, of 10 June in Shanghai."""
    net = f"{Decimal(gross) - Decimal(fee):.2f}"
    at = said.get("at", "2026-06-10 06:00:00")
    cells = (name, at, "cny", gross, fee, net, said.get("about", "charge"), f"ch_{name}")
    return ",".join((*cells, said.get("intent", ""), said.get("key", "")))


def file_of(*lines: str, heading: str = STRIPE) -> bytes:
    return "\n".join((heading, *lines, "")).encode()


def send(api: APIClient, body: bytes, query: str = "layout=stripe&name=june.csv") -> Any:
    return api.post(f"/api/v1/provider-files?{query}", body, content_type="text/csv")


def loaded(api: APIClient, *lines: str) -> Any:
    answer = send(api, file_of(*lines))
    assert answer.status_code == 201, answer.content
    return answer.json()


def differences(api: APIClient, state: str = "open") -> dict[str, Any]:
    found = get(api, f"payment-differences?state={state}")["items"]
    return {one["line"] or one["ours"] or one["kind"]: one for one in found}


def resolve(api: APIClient, one: Any, resolution: str) -> Any:
    path = f"payment-differences/{one['id']}/resolve"
    return post(api, path, {"resolution": resolution, "note": "looked at"})


def day(api: APIClient, name: str = "2026-06-10") -> dict[str, Any]:
    [found] = get(api, f"provider-days?from={name}&to={name}")["items"]
    shown = {k: v["amount"] if isinstance(v, dict) else v for k, v in found.items()}
    moved = ("matched", "missing_here", "amount_differs", "fees", "payouts")
    assert Decimal(shown["total"]) == sum(Decimal(shown[k]) for k in moved)
    own = ("matched", "amount_differs_ours", "missing_there")
    assert Decimal(shown["ours"]) == sum(Decimal(shown[k]) for k in own)
    return shown


def balance(operator: Operator, code: str) -> str:
    at = clock.now(operator)
    found = {one.account: one.balance for one in ledger.trial_balance(operator.pk, at=at)}
    return f"{found.get(code, Decimal(0)):.2f}"


def test_a_day_is_what_matched_and_what_differs_and_staff_resolve_each(
    operator: Operator, api: APIClient
) -> None:
    by_key, by_reference = paid(operator, "30.00", "pi_1"), paid(operator, "20.00", "pi_2")
    other, gone = paid(operator, "10.00", "pi_3"), paid(operator, "5.00", "pi_4")
    assert len({by_key, by_reference, other, gone}) == 4

    file = loaded(
        api,
        line("t1", "30.00", "0.30", key=by_key),
        line("t2", "20.00", "0.20", intent="pi_2"),
        line("t3", "9.99", "0.10", key=other),
        line("t5", "7.00", intent="pi_stranger"),
        line("t6", "-1.50", about="fee"),
        line("t7", "-50.00", about="payout"),
    )

    assert (file["rows"], file["lines"], file["first_day"]) == (6, 6, "2026-06-10")
    shown = day(api)
    assert {name: shown[name] for name in ("total", "matched", "missing_here", "fees")} == {
        "total": "14.89",
        "matched": "50.00",
        "missing_here": "7.00",
        "fees": "-2.10",
    }
    assert (shown["amount_differs"], shown["amount_differs_ours"]) == ("9.99", "10.00")
    assert (shown["payouts"], shown["missing_there"], shown["ours"]) == (
        "-50.00",
        "5.00",
        "65.00",
    )
    found = differences(api)
    kinds = sorted(one["kind"] for one in found.values())
    assert kinds == ["amount_differs", "fees", "missing_here", "missing_there", "payout"]
    assert balance(operator, "cash:stripe") == "65.00"  # nothing is changed by itself

    assert resolve(api, found["fees"], "fee").json()["state"] == "resolved"
    assert resolve(api, found["t7"], "arrived").json()["state"] == "resolved"
    assert resolve(api, found["t3"], "written_off").json()["state"] == "resolved"
    assert resolve(api, found["t5"], "unclear_payment").json()["state"] == "resolved"
    [there] = [one for one in found.values() if one["kind"] == "missing_there"]
    assert resolve(api, there, "known").json()["state"] == "resolved"
    assert resolve(api, there, "known").status_code == 200
    assert_problem(resolve(api, there, "written_off"), 409, "difference_resolved")

    assert balance(operator, "cash:stripe") == "12.89"
    assert balance(operator, "cash:bank") == "50.00"
    assert balance(operator, "provider_fee") == "2.10"
    assert balance(operator, "payment_differences") == "0.01"
    assert ProviderPayment.objects.get(became="unclear").amount == 7
    assert (day(api)["open"], differences(api)) == (0, {})
    assert_books_agree()


def test_what_went_back_is_matched_by_the_refund_and_the_dispute_whose_it_is(
    operator: Operator, api: APIClient
) -> None:
    """Two of one payment and one amount each, told by the refund's own name, by its key, and in a
    file that names the payment alone."""
    keys = [paid(operator, "30.00", f"pi_{nr}") for nr in range(3)]
    account = ProviderAccount.objects.get()
    backs = []
    for nr, key in enumerate(keys):
        path = f"orders/{key.removesuffix('-1')}/refunds"
        made = Refund.objects.get(number=post(api, path, REFUND).json()["number"])
        answer = Answer(Fate.SUCCEEDED, f"re_{nr}", amount=Decimal(5), currency="CNY")
        told = Event(f"ev{nr}", About.REFUND, made.key, f"re_{nr}", answer, START)
        assert refunds.settle_refund(operator, told, at=START) is not None
        backs.append(made)
    disputed = Answer(Fate.WAITING, "pi_0", amount=Decimal(25), currency="CNY")
    opened = Event("ev9", About.DISPUTE, "", "du_1", disputed, START)
    assert disputes.take_dispute(operator, opened, at=START) is not None
    assert account.provider == "stripe"

    def back(name: str, source: str, key: str = "", about: str = "refund") -> str:
        return f"{name},2026-06-10 06:00:00,cny,-5.00,0.00,-5.00,{about},{source},pi_9,,{key}"

    heading = f"{STRIPE},refund_metadata[key]"
    lines = [
        *(line(f"t{nr}", "30.00", intent=f"pi_{nr}") + "," for nr in range(3)),
        back("t4", "re_0"),
        back("t5", "re_x", backs[1].key),
        back("t6", "du_1", about="dispute").replace("-5.00", "-25.00"),
    ]
    assert send(api, file_of(*lines, heading=heading)).status_code == 201

    matched = dict(ProviderLine.objects.exclude(ours="").values_list("line_id", "ours"))
    assert [matched[name].partition(":")[2].split(":")[0] for name in ("t4", "t5")] == [
        str(backs[0].id),
        str(backs[1].id),
    ]
    assert matched["t6"].startswith("dispute:")
    assert [one["kind"] for one in differences(api).values()] == ["missing_there"]

    # Alipay names what was paid.
    named = f"z1,2026001,{keys[2]},x,2026-06-10 06:00:00,a,,5.00,0.00,b,交易退款,"
    assert (
        send(api, file_of(named, heading=ALIPAY), "layout=alipay&account=stripe&name=a").status_code
        == 201
    )
    assert differences(api) == {}
    assert_books_agree()


def test_above_the_limit_nothing_but_a_days_fees_is_booked_as_a_fee_by_one(
    operator: Operator, api: APIClient
) -> None:
    rules = corrections.Rules(approval_limit=Decimal(1))
    corrections.set_rules(operator, rules, by="boss", at=START)
    key = paid(operator, "30.00", "pi_1")
    loaded(api, line("t1", "20.00", "2.00", key=key))
    found = differences(api)

    assert_problem(resolve(api, found["t1"], "fee"), 422, "invalid")
    assert resolve(api, found["fees"], "fee").json()["state"] == "resolved"
    assert resolve(api, found["t1"], "written_off").json()["state"] == "waiting"
    assert balance(operator, "provider_fee") == "2.00"
    assert_books_agree()


def test_what_a_dispute_costs_is_booked_once_with_the_fees_of_its_day(
    operator: Operator, api: APIClient
) -> None:
    """The notice of the dispute and the provider's books both name the fee."""
    key = paid(operator, "30.00", "pi_1")
    answer = Answer(Fate.WAITING, "pi_1", amount=Decimal(30), currency="CNY")
    costs = {"balance_transactions": [{"amount": -3000, "fee": 1500, "currency": "cny"}]}
    opened = Event("ev1", About.DISPUTE, "", "du_1", answer, START, details={"object": costs})
    found = disputes.take_dispute(operator, opened, at=START)
    assert found is not None
    assert found.fee == 15

    taken = f"t2,2026-06-10 06:00:00,cny,-30.00,15.00,-45.00,dispute,du_1,pi_1,{key}"
    loaded(api, line("t1", "30.00", "0.30", key=key), taken)

    [fees] = differences(api).values()
    assert (fees["kind"], fees["amount"]["amount"]) == ("fees", "-15.30")
    assert resolve(api, fees, "fee").json()["state"] == "resolved"
    assert balance(operator, "provider_fee") == "15.30"
    assert balance(operator, "cash:stripe") == "-15.30"
    assert_books_agree()


def test_the_same_file_and_the_same_lines_change_nothing(
    operator: Operator, api: APIClient
) -> None:
    lines = [line("t1", "30.00", key=paid(operator, "30.00", "pi_1")), line("t2", "7.00")]
    first = loaded(api, *lines)

    again = send(api, file_of(*lines))
    assert (again.status_code, again.json()) == (200, first)
    more = loaded(api, *lines, line("t3", "8.00"))

    assert (more["rows"], more["lines"], ProviderLine.objects.count()) == (3, 1, 3)
    assert sorted(differences(api)) == ["t2", "t3"]
    contradicts = send(api, file_of(line("t4", "1.00"), line("t2", "7.01")))
    assert_problem(contradicts, 422, "bad_file")
    assert "line 3: t2 has other content than in june.csv" in contradicts.json()["detail"]
    elsewhere = send(api, file_of(*lines), "layout=stripe&account=other")
    assert_problem(elsewhere, 409, "file_known")
    assert ProviderLine.objects.count() == 3
    assert_books_agree()


def test_what_comes_in_a_later_file_is_no_difference_any_more(
    operator: Operator, api: APIClient
) -> None:
    key = paid(operator, "30.00", "pi_1")
    loaded(api, line("t1", "1.00"))
    assert [one["kind"] for one in differences(api).values()] == ["missing_here", "missing_there"]

    loaded(api, line("t2", "30.00", key=key, at="2026-06-10 16:30:00"))  # the next day

    [came] = differences(api, "resolved").values()
    assert (came["resolution"], came["resolved_by"]) == ("came", "import")
    assert came["note"] == "in june.csv, line 2"
    assert (day(api)["missing_there"], day(api, "2026-06-11")["matched"]) == ("0.00", "30.00")
    assert_books_agree()


def test_above_the_limit_two_persons_write_a_difference_off(
    operator: Operator, api: APIClient
) -> None:
    limit = {"approval_limit": "5.00", "over_charge_factor": "1"}
    assert put(api, "correction-policy", limit).status_code == 200
    other = client_for(make_key(operator, name="another"))
    paid(operator, "30.00", "pi_1")
    loaded(api, line("t1", "5.00"))
    found = differences(api)
    [there] = [one for one in found.values() if one["kind"] == "missing_there"]
    assert resolve(api, found["t1"], "written_off").json()["state"] == "resolved"

    assert resolve(api, there, "written_off").json()["state"] == "waiting"
    path = f"payment-differences/{there['id']}"
    assert_problem(post(api, f"{path}/approve", {"note": "x"}), 409, "four_eyes")
    assert post(other, f"{path}/reject", {"note": "ask them"}).json()["state"] == "open"
    assert resolve(api, there, "written_off").json()["state"] == "waiting"
    assert balance(operator, "payment_differences") == "-5.00"
    approved = post(other, f"{path}/approve", {"note": "they went bankrupt"}).json()

    assert (approved["asked_by"], approved["resolved_by"]) == ("crm", "another")
    assert balance(operator, "payment_differences") == "25.00"
    assert balance(operator, "cash:stripe") == "5.00"
    # What is in no book any more is not matched by a line that comes after all.
    set_clock(operator, START + DAY)
    loaded(api, line("t9", "30.00", intent="pi_1"))
    assert differences(api)["t9"]["kind"] == "missing_here"
    assert_books_agree()


def test_somebody_looks_after_a_difference(operator: Operator, api: APIClient) -> None:
    loaded(api, line("t1", "5.00"))
    set_clock(operator, START + 3 * DAY)
    one = differences(api)["t1"]
    path = f"payment-differences/{one['id']}/assign"
    shown = post(api, path, {"owner": "Li", "note": "asked Stripe"}).json()
    assert (shown["owner"], shown["note"], shown["age_days"]) == ("Li", "asked Stripe", 3)
    assert_problem(resolve(api, one, "arrived"), 422, "invalid")
    with (
        pytest.raises(Error, match="a line stays as it came"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("UPDATE billing_providerline SET gross = 6")


@pytest.mark.parametrize(
    ("layout", "body", "moved"),
    [
        (
            "alipay",
            "#支付宝账务明细查询\n"
            f"{ALIPAY}\n"
            "1\t,B1,KEY-1,x,2026-06-10 12:00:00,a***@x.com,30.00,,130.00,支付宝,在线支付,\n"
            "2\t,B1,KEY-1,x,2026-06-10 12:00:01,,,-0.18,129.82,支付宝,收费,\n"
            "3\t,B3,KEY-1,x,2026-06-10 13:00:00,,,-10.00,119.82,支付宝,交易退款,\n"
            "4\t,B4,,x,2026-06-10 23:59:59,,,-100.00,19.82,支付宝,提现,\n"
            "#-----------------------------------------账务明细列表结束-----------\n",
            [
                *(("fee", "-0.18", "0"), ("payment", "30", "0")),
                *(("payout", "-100", "0"), ("refund", "-10", "0")),
            ],
        ),
        (
            "wechat_pay",
            f"{WECHAT}\n"
            "`2026-06-10 12:00:00,`wx1,`19,`0,`,`4200001,`KEY-1,`o1,`NATIVE,`SUCCESS,`OTHERS,`CNY,"
            "`30.00,`0.00,`0,`0,`0.00,`0.00,`,`,`Top-up,`,`0.18000,`0.60%,`30.00,`0.00,`\n"
            "`2026-06-10 13:00:00,`wx1,`19,`0,`,`4200001,`KEY-1,`o1,`NATIVE,`REFUND,`OTHERS,`CNY,"
            "`0.00,`0.00,`5030001,`R-1,`10.00,`0.00,`ORIGINAL,`SUCCESS,`Top-up,`,`-0.06000,`0.60%,"
            "`0.00,`10.00,`\n"
            "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额\n"
            "`2,`30.00,`10.00,`0.00,`0.12000,`30.00,`10.00\n",
            [("payment", "30", "0.18"), ("refund", "-10", "-0.06")],
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
def test_files_of_alipay_and_wechat_pay_are_read_as_they_are_exported(
    api: APIClient, layout: str, body: str, moved: list[tuple[str, str, str]], encoding: str
) -> None:
    answer = send(api, body.replace("\n", "\r\n").encode(encoding), f"layout={layout}")

    assert answer.status_code == 201, answer.content
    lines = ProviderLine.objects.order_by("kind").values_list("kind", "gross", "fee")
    expected = [(kind, Decimal(gross), Decimal(fee)) for kind, gross, fee in moved]
    assert list(lines) == expected
    shown = day(api)
    assert Decimal(shown["total"]) == sum(gross - fee for _, gross, fee in expected)
    assert ProviderLine.objects.filter(kind="payment", key="KEY-1").count() == 1
    assert_books_agree()


GOOD = line("t1", "30.00", "0.30")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no heading"),
        (file_of(), "no line in this file"),
        (file_of(GOOD).decode().encode("utf-16"), "no CSV"),
        (b"\x1f\x8b\x08\x00\x00", "no CSV"),
        (f"{STRIPE}\n{GOOD},\n支付".encode("gb18030"), "not in UTF-8"),
        (file_of(GOOD, heading=STRIPE.replace("gross,", "amount,")), "columns are missing: gross"),
        (file_of(GOOD, heading=STRIPE.replace("balance_transaction_id", "id")), "is missing"),
        (file_of(GOOD, line("t2", "1.001")), "line 3: gross is 1.001"),
        (file_of(GOOD, line("t2", "1.00").replace("1.00", "1e3", 1)), "line 3: gross is 1e3"),
        (file_of(GOOD, line("t2", "1.00").replace("cny", "usd")), "line 3: USD"),
        (file_of(GOOD, line("t1", "31.00")), "t1 is there twice"),
        (file_of(GOOD, line("", "31.00")), "line 3: there is no balance_transaction_id"),
        (file_of(GOOD, line("t2", "1.00", at="yesterday")), "line 3: yesterday is no time"),
        (file_of(GOOD, line("t2", "1.00", at="2024-06-10 06:00:00")), "too long for one file"),
        (file_of(GOOD, "t2,2026-06-10"), "line 3: 2 cells, the heading has 10"),
        (file_of(GOOD, line("t2", "1.00").replace(",1.00,charge", ",0.99,charge")), "net is not"),
        (file_of(GOOD, f't2,"{"x" * 300_000}'), "line 3"),
    ],
)
def test_a_bad_file_is_refused_with_its_place_and_nothing_of_it_stays(
    api: APIClient, body: bytes, says: str
) -> None:
    answer = send(api, body)

    assert_problem(answer, 422, "bad_file")
    assert says in answer.json()["detail"]
    assert not ProviderFile.objects.exists()
    assert not ProviderLine.objects.exists()


def test_what_is_no_file_or_too_large_says_what_to_do(
    api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_problem(send(api, file_of(GOOD), "layout=other"), 422, "invalid")
    assert_problem(send(api, file_of(GOOD), "layout=stripe&account=bank"), 422, "invalid")
    json_body = post(api, "provider-files?layout=stripe", {})
    assert json_body.status_code == 415
    monkeypatch.setattr("billing.api.provider_books.MOST_BYTES", 200)
    large = send(api, file_of(*[GOOD] * 9))
    assert_problem(large, 413, "too_large")
    assert "provider_books import" in large.json()["detail"]


def test_the_command_imports_and_lists(operator: Operator, api: APIClient, tmp_path: Path) -> None:
    path = tmp_path / "june.csv"
    path.write_bytes(file_of(line("t1", "30.00", "0.30")))

    def said(*arguments: str) -> str:
        out = io.StringIO()
        call_command("provider_books", *arguments, stdout=out, no_color=True)
        return out.getvalue()

    load = ("import", str(path), "--layout", "stripe", "--by", "Li")
    assert "1 new of 1 lines" in said(*load)
    assert "imported before" in said(*load)
    assert "june.csv" in said("list")
    assert "29.70 = matched 0 + missing here 30.00" in said("days", "2026-06-10", "2026-06-10")
    assert said("differences").count("\n") == PaymentDifference.objects.count() == 2
    path.write_bytes(file_of(line("t2", "1.001")))
    with pytest.raises(CommandError, match="two decimals at most"):
        said(*load)
    with pytest.raises(CommandError, match="No such file"):
        said("import", str(tmp_path / "none.csv"), "--layout", "stripe", "--by", "Li")
