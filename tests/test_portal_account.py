"""The pages of somebody's own account: what they show, to whom, and what they cost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing import closing
from billing.checkout import links
from billing.models import Invoice, Order
from metering.portal import charts, pace
from subscriptions import catalog, clock
from subscriptions.models import Operator, Subscriber, Subscription
from tests.factories import (
    NOW,
    buckets_of,
    local,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    yuan,
)
from tests.usage import Gateway, record
from tests.visiting import client_of, user_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _this_portal(operator: Operator, settings: Any) -> None:
    settings.PORTAL_OPERATOR = operator.code


@pytest.fixture
def page(subscriber: Subscriber) -> Callable[[str], str]:
    """The text of a page, as the subscriber sees it."""
    client = client_of(subscriber)

    def get(path: str) -> str:
        answer = client.get(path)
        assert answer.status_code == 200, path
        return answer.content.decode()

    return get


def use(
    gateway: Gateway, *, tokens: int, name: str = "r", at: dt.datetime = NOW, **more: Any
) -> None:
    gateway.charge(
        record(
            name, subject="user-s-1", occurred_at=at, input_tokens=tokens, output_tokens=0, **more
        )
    )


def a_booster(operator: Operator) -> None:
    catalog.publish_booster(
        operator, "b5", name="Five", price=yuan("5.00"), units=4_000_000_000, valid_days=30, at=NOW
    )


def an_invoice(operator: Operator, subscriber: Subscriber) -> Invoice:
    set_clock(operator, local(2026, 7, 3))
    closing.close_due(operator, at=clock.now(operator))
    return Invoice.objects.get(subscriber_id=subscriber.pk, state="open")


# What is shown ------------------------------------------------------------------------------------


def test_home_says_what_is_left_and_follows_use(
    page: Callable[[str], str], gateway: Gateway
) -> None:
    assert 'data-figure="10000000000"' in page("/")

    use(gateway, tokens=1_234_567)

    home = page("/")
    assert 'data-figure="8765433000"' in home
    assert "8.76 M" in home
    assert "Renews on 1 Jul 2026 for ¥9.90." in home
    assert "until 30 Jun 2026" in home


def test_the_figures_alone_are_what_the_page_asks_for_anew(subscriber: Subscriber) -> None:
    part = client_of(subscriber).get("/", headers={"hx-request": "true"}).content.decode()

    assert part.lstrip().startswith('<div id="figures"')
    assert "<html" not in part


def test_usage_shows_models_periods_and_the_table_as_csv(
    page: Callable[[str], str], gateway: Gateway, subscriber: Subscriber
) -> None:
    use(gateway, tokens=1000, model="deepseek/deepseek-chat")
    use(gateway, tokens=500, name="r2", model="=cmd()")

    usage = page("/usage/?by=hour")
    csv = client_of(subscriber).get("/usage/table.csv?by=day").content.decode()

    assert "deepseek/deepseek-chat" in usage
    assert "10 Jun, 12:00" in usage
    assert csv.splitlines()[0].endswith("units")
    assert "2026-06-10T00:00:00+08:00,deepseek/deepseek-chat,1,1000,0,0,0,0,1000.000" in csv
    assert ",'=cmd()," in csv


def test_a_request_shows_its_receipt(page: Callable[[str], str], gateway: Gateway) -> None:
    use(gateway, tokens=1000)

    shown = page("/usage/requests/?day=2026-06-10")

    assert "1,000" in shown
    assert "× 1" in shown


@pytest.mark.parametrize(
    "query",
    [
        *("by=x", "from=x&to=y", "from=2026-02-30", "from=9999-12-31", "from=0001-01-01"),
        *("from=2026-06-20&to=2026-06-01", "by=hour&from=2020-01-01", "by=month&from=1990-01-01"),
    ],
)
def test_what_cannot_be_read_of_a_question_is_not_asked(
    page: Callable[[str], str], query: str
) -> None:
    page(f"/usage/?{query}")
    page(f"/usage/requests/?day={query}&skip={query}")
    page(f"/invoices/?before={query}")


def test_an_invoice_shows_its_lines_and_what_is_due(
    page: Callable[[str], str], operator: Operator, subscriber: Subscriber
) -> None:
    invoice = an_invoice(operator, subscriber)

    assert invoice.number in page("/invoices/")  # type: ignore[operator]
    one = page(f"/invoices/{invoice.number}/")
    assert "Fee" in one
    assert "¥9.90" in one
    assert "¥9.90 is due." in page("/")


def test_the_tariff_is_public_and_says_what_happens_at_zero(
    operator: Operator, client: Client
) -> None:
    make_plan(operator, on_exhaustion="meter", price_per_million="1.2", cap=yuan("20"))

    tariff = client.get("/plans/", headers={"accept-language": "en"}).content.decode()

    assert "a million more costs ¥1.2" in tariff
    assert "At most ¥20.00 a period" in tariff


# What is done -------------------------------------------------------------------------------------


def test_a_booster_is_ordered_once_however_often_the_form_is_sent(
    operator: Operator, subscriber: Subscriber
) -> None:
    a_booster(operator)
    client = client_of(subscriber)

    answers = [client.post("/boosters/b5/", {"once": "abc"}) for _ in range(2)]

    order = Order.objects.get()
    assert {answer["Location"] for answer in answers} == {links.path_to_pay(order)}
    assert "¥5.00" in client.get(f"/orders/{order.number}/").content.decode()
    assert buckets_of(subscriber, "booster") == []  # not before it is paid


def test_an_order_that_the_wallet_cannot_pay_says_so(
    operator: Operator, subscriber: Subscriber
) -> None:
    a_booster(operator)
    client = client_of(subscriber)
    there = client.post("/boosters/b5/")["Location"]

    answer = client.post(f"{there}/again", {"way": "wallet"}, follow=True)

    assert "There is not enough in your wallet." in answer.content.decode()
    assert client.post(f"{there}/again", {"way": "<b>"}).status_code == 404


def test_a_plan_is_upgraded_for_the_price_that_was_shown(
    operator: Operator, subscriber: Subscriber
) -> None:
    make_plan(operator, "plus", price=yuan("29.90"), allowance=40_000_000_000)
    client = client_of(subscriber)

    shown = client.get("/plans/plus/").content.decode()
    client.post("/plans/plus/", {"step": "upgrade"})

    # 21 of 30 days: 20 yuan and 30 million for a whole period.
    assert "21 M more tokens at once, ¥14.00 more" in shown
    assert Subscription.objects.get().plan.code == "plus"
    assert sum(bucket.granted or 0 for bucket in buckets_of(subscriber)) == 31_000_000_000


def test_a_plan_is_cancelled_and_taken_up_again(
    page: Callable[[str], str], subscriber: Subscriber
) -> None:
    client = client_of(subscriber)

    client.post("/plans/cancel/")
    assert "Ends on 30 Jun 2026." in page("/")
    client.post("/plans/cancel/", {"cancel": "0"})

    assert "Renews on 1 Jul 2026" in page("/")


def test_who_holds_no_plan_orders_one(operator: Operator) -> None:
    make_plan(operator)
    newcomer = make_subscriber(operator, "s-2")
    client = client_of(newcomer)

    assert "You pay ¥9.90 now." in client.get("/plans/light/").content.decode()
    there = client.post("/plans/light/", {"once": "x"})["Location"]

    assert Order.objects.get().number in client.get(there).content.decode()


# To whom ------------------------------------------------------------------------------------------

OWN = ["/", "/usage/", "/usage/requests/", "/usage/table.csv", "/invoices/", "/plans/light/"]


@pytest.mark.parametrize("path", OWN)
def test_a_page_of_ones_own_asks_to_sign_in(client: Client, path: str) -> None:
    assert client.get(path)["Location"] == f"/accounts/login/?next={path.replace('/', '%2F')}"
    assert client.get(path, headers={"hx-request": "true"}).status_code == 401
    client.cookies["sessionid"] = "gone"
    assert client.get(path)["Location"].endswith("&ended=1")


def test_nothing_of_anybody_else_is_there(operator: Operator, subscriber: Subscriber) -> None:
    a_booster(operator)
    invoice = an_invoice(operator, subscriber)
    client_of(subscriber).post("/boosters/b5/")
    order = f"/orders/{Order.objects.get().number}/"
    stranger = client_of(make_subscriber(operator, "s-2"))

    for path in (order, f"/invoices/{invoice.number}/", f"/invoices/{invoice.number}.pdf"):
        assert stranger.get(path).status_code == 404, path
    assert stranger.post(f"/invoices/{invoice.number}/pay/").status_code == 404
    assert stranger.post("/plans/cancel/").status_code == 404
    assert str(invoice.number) not in stranger.get("/invoices/").content.decode()


def test_a_portal_is_of_one_operator(
    operator: Operator, subscriber: Subscriber, settings: Any
) -> None:
    other = make_operator("other")
    make_plan(other, "theirs", name="Theirs only")
    invoice = an_invoice(operator, subscriber)
    settings.PORTAL_HOSTS = {"other.test": "other"}
    settings.ALLOWED_HOSTS = ["*"]
    client = client_of(subscriber)

    def there(path: str) -> Any:
        return client.get(path, headers={"host": "other.test"})

    assert there(f"/invoices/{invoice.number}/").status_code == 404
    assert 'data-figure="0"' in there("/").content.decode()
    assert there("/plans/light/").status_code == 404
    assert "Theirs only" in there("/plans/").content.decode()
    assert "Theirs only" not in client.get("/plans/").content.decode()
    settings.PORTAL_OPERATOR = ""  # two, and nobody said whose
    assert client.get("/").status_code == 404


EVIL = "<script>alert(1)</script>\"'>"


def test_names_and_models_are_text(
    operator: Operator, subscriber: Subscriber, gateway: Gateway
) -> None:
    make_plan(operator, "evil", name=EVIL, price=yuan("99"), allowance=20_000_000_000)
    catalog.publish_booster(
        operator, "b5", name=EVIL, price=yuan("5"), units=1_000_000, valid_days=3, at=NOW
    )
    Operator.objects.filter(pk=operator.pk).update(name=EVIL)
    use(gateway, tokens=5, name=EVIL, model=EVIL, attributes={EVIL: EVIL})
    client = client_of(subscriber)
    pay = client.post("/boosters/b5/")["Location"]
    order = f"/orders/{Order.objects.get().number}/"

    for path in ("/", "/usage/", "/usage/requests/", "/plans/", "/plans/evil/", pay, order):
        text = client.get(path).content.decode()
        assert "<script>alert" not in text, path
        assert "&lt;script&gt;alert" in text, path


@pytest.mark.parametrize(
    "path",
    [
        "/boosters/b5/",
        "/plans/light/",
        "/plans/cancel/",
        "/orders/X/cancel/",
        "/accounts/everywhere/",
    ],
)
def test_a_step_without_the_pages_token_is_not_taken(subscriber: Subscriber, path: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user_of(subscriber))

    assert client.post(path).status_code == 403


# What it costs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/usage/", "/usage/requests/", "/plans/", "/plans/light/"])
def test_a_page_asks_the_database_at_most_twelve_times(
    operator: Operator, subscriber: Subscriber, gateway: Gateway, path: str
) -> None:
    a_booster(operator)
    for nr in range(12):
        use(
            gateway,
            tokens=900_000,
            name=f"r{nr}",
            model=f"m/{nr}",
            at=NOW - nr * dt.timedelta(hours=1),
        )
    client = client_of(subscriber)
    client.get(path)

    with CaptureQueriesContext(
        connection,
    ) as asked:
        assert client.get(path).status_code == 200

    assert len(asked) <= 12, [query["sql"][:90] for query in asked]


def test_invoices_ask_the_database_at_most_twelve_times(
    operator: Operator, subscriber: Subscriber
) -> None:
    invoice = an_invoice(operator, subscriber)
    client = client_of(subscriber)

    for path in ("/invoices/", f"/invoices/{invoice.number}/"):
        with CaptureQueriesContext(connection) as asked:
            assert client.get(path).status_code == 200
        assert len(asked) <= 12, path


# Arithmetic ---------------------------------------------------------------------------------------


def test_the_forecast_goes_on_at_the_pace_there_was() -> None:
    since = NOW - dt.timedelta(days=2)

    assert pace.runs_out_at(10, 5, since=since, now=NOW) == NOW + dt.timedelta(days=4)
    assert pace.runs_out_at(0, 5, since=since, now=NOW) == NOW
    assert pace.runs_out_at(10, 0, since=since, now=NOW) is None
    assert pace.runs_out_at(10, 5, since=NOW, now=NOW) is None
    assert pace.runs_out_at(10**18, 1, since=since, now=NOW) is None


def test_bars_fill_the_picture_and_stay_in_it() -> None:
    drawn = charts.bars([[10, 0, 30], [0, 0, 0], [1, 0, 0]])

    assert [(each.series, each.path) for each in drawn] == [
        (1, "M40 180h253v60h-253zM707 234h253v6h-253z"),
        (3, "M40 0h253v180h-253z"),
    ]
    assert charts.bars([]) == charts.bars([[0], [0]]) == []
