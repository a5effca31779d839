"""`GET /api/v1/invoices/{number}.pdf` and the letterhead, as the carrier's systems use them."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from PIL import Image
from rest_framework.test import APIClient

from billing import tasks
from billing.documents import drawing, fonts, store
from billing.models import Document, Invoice
from subscriptions import registry
from subscriptions.models import Operator
from tests.documents import pages_of
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
    yuan,
)
from tests.usage import Gateway, post, put, record

pytestmark = pytest.mark.django_db

NOON = local(2026, 6, 21, 12)
FIRST = "CT-2026-00000001"


@pytest.fixture
def operator() -> Operator:
    """One who used beyond the allowance in the last ten days of June, billed by the day."""
    operator = make_operator("ct", at=NOON)
    plan = make_plan(
        operator,
        first_month="by_day",
        allowance=0,
        on_exhaustion="meter",
        price_per_million="1.20",
        cap=yuan("50"),
    )
    subscriber = make_subscriber(operator)
    put(
        client_for(make_key(operator)),
        "subscribers/s-1",
        {"name": "张喆", "subjects": ["user-s-1"], "msisdn": "13812345678"},
    )
    subscribe(subscriber, plan)
    body = record("u", occurred_at=NOON, input_tokens=1_234_567, output_tokens=0)
    assert Gateway(operator).charge(body)["accepted"] == 1
    answer = post(client_for(make_key(operator)), "test-clock", {"now": str(local(2026, 7, 3))})
    assert answer.status_code == 200, answer.content
    return operator


def get(api: APIClient, query: str = "", number: str = FIRST, **headers: str) -> Any:
    return api.get(f"/api/v1/invoices/{number}.pdf{query}", headers=headers)


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, answer.content
    return "\n".join(pages_of(answer.content))


def test_an_invoice_comes_as_pdf(api: APIClient) -> None:
    answer = get(api)

    assert answer["Content-Type"] == "application/pdf"
    assert answer["Content-Disposition"] == f'inline; filename="{FIRST}.pdf"'
    assert answer["Content-Language"] == "zh-Hans"
    text = text_of(answer)
    for said in (
        *(FIRST, "张喆", "138****5678", "2026-06-21 至 2026-06-30", "请于 2026-07-18 前付款"),
        *("套餐费：Light", "9.90 × 10 天 ÷ 30 天", "3.30", "3.11", "0.19"),
        *("超出套餐用量：Light", "1,234,567", "1.20 / 百万", "1.4814804", "封顶 50.00", "1.48"),
        *("¥4.78", "肆元柒角捌分", "1 / 1"),
    ):
        assert said in text, said


@pytest.mark.parametrize(
    ("query", "header", "language"),
    [
        ("", "", "zh-Hans"),
        ("", "en-GB,en;q=0.9,zh;q=0.5", "en"),
        ("", "zh-CN,en;q=0.5", "zh-Hans"),
        ("", "fr,en;q=0.1", "en"),
        ("", "fr", "zh-Hans"),
        ("?lang=en", "zh-CN", "en"),
        ("?lang=zh", "en", "zh-Hans"),
    ],
)
def test_it_speaks_the_language_that_is_wanted(
    api: APIClient, query: str, header: str, language: str
) -> None:
    answer = get(api, query, **{"Accept-Language": header})

    assert answer["Content-Language"] == language
    assert ("Amount due" in text_of(answer)) == (language == "en")


@pytest.mark.parametrize("query", ["?lang=fr", "?lang=", "?usage=yes"])
def test_another_question_is_refused(api: APIClient, query: str) -> None:
    answer = get(api, query)

    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("number", ["CT-2026-00000002", "ct-2026-00000001", "x", FIRST + ".pdf"])
def test_what_is_no_invoice_is_not_found(api: APIClient, number: str) -> None:
    assert get(api, number=number).status_code == 404


def test_it_is_made_once_and_stays_the_same(api: APIClient, operator: Operator) -> None:
    first = get(api)
    registry.upsert(
        operator, [registry.Draft(external_id="s-1", name="renamed", subjects=())], at=NOON
    )
    put(api, "letterhead", {"name": "Renamed Telecom"})

    again = get(api)

    assert again.content == first.content
    assert again["ETag"] == f'"{hashlib.sha256(first.content).hexdigest()}"'
    assert get(api, **{"If-None-Match": again["ETag"]}).status_code == 304
    assert Document.objects.count() == 1
    assert get(api, "?lang=en").content != first.content


def test_what_is_kept_cannot_be_changed(api: APIClient) -> None:
    get(api)

    for change in ("UPDATE billing_document SET void = true", "DELETE FROM billing_document"):
        with (
            pytest.raises(DatabaseError, match="stays as it is"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(change)


def test_bytes_that_are_not_what_their_digest_says_are_not_kept(api: APIClient) -> None:
    get(api)
    kept = Document.objects.get()
    kept.language, kept.content = "en", b"other"

    with pytest.raises(DatabaseError, match="document_is_what"), transaction.atomic():
        kept.save(force_insert=True)


def test_of_two_who_make_it_at_once_both_hand_out_the_same(
    api: APIClient, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def draw(content: Any) -> bytes:
        if not made:
            made.append(True)
            made.append(get(api).content)  # another is faster
            return b"ours, too late"
        return drawing.draw(content)

    monkeypatch.setattr(store, "draw", draw)

    assert get(api).content == made[1]


def test_the_appendix_has_each_request(api: APIClient) -> None:
    plain, full = get(api), get(api, "?usage=1")

    text = text_of(full)
    assert "用量明细" in text
    assert "用量明细" not in text_of(plain)
    assert "2026-06-21" in text
    assert "06-21 12:00:00" in text
    assert text.count("1,234,567 0 0 1,234,567") >= 2


def test_a_void_invoice_says_so_and_what_was_issued_is_kept(api: APIClient) -> None:
    issued = get(api)
    assert post(api, f"invoices/{FIRST}/void", {"reason": "重复开具"}).status_code == 200

    text = text_of(get(api))

    assert "已作废" in text
    assert "重复开具" in text
    assert get(api).content == get(api).content != issued.content
    assert bytes(Document.objects.get(void=False).content) == issued.content


def test_a_credit_note_names_the_invoice_it_takes_back(api: APIClient) -> None:
    order = {"reason": "计费有误", "amount": "1.00"}
    note = post(api, f"invoices/{FIRST}/credit", order).json()

    text = text_of(get(api, "?usage=1", number=note["number"]))

    for said in ("红字账单", note["number"], FIRST, "计费有误", "-¥1.00", "负壹元整"):
        assert said in text, said
    assert "冲减账单" in text
    assert "用量明细" not in text
    # What was paid by the note stands on a document of the invoice that is made after it.
    assert "应付金额 3.78" in text_of(get(api))


def test_another_operators_is_not_there(api: APIClient) -> None:
    other = make_operator("ct-2")

    assert get(client_for(make_key(other))).status_code == 404
    assert get(APIClient()).status_code == 401


def test_without_its_font_the_document_can_be_had_later(
    api: APIClient, settings: Any, tmp_path: Any
) -> None:
    settings.FONTS = tmp_path
    fonts._read.cache_clear()
    fonts.runs.cache_clear()
    fonts.width.cache_clear()

    answer = get(api)

    assert (answer.status_code, answer.json()["cause"]) == (503, "no_font")
    assert not Document.objects.exists()


# --- the letterhead -------------------------------------------------------------------------------


def picture(form: str = "PNG", size: tuple[int, int] = (1600, 400)) -> str:
    out = io.BytesIO()
    Image.new("RGB", size, "#0055aa").save(out, form)
    return base64.b64encode(out.getvalue()).decode()


LETTERHEAD = {
    "name": "示例电信股份有限公司",
    "address": "示例路 1 号",
    "phone": "10000",
    "tax_id": "91310000X00000000X",
    "bank": "示例银行",
    "bank_account": "6222 0000",
    "colour": "#0055AA",
    "payment_url": "https://pay.example.org/{number}",
    "ahead": "",
}


def test_a_letterhead_stands_on_what_is_made_after_it(api: APIClient) -> None:
    answer = put(api, "letterhead", {**LETTERHEAD, "logo": picture()})

    assert answer.status_code == 200, answer.content
    shown = api.get("/api/v1/letterhead").json()
    assert {name: shown[name] for name in LETTERHEAD} == LETTERHEAD
    logo = Image.open(io.BytesIO(base64.b64decode(shown["logo"])))
    assert (logo.format, logo.size) == ("PNG", (668, 167))
    document = get(api)
    assert b"/Image" in document.content
    text = text_of(document)
    for said in ("示例电信股份有限公司", "示例路 1 号", "6222 0000", "扫码付款"):
        assert said in text, said


def test_without_a_letterhead_the_operators_name_is_all(api: APIClient) -> None:
    shown = api.get("/api/v1/letterhead").json()

    assert (shown["name"], shown["logo"], shown["address"]) == ("ct", "", "")


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "red"},
        {"colour": "#12345"},
        {"payment_url": "javascript:alert(1)"},
        {"logo": "no Base64"},
        {"logo": base64.b64encode(b"no picture").decode()},
        {"logo": picture("GIF", (4, 4))},
        {"logo": picture(size=(5000, 5000))},
        {"logo": 7},
        {"name": ""},
        {"name": None},
        {"ahead": "fr"},
        {"phone": "1" * 41},
    ],
)
def test_what_is_no_letterhead_is_refused(api: APIClient, change: dict[str, Any]) -> None:
    answer = put(api, "letterhead", {**LETTERHEAD, **change})

    assert answer.status_code == 422, answer.content
    assert api.get("/api/v1/letterhead").json()["name"] == "ct"


def test_workers_make_documents_ahead_of_what_is_issued_from_then_on(
    api: APIClient, operator: Operator
) -> None:
    put(api, "letterhead", {**LETTERHEAD, "ahead": "en"})
    tasks.make_documents()
    assert not Document.objects.exists()  # issued before

    note = post(api, f"invoices/{FIRST}/credit", {"reason": "x", "amount": "1.00"}).json()
    tasks.make_documents()
    tasks.make_documents()

    made = Document.objects.get()
    assert (made.language, made.invoice_id) == (
        "en",
        Invoice.objects.get(number=note["number"]).id,
    )
    assert bytes(made.content) == get(api, "?lang=en", number=note["number"]).content
