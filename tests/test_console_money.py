"""The console's pages of money and prices, through HTTP, as the roles that work there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing import approvals, closing, corrections, transfers
from billing.corrections import Rules
from billing.models import Approval, BankTransfer, CloseChunk, Invoice, PriceDraft
from billing.prices import drafting
from metering import rollups
from subscriptions import catalog, taxes
from subscriptions.catalog import Component, PlanTerms
from subscriptions.models import AuditEntry, Bucket, Operator, RateCard, Role, Subscriber
from subscriptions.outcomes import free
from tests.console import at_work, hire
from tests.factories import (
    NOW,
    local,
    make_operator,
    make_plan,
    make_rate_card,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import DAY, Gateway, assert_books_agree, record

pytestmark = pytest.mark.django_db
MOST_QUERIES = 15  # with the session's, the staff's and the sidebar's
CLOSE = local(2026, 7, 10)
DAY_ONE = dt.date(2026, 1, 1)
PLAN = {
    "code": "light",
    "name": "Light",
    "price": "8.80",
    "allowance": "12000000",
    "rate_card": "standard",
    "cycle": "calendar_month",
    "first_month": "full",
    "collect": "at_close",
    "rollover": "none",
    "on_exhaustion": "meter",
    "tier_mode": "graduated",
    "tiers": "5000000 1.20\n* 0.90",
    "windows": "day 1000000",
    "refund": "none",
    "free_upstream_error": "on",
    "free_cached_replay": "on",
    "free_blocked": "on",
    "tax_rate": "6",
    "note": "for the summer",
}


@pytest.fixture
def limits(operator: Operator) -> None:
    rules = Rules(Decimal("5.00"), units_limit=1_000_000, prices_by_two=True)
    corrections.set_rules(operator, rules, by="boss", at=NOW)


def staff(operator: Operator, role: str, name: str = "") -> Client:
    hired = hire(operator, role, f"{name or role}@{operator.code}.example.com")
    return at_work(Client(), hired)


def read(client: Client, path: str, status: int = 200) -> str:
    answer = client.get(f"/admin/{path}")
    assert answer.status_code == status, answer.content.decode()[:2000]
    return answer.content.decode()


def do(client: Client, path: str, **said: Any) -> str:
    """Send a form and read the page that it leads to."""
    answer = client.post(f"/admin/{path}", said, follow=True)
    assert answer.status_code in (200, 422), answer.content.decode()[:2000]
    return answer.content.decode()


@pytest.fixture(autouse=True)
def _counted_apart(settings: Any) -> Iterator[None]:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()
    yield
    cache.clear()


# Four eyes ---------------------------------------------------------------------------------------


def give(client: Client, tokens: int, once: str) -> str:
    whose = Subscriber.objects.get(external_id="s-1").pk
    said = {"tokens": str(tokens), "until": "2026-06-20", "reason": "sorry", "once": once}
    return do(client, f"subscriber/{whose}/give/", **said)


@pytest.mark.usefixtures("subscriber", "limits")
def test_an_agent_gives_and_above_the_limit_finance_decides(operator: Operator) -> None:
    agent, finance = staff(operator, Role.AGENT), staff(operator, Role.FINANCE)
    for _ in range(2):  # a button that is pressed twice
        give(agent, 1000, "a")
    assert Bucket.objects.filter(kind="gift").count() == 1

    give(agent, 2000, "b")

    waits = Approval.objects.get()
    page = read(agent, f"approvals/{waits.pk}/")
    assert "10,001,000" in page
    assert "10,003,000" in page
    assert waits.asked_by == "agent@op.example.com"
    assert agent.post(f"/admin/approvals/{waits.pk}/decide/", {"do": "approve"}).status_code == 403
    assert "s-1" in read(finance, "approvals/")
    do(finance, f"approvals/{waits.pk}/decide/", do="approve", reason="")
    assert Approval.objects.get().state == "pending"
    do(finance, f"approvals/{waits.pk}/decide/", do="approve", reason="seen")
    assert Approval.objects.get().state == "approved"
    assert sum(Bucket.objects.filter(kind="gift").values_list("granted", flat=True)) == 3_000_000
    noted = set(AuditEntry.objects.values_list("action", flat=True))
    assert {"give_units", "approval_decide.approve"} <= noted
    whose = Subscriber.objects.get().pk
    credit = {"amount": "5.01", "reason": "sorry", "once": "c"}
    do(agent, f"subscriber/{whose}/credit/", **credit)
    money = Approval.objects.get(kind="money")
    do(finance, f"approvals/{money.pk}/decide/", do="reject", reason="not this time")
    assert "not this time" in read(agent, f"approvals/{money.pk}/")
    assert_books_agree()


@pytest.mark.usefixtures("subscriber", "limits")
def test_nobody_decides_on_what_they_asked_for(operator: Operator) -> None:
    platform = staff(operator, Role.PLATFORM)
    give(platform, 2000, "a")
    waits = Approval.objects.get()

    do(platform, f"approvals/{waits.pk}/decide/", do="approve", reason="mine")

    assert Approval.objects.get().state == "pending"
    assert 'value="approve"' not in read(platform, f"approvals/{waits.pk}/")
    product = staff(operator, Role.PRODUCT)
    do(product, f"approvals/{waits.pk}/decide/", do="approve", reason="not my subject")
    assert Approval.objects.get().state == "pending"


# The plan builder --------------------------------------------------------------------------------


@pytest.mark.usefixtures("limits")
def test_a_product_manager_drafts_rehearses_and_gets_a_plan_approved(
    operator: Operator, gateway: Gateway, subscriber: Subscriber
) -> None:
    gateway.charge(record("a", input_tokens=11_000_000, output_tokens=0))
    set_clock(operator, CLOSE)
    product, finance = staff(operator, Role.PRODUCT), staff(operator, Role.FINANCE)
    form = read(product, "plan-builder/draft/?code=light")
    assert 'value="9.90"' in form

    page = do(product, "plan-builder/draft/?code=light", **PLAN)

    draft = PriceDraft.objects.get()
    assert "9.90 CNY → 8.80 CNY" in page
    assert "for the summer" in page
    rehearsed = read(product, f"plan-builder/{draft.pk}/?month=2026-06&each=1")
    assert "s-1" in rehearsed
    mended = f"plan-builder/draft/?draft={draft.pk}"
    assert "* 0.9" in read(product, mended)
    do(product, mended, **PLAN | {"price": "8.90"})
    do(product, f"plan-builder/{draft.pk}/do/", do="ask", reason="cheaper", month="2026-06")
    waits = Approval.objects.get()
    assert (waits.effect["periods"], waits.effect["winners"]) == (1, 1)
    assert "9.90 CNY → 8.90 CNY" in read(finance, f"approvals/{waits.pk}/")
    assert "8.90" in read(finance, f"plan-builder/{draft.pk}/")
    do(product, f"plan-builder/{draft.pk}/do/", do="schedule", day="")
    assert PriceDraft.objects.get().state == "asked"
    do(finance, f"approvals/{waits.pk}/decide/", do="approve", reason="fine")
    do(product, f"plan-builder/{draft.pk}/do/", do="schedule", day="2026-07-12")
    assert PriceDraft.objects.get().on_sale_at == local(2026, 7, 12)
    do(product, f"plan-builder/{draft.pk}/do/", do="schedule")

    sold = catalog.plan_on_sale(operator.pk, "light")
    assert (sold.version, sold.price, len(catalog.terms_of(sold).tiers)) == (2, yuan("8.90"), 2)
    do(product, "plan-builder/retire/", code="light", reason="old")
    assert catalog.plans_on_sale(operator.pk) == []
    assert PriceDraft.objects.get().state == "retired"
    assert_books_agree()


def test_a_form_that_contradicts_itself_is_shown_again(operator: Operator) -> None:
    make_plan(operator)
    product = staff(operator, Role.PRODUCT)
    for wrong in (
        {"tiers": "x y z"},
        {"tiers": "1 2"},
        {"windows": "year 5"},
        {"rate_card": "none"},
        {"on_exhaustion": "blocks"},
        {"price": "-1"},
        {"code": "Not a code"},
        {"tiers": "nan 1"},
        {"degrade_model": "small"},
        {"trial_days": "7"},
        {"pause_plan": "light"},
        {"tax_category": "none"},
    ):
        answer = product.post("/admin/plan-builder/draft/", PLAN | wrong)
        assert answer.status_code == 422, wrong
    assert not PriceDraft.objects.exists()
    answer = product.post(
        "/admin/plan-builder/draft/", PLAN | {"tiers": "", "on_exhaustion": "stop"}
    )
    draft = PriceDraft.objects.get()
    assert answer["Location"] == f"/admin/plan-builder/{draft.pk}/"
    assert "2026" in read(product, f"plan-builder/{draft.pk}/?month=20x6-01")
    do(product, f"plan-builder/{draft.pk}/do/", do="drop")
    assert PriceDraft.objects.get().state == "dropped"
    assert read(product, f"plan-builder/{draft.pk}/")


def test_a_plan_that_degrades_and_is_free_where_it_fails_is_drafted_and_mended(
    operator: Operator,
) -> None:
    make_plan(operator)
    product = staff(operator, Role.PRODUCT)
    said = PLAN | {
        "tiers": "",
        "on_exhaustion": "degrade",
        "degrade_model": "small",
        "degrade_tokens_per_minute": "600",
        "limits_fail_closed": "on",
        "free_client_gone": "on",
    }
    del said["free_blocked"]

    product.post("/admin/plan-builder/draft/", said)

    draft = PriceDraft.objects.get()
    terms = drafting.terms_of(draft)
    assert isinstance(terms, PlanTerms)
    assert (terms.degrade_model, terms.degrade_tokens_per_minute) == ("small", 600)
    assert terms.limits_fail_closed
    assert free(terms.outcomes) == {"client_gone", "upstream_error", "cached_replay"}
    shown = read(product, f"plan-builder/draft/?draft={draft.pk}")
    assert 'value="small"' in shown


PARTS = "30 GB；9.90; 9\n词元; 20; 6%; cloud"


def test_the_parts_of_a_price_are_drafted_copied_compared_and_shown(operator: Operator) -> None:
    make_plan(operator)
    taxes.publish(operator, "cloud", effective_from=DAY_ONE, rate=Decimal("0.06"), at=NOW)
    product = staff(operator, Role.PRODUCT)
    bundle = PLAN | {"price": "29.90", "components": PARTS}

    for line, said in (
        ("30 GB 9.90 9", "30 GB 9.90 9"),
        ("30 GB; x; 9", "x"),
        ("30 GB; 9.901; 9", "9.901"),
        ("30 GB; 9.90; 100", "100"),
        ("; 9.90; 9", "; 9.90; 9"),
        ("30 GB; 9.90; 9", "9.90"),
        ("\n".join(["x; 1; 6"] * 21), "20"),
    ):
        answer = product.post("/admin/plan-builder/draft/", bundle | {"components": line})
        assert answer.status_code == 422, line
        [error] = answer.context["form"].errors["components"]
        assert said in error
    page = do(product, "plan-builder/draft/?code=light", **bundle)

    draft = PriceDraft.objects.get()
    terms = drafting.terms_of(draft)
    assert isinstance(terms, PlanTerms)
    assert terms.components == (
        Component(name="30 GB", price=yuan("9.90"), tax_rate=Decimal("0.09")),
        Component(name="词元", price=yuan("20"), tax_rate=Decimal("0.06"), tax_category="cloud"),
    )
    assert "30 GB 9.90 CNY (9%); 词元 20.00 CNY (6% cloud)" in page  # compared
    assert "30 GB：9.90 元，含税 9%" in page  # as customers will read it
    mended = f"plan-builder/draft/?draft={draft.pk}"
    assert "30 GB; 9.90; 9\n词元; 20.00; 6; cloud" in read(product, mended)
    do(product, mended, **bundle | {"price": "31.90", "components": PARTS.replace("9.90", "11.90")})
    do(product, f"plan-builder/{draft.pk}/do/", do="ask", reason="a bundle")
    do(product, f"plan-builder/{draft.pk}/do/", do="schedule")
    sold = catalog.terms_of(catalog.plan_on_sale(operator.pk, "light"))
    assert [part.price for part in sold.components] == [yuan("11.90"), yuan("20")]
    # The next version begins with them.
    assert "30 GB; 11.90; 9" in read(product, "plan-builder/draft/?code=light")


# Rate cards --------------------------------------------------------------------------------------


def weights(*lines: tuple[str, str]) -> dict[str, str]:
    """The form's table: each line a pattern, and what every class weighs."""
    said = {"weight-TOTAL_FORMS": str(len(lines)), "weight-INITIAL_FORMS": "0"}
    for nr, (model, each) in enumerate(lines):
        said[f"weight-{nr}-model"] = model
        classes = ("input", "cached_input", "cache_write", "output", "reasoning")
        said |= {f"weight-{nr}-{name}": each for name in classes}
    return said


@pytest.mark.usefixtures("limits")
def test_a_rate_card_is_drafted_rehearsed_approved_and_scheduled(
    operator: Operator, gateway: Gateway, subscriber: Subscriber
) -> None:
    make_plan(
        operator, "dear", allowance=0, on_exhaustion="meter", price_per_million=Decimal("1.00")
    )
    subscribe(make_subscriber(operator, "s-2"), catalog.plan_on_sale(operator.pk, "dear"))
    make_rate_card(operator, "other")
    elsewhere = make_plan(operator, "else", rate_card="other")
    subscribe(make_subscriber(operator, "s-3"), elsewhere)
    for nr, name in enumerate(("s-1", "s-2", "s-3")):
        used = record(f"a-{nr}", subject=f"user-{name}", input_tokens=4_000_000, output_tokens=0)
        gateway.charge(used)
    rollups.fold_all(at=CLOSE)
    set_clock(operator, CLOSE)
    product, finance = staff(operator, Role.PRODUCT), staff(operator, Role.FINANCE)
    assert "card/?code=standard" in read(product, "plan-builder/")
    assert 'value="*"' in read(product, "plan-builder/card/?code=standard")
    said = {"code": "standard", "note": "output is dearer", **weights(("*", "1.5"), ("", ""))}

    page = do(product, "plan-builder/card/?code=standard", **said)

    draft = PriceDraft.objects.get()
    assert (draft.kind, draft.state) == ("rate_card", "draft")
    assert "1 / 1 / 1 / 1 / 1 → 1.5 / 1.5 / 1.5 / 1.5 / 1.5" in page
    rehearsed = read(product, f"plan-builder/{draft.pk}/?month=2026-06")
    assert "s-2" in rehearsed
    assert "s-3" not in rehearsed  # whose plan weighs by another card
    mended = f"plan-builder/card/?draft={draft.pk}"
    assert 'value="1.5"' in read(product, mended)
    do(product, mended, **said | weights(("*", "2")))
    do(product, f"plan-builder/{draft.pk}/do/", do="ask", reason="dearer", month="2026-06")
    effect = Approval.objects.get().effect
    # s-1 stays below its allowance; s-2 pays for four million more.
    assert (effect["periods"], effect["losers"]) == (2, 1)
    paid = [Decimal(effect[name]) for name in ("revenue_before", "revenue_after")]
    assert paid[1] - paid[0] == Decimal("4.00")
    assert "→ 2 / 2 / 2 / 2 / 2" in read(finance, f"approvals/{Approval.objects.get().pk}/")
    do(finance, f"approvals/{Approval.objects.get().pk}/decide/", do="approve", reason="fine")
    do(product, f"plan-builder/{draft.pk}/do/", do="schedule", day="2026-07-12")

    card = RateCard.objects.get(code="standard", version=2)
    assert (card.effective_from, card.weights.get().input) == (local(2026, 7, 12), Decimal(2))
    assert PriceDraft.objects.get().state == "scheduled"
    shown = read(product, f"plan-builder/{draft.pk}/?against=1")
    assert "1 / 1 / 1 / 1 / 1 → 2 / 2 / 2 / 2 / 2" in shown
    assert_books_agree()


def test_a_rate_card_that_makes_no_sense_is_shown_again(operator: Operator) -> None:
    product = staff(operator, Role.PRODUCT)
    good = {"code": "new", "note": ""}
    for wrong in (
        weights(("*", "101")),
        weights(("*", "-1")),
        weights(("*", "0.0001")),
        weights(("*", "")),
        weights(("", "1")),
        weights(("*", "1"), ("*", "2")),
        weights(("", "")),
        weights(("*", "nan")),
        weights(("*", "1")) | {"code": "Not a code"},
        weights(("*", "1")) | {"weight-TOTAL_FORMS": "x"},
        {},
    ):
        answer = product.post("/admin/plan-builder/card/", good | wrong)
        assert answer.status_code == 422, wrong
    assert not PriceDraft.objects.exists()
    do(product, "plan-builder/card/", **good | weights(("a/*", "1"), ("*", "0.5")))
    draft = PriceDraft.objects.get()
    assert len(draft.terms["weights"]) == 2
    read(product, f"plan-builder/draft/?draft={draft.pk}", 404)


def test_two_versions_of_a_plan_are_compared(operator: Operator) -> None:
    for price in ("9.90", "8.80", "7.70"):
        make_plan(operator, price=yuan(price))
    product = staff(operator, Role.PRODUCT)
    do(product, "plan-builder/draft/?code=light", **PLAN | {"price": "6.60"})
    draft = PriceDraft.objects.get()

    assert "7.70 CNY → 6.60 CNY" in read(product, f"plan-builder/{draft.pk}/")
    for version, price in ((1, "9.90"), (2, "8.80"), (3, "7.70"), (9, "7.70")):
        shown = read(product, f"plan-builder/{draft.pk}/?against={version}")
        assert f"{price} CNY → 6.60 CNY" in shown
    for step in ("ask", "schedule"):
        do(product, f"plan-builder/{draft.pk}/do/", do=step, reason="cheaper")
    assert "7.70 CNY → 6.60 CNY" in read(product, f"plan-builder/{draft.pk}/")


# The billing run ---------------------------------------------------------------------------------


def test_finance_runs_a_close_sees_a_failure_mends_it_and_retries(operator: Operator) -> None:
    plan = make_plan(operator)
    for name in ("s-1", "s-2"):
        subscribe(make_subscriber(operator, name), plan)
    set_clock(operator, CLOSE)
    finance = staff(operator, Role.FINANCE)
    do(finance, "billing-run/do/", do="pause", reason="a look first")
    do(finance, "billing-run/do/", do="start")
    assert not CloseChunk.objects.exists()
    assert "a look first" in read(finance, "billing-run/")
    do(finance, "billing-run/do/", do="resume")
    do(finance, "billing-run/do/", do="start")
    assert closing.waiting(operator) == 1
    bad = Subscriber.objects.get(external_id="s-2")
    CloseChunk.objects.create(
        operator=operator,
        ended_by=CLOSE - 2 * DAY,
        first_subscriber=bad.pk,
        last_subscriber=bad.pk,
        periods=1,
        state="failed",
        reason="a plan that makes no sense",
        planned_at=CLOSE,
    )
    closing.close_next(operator, at=CLOSE)
    page = read(finance, "billing-run/")
    assert "a plan that makes no sense" in page
    assert Invoice.objects.count() == 1

    do(finance, "billing-run/do/", do="retry", subscriber=str(bad.pk))
    closing.close_next(operator, at=CLOSE)

    page = read(finance, "billing-run/")
    assert "a plan that makes no sense" not in page
    assert Invoice.objects.count() == 2
    assert "receivable" in page
    assert_books_agree()


# Payment matching --------------------------------------------------------------------------------


def test_finance_matches_a_transfer(operator: Operator, subscriber: Subscriber) -> None:
    told = transfers.Told("R-1", Decimal("7.00"), "CNY", NOW, "Zhang", "top-up")
    transfer = transfers.tell(operator, told, at=NOW)
    finance = staff(operator, Role.FINANCE)
    assert "R-1" in read(finance, "payment-matching/")

    for wrong in ({"pays": "order", "number": "X"}, {"pays": "wallet", "number": "nobody"}, {}):
        do(finance, "payment-matching/do/", do="match", id=transfer.pk, **wrong)
    assert BankTransfer.objects.get().state == "unmatched"
    do(finance, "payment-matching/do/", do="match", id=transfer.pk, pays="wallet", number="s-1")

    assert BankTransfer.objects.get().state == "matched"
    for nothing in ("task", "difference", "x"):
        do(finance, "payment-matching/do/", do=nothing, id="1", reason="x", action="note")
    assert_books_agree()


# All of them -------------------------------------------------------------------------------------

PAGES = (
    *("approvals/", "approvals/{approval}/", "plan-builder/", "plan-builder/draft/"),
    *("plan-builder/{draft}/", "plan-builder/card/", "billing-run/", "payment-matching/"),
)


@pytest.fixture
def lively(operator: Operator, subscriber: Subscriber, limits: None) -> dict[str, int]:
    """Many rows of each kind; answers ids."""
    platform = staff(operator, Role.PLATFORM, "lively")
    for nr in range(12):
        give(platform, 2000 + nr, str(nr))
        told = transfers.Told(f"R-{nr}", Decimal("7.00"), "CNY", NOW, "Zhang", "")
        transfers.tell(operator, told, at=NOW)
        do(platform, "plan-builder/draft/", **PLAN | {"code": f"p-{nr}"})
    first = PriceDraft.objects.earliest("pk")
    return {"approval": Approval.objects.earliest("pk").pk, "draft": first.pk}


@pytest.mark.parametrize("language", ["zh-hans", "en"])
def test_each_page_asks_few_questions_however_much_there_is(
    operator: Operator, lively: dict[str, int], language: str
) -> None:
    client = staff(operator, Role.PLATFORM)
    client.cookies["django_language"] = language
    for path in PAGES:
        with CaptureQueriesContext(connection) as asked:
            read(client, path.format(**lively))
        assert len(asked) <= MOST_QUERIES, (
            path,
            [one["sql"][:120] for one in asked],
        )


def test_another_operators_rows_are_not_there(lively: dict[str, int]) -> None:
    stranger = staff(make_operator("other"), Role.PLATFORM)
    for path in (
        "approvals/{approval}/",
        "plan-builder/{draft}/",
        "plan-builder/draft/?draft={draft}",
    ):
        read(stranger, path.format(**lively), 404)
    for path, said in (
        ("approvals/{approval}/decide/", {"do": "reject", "reason": "x"}),
        ("plan-builder/{draft}/do/", {"do": "drop"}),
        ("payment-matching/do/", {"do": "match", "id": "1", "pays": "wallet", "number": "s-1"}),
        ("plan-builder/retire/", {"code": "light", "reason": "x"}),
    ):
        stranger.post(f"/admin/{path.format(**lively)}", said)
    assert set(Approval.objects.values_list("state", flat=True)) == {"pending"}
    assert set(PriceDraft.objects.values_list("state", flat=True)) == {"draft"}
    for page in ("approvals/", "plan-builder/", "payment-matching/", "billing-run/"):
        shown = read(stranger, page)
        assert "sorry" not in shown
        assert "Zhang" not in shown


def test_an_auditor_reads_and_changes_nothing(operator: Operator, lively: dict[str, int]) -> None:
    auditor = staff(operator, Role.AUDITOR)
    for path in ("approvals/", "approvals/{approval}/", "plan-builder/", "billing-run/"):
        assert '<form method="post" action="/admin/approvals' not in read(
            auditor, path.format(**lively)
        )
    for path in ("plan-builder/draft/", "billing-run/do/", "payment-matching/do/"):
        assert auditor.get(f"/admin/{path}").status_code == 403
        assert auditor.post(f"/admin/{path}", {"do": "start"}).status_code == 403
    assert approvals.find(operator, lively["approval"]).state == "pending"
