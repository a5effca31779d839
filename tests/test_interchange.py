"""Files in and out: tried out first, applied once, gone on with after a crash, safe to open."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, cast

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing.exports import cells
from billing.interchange import columns, exports, imports, kinds, reading, workbooks
from billing.models import ExportJob, ImportChunk, ImportJob, ImportPart, Voucher
from subscriptions.models import Coupon, Operator, Subject, Subscriber, Subscription
from tests.factories import NOW, make_plan, make_subscriber, set_clock
from tests.usage import DAY, assert_books_agree, assert_problem, get, post
from tests.vouchers import sold_vouchers

pytestmark = pytest.mark.django_db

HEADER = "客户编号,姓名,类型,标识,手机号,邮箱,套餐\n"
THREE = (
    HEADER
    + "c-1,张三,个人,user-1;user-2,13800000001,a@example.com,light\n"
    + "c-2,李四,企业,user-3,,,\n"
    + "\n"
    + "c-3,王五,个人,,,,\n"
)


def send(api: APIClient, content: bytes | str, kind: str = "subscribers") -> Any:
    raw: Any = content.encode() if isinstance(content, str) else content
    return api.generic("POST", f"/api/v1/imports?kind={kind}&name=a.csv", raw, "text/csv")


def work() -> None:
    """What workers do when they are rung for."""
    for job_id in imports.waiting():
        imports.work(job_id, instant=lambda: NOW, more=lambda: True)


def checked(api: APIClient, content: bytes | str, kind: str = "subscribers") -> Any:
    sent = send(api, content, kind)
    assert sent.status_code == 201, sent.content
    work()
    return get(api, f"imports/{sent.json()['id']}")


def applied(api: APIClient, content: bytes | str, kind: str = "subscribers") -> Any:
    job = checked(api, content, kind)
    started = post(api, f"imports/{job['id']}/start")
    assert started.status_code == 200, started.content
    work()
    return get(api, f"imports/{job['id']}")


def table(answer: Any) -> list[list[str]]:
    assert answer.status_code == 200, answer.content
    text = b"".join(answer.streaming_content).decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text, newline="")))


def result(api: APIClient, job: Any, query: str = "") -> list[list[str]]:
    return table(api.get(f"/api/v1/imports/{job['id']}/result{query}"))[1:]


def workbook(rows: Sequence[Sequence[Any]]) -> bytes:
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in rows:
        sheet.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


# --- subscribers --------------------------------------------------------------------------------


def test_nothing_happens_before_a_file_is_started(operator: Operator, api: APIClient) -> None:
    make_plan(operator)

    job = checked(api, THREE)

    assert (job["state"], job["rows"], job["tried"]) == ("checked", 3, {"created": 3})
    assert not Subscriber.objects.exists()
    assert not Subscription.objects.exists()
    assert not ImportPart.objects.exists()


def test_a_file_is_applied_and_the_same_again_changes_nothing(
    operator: Operator, api: APIClient
) -> None:
    make_plan(operator)

    first, again = applied(api, THREE), applied(api, THREE)

    assert (first["state"], first["outcomes"]) == ("done", {"created": 3})
    assert (again["tried"], again["outcomes"]) == ({"unchanged": 3}, {"unchanged": 3})
    one = Subscriber.objects.get(external_id="c-1")
    assert (one.name, one.kind, one.msisdn) == ("张三", "person", "13800000001")
    assert set(one.subjects.values_list("subject", flat=True)) == {"user-1", "user-2"}
    assert Subscriber.objects.get(external_id="c-2").kind == "organisation"
    assert Subscription.objects.count() == 1
    # By the row's number in the file: the empty one counts.
    assert [row[:3] for row in result(api, first)] == [
        ["2", "c-1", "created"],
        ["3", "c-2", "created"],
        ["5", "c-3", "created"],
    ]
    assert_books_agree()


def test_each_wrong_row_has_its_line_and_hinders_no_other(
    operator: Operator, api: APIClient
) -> None:
    make_subscriber(operator, "other", subjects=("taken",))
    rows = [
        "good,,,s-1,,,",
        ",,,,,,",
        "a/b,,,,,,",
        "mail,,,,,nowhere,",
        "kind,,alien,,,,",
        "subject,,,taken,,,",
        "plan,,,,,,none",
        "good,,,,,,",
        "=cmd,,,,,,none",
    ]
    text = "external_id,name,kind,subjects,msisdn,email,plan\n" + "\n".join(rows)

    job = checked(api, text)
    lines = result(api, job, "?only=rejected")
    job = applied(api, text)

    assert [(line[0], line[3]) for line in lines] == [
        ("4", "invalid"),
        ("5", "invalid"),
        ("6", "invalid"),
        ("7", "subject_taken"),
        ("8", "unknown_plan"),
        ("9", "repeated"),
        ("10", "unknown_plan"),
    ]
    assert "external_id" in lines[0][4]
    assert lines[-1][1] == "'=cmd"
    assert job["outcomes"] == {"created": 1, "rejected": 7}
    assert set(Subscriber.objects.values_list("external_id", flat=True)) == {"good", "other"}


@pytest.mark.parametrize(
    "content",
    [
        THREE.encode(),
        b"\xef\xbb\xbf" + THREE.encode(),
        THREE.encode("gbk"),
        THREE.replace(",", "\t").encode("gbk"),
        THREE.replace("\n", "\r\n").replace(";", "|").encode(),
        workbook(list(csv.reader(io.StringIO(THREE)))),
    ],
    ids=["utf-8", "with a mark", "gbk", "tabs", "crlf", "xlsx"],
)
def test_a_file_may_be_written_in_many_ways(
    operator: Operator, api: APIClient, content: bytes
) -> None:
    make_plan(operator)

    assert applied(api, content)["outcomes"] == {"created": 3}
    assert Subscriber.objects.get(external_id="c-2").name == "李四"
    assert Subject.objects.count() == 3


def test_a_number_of_a_workbook_is_the_text_that_people_see(
    operator: Operator, api: APIClient
) -> None:
    applied(api, workbook([["external_id", "msisdn"], [1001, 13800000001.0]]))

    assert Subscriber.objects.get().msisdn == "13800000001"
    assert Subscriber.objects.get().external_id == "1001"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00\x01\x80", "neither"),
        (b"PK\x03\x04 no workbook", "workbook"),
        (b"\n\n", "no row"),
        (b"name\nx", "no column external_id"),
        (b"external_id,shoe size\nx,9", "shoe size"),
        (b"external_id,id\nx,y", "two columns"),
        (b"external_id,name\n" + b"x" * 30_000, "too long"),
        (b'external_id\n"' + b"x" * 200_000, "field larger"),
    ],
)
def test_what_is_no_such_file_fails_with_the_reason(
    api: APIClient, content: bytes, said: str
) -> None:
    job = checked(api, content)

    assert job["state"] == "failed"
    assert said in job["problem"]
    assert_problem(post(api, f"imports/{job['id']}/start"), 409, "not_checked")


def test_a_file_that_is_too_large_or_empty_is_not_kept(
    api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "PART", 10)
    monkeypatch.setattr(imports, "LARGEST", 35)

    assert_problem(send(api, "x" * 41), 413, "too_large")
    assert_problem(send(api, ""), 422, "invalid")
    assert_problem(send(api, "x", kind="invoices"), 422, "invalid")
    assert not ImportJob.objects.exists()
    assert send(api, "x" * 35).status_code == 201
    assert ImportPart.objects.count() == 4


def test_a_killed_worker_is_followed_by_one_who_goes_on(
    operator: Operator, api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "CHUNK", 4)
    job = send(api, "external_id\n" + "\n".join(f"c-{nr}" for nr in range(23))).json()
    done: list[int] = []
    kept = kinds.apply

    class Killed(BaseException):
        pass

    def dying(*args: Any, **said: Any) -> list[kinds.Outcome]:
        if len(done) % 3 == 2:
            done.append(0)
            raise Killed
        outcomes = kept(*args, **said)
        done.append(len(outcomes))
        return outcomes

    monkeypatch.setattr(kinds, "apply", dying)
    deaths = 0
    for _ in range(30):
        try:
            work()
        except Killed:
            deaths += 1
        if get(api, f"imports/{job['id']}")["state"] == "checked":
            post(api, f"imports/{job['id']}/start")

    job = get(api, f"imports/{job['id']}")
    assert deaths >= 4
    assert (job["state"], job["rows"], job["applied"]) == ("done", 23, 23)
    assert job["tried"] == job["outcomes"] == {"created": 23}
    assert [row[1] for row in result(api, job)] == [f"c-{nr}" for nr in range(23)]
    assert Subscriber.objects.count() == 23


def test_a_worker_stops_when_its_time_is_over_and_the_next_goes_on(
    api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "CHUNK", 4)
    job = send(api, "external_id\n" + "\n".join(f"c-{nr}" for nr in range(10))).json()
    seen = []
    for _ in range(4):
        turns: Iterator[bool] = iter([True, False])
        imports.work(int(job["id"]), instant=lambda: NOW, more=lambda turns=turns: next(turns))  # type: ignore[misc]
        seen.append(get(api, f"imports/{job['id']}")["rows"])

    assert seen == [4, 8, 10, 10]
    assert get(api, f"imports/{job['id']}")["state"] == "checked"
    cancelled = post(api, f"imports/{job['id']}/cancel").json()
    assert cancelled["state"] == "cancelled"
    assert_problem(post(api, f"imports/{job['id']}/start"), 409, "not_checked")


def test_rows_are_forgotten_after_a_month(operator: Operator, api: APIClient) -> None:
    job = applied(api, THREE.replace("light", ""))

    assert imports.forget(operator, at=NOW + 29 * DAY) == 0
    assert imports.forget(operator, at=NOW + 31 * DAY) == 1
    assert not ImportChunk.objects.exists()
    assert result(api, job) == []


# --- coupons and vouchers -----------------------------------------------------------------------


def test_coupons_come_from_a_file(operator: Operator, api: APIClient) -> None:
    text = (
        "优惠码,名称,折扣百分比,减免金额,期数,适用套餐,新客,开始时间,限量\n"
        "half,半价,50,,3,light;pro,是,2026-06-01,100\n"
        "five,减五元,,5.00,,,否,,\n"
        "both,错,5,5.00,,,,,\n"
        "bad code,错,5,,,,也许,昨天,x\n"
    )

    first, again = applied(api, text, "coupons"), applied(api, text, "coupons")
    changed = applied(api, text.replace("50,,3", "40,,3"), "coupons")

    assert first["outcomes"] == {"created": 2, "rejected": 2}
    assert again["outcomes"] == {"unchanged": 2, "rejected": 2}
    assert result(api, changed)[0][3] == "coupon_published"
    half = Coupon.objects.get(code="half")
    assert (half.periods, half.plans, half.max_redemptions) == (3, ["light", "pro"], 100)
    assert half.first_subscription
    assert half.redeemable_from is not None
    assert half.redeemable_from.isoformat() == "2026-05-31T16:00:00+00:00"


def test_vouchers_are_activated_and_made_void_by_a_file(operator: Operator, api: APIClient) -> None:
    sold_vouchers(operator, api, "SOLD", count=2)
    text = (
        "序列号,状态,原因\n"
        "SOLD-0000001,作废,遗失\n"
        "SOLD-0000002,激活,\n"
        "SOLD-0000003,激活,\n"
        "SOLD-0000001,激活,\n"
        "SOLD-0000002,作废,\n"
        "SOLD-0000004,spent,\n"
    )

    job = applied(api, text, "vouchers")
    again = applied(api, text, "vouchers")

    assert [row[2:4] for row in result(api, job)] == [
        ["updated", ""],
        ["unchanged", ""],
        ["rejected", "not_found"],
        ["rejected", "repeated"],
        ["rejected", "repeated"],
        ["rejected", "invalid"],
    ]
    assert again["outcomes"]["unchanged"] == 2
    assert list(Voucher.objects.order_by("nr").values_list("state", flat=True)) == [
        "void",
        "activated",
    ]
    assert_books_agree()


# --- out ----------------------------------------------------------------------------------------


def exported(api: APIClient, **said: Any) -> list[list[str]]:
    job = post(api, "exports", said)
    assert job.status_code == 201, job.content
    path = f"exports/{job.json()['id']}"
    early = api.get(f"/api/v1/{path}/file")
    assert_problem(early, 409, "not_done")
    for job_id in exports.waiting():
        exports.work(job_id, instant=lambda: NOW, more=lambda: True)
    assert get(api, path)["state"] == "done"
    return table(api.get(f"/api/v1/{path}/file"))


def test_what_goes_out_comes_in_again_and_changes_nothing(
    operator: Operator, api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "AT_ONCE", 2)
    make_plan(operator)
    rows = THREE + 'f-1,=HYPERLINK("x"),,+86-1;@b,+8613800000009,,\n'
    assert applied(api, rows)["outcomes"] == {"created": 4}

    for language, title in (("en", "external_id"), ("zh", "客户编号")):
        header, *lines = exported(api, kind="subscribers", language=language)
        text = "\n".join(
            ",".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in line)
            for line in (header, *lines)
        )
        again = applied(api, text)

        assert header[0] == title
        assert [line[0] for line in lines] == ["c-1", "c-2", "c-3", "f-1"]
        assert lines[0][6] == "light"
        assert not any(cell.startswith(("=", "+", "-", "@")) for line in lines for cell in line)
        assert again["outcomes"] == {"unchanged": 4}
    assert Subscriber.objects.get(external_id="f-1").msisdn == "+8613800000009"


def test_a_workbook_goes_out_and_comes_in_again_and_changes_nothing(
    operator: Operator, api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "AT_ONCE", 2)
    monkeypatch.setattr(exports, "_PIECE", 1000)
    make_plan(operator)
    rows = THREE + 'f-1,=HYPERLINK("x"),,"1;2",+8613800000009,,\n'
    assert applied(api, rows)["outcomes"] == {"created": 4}

    asked = post(api, "exports", {"kind": "subscribers", "language": "zh", "format": "xlsx"})
    assert asked.json()["format"] == "xlsx"
    job_id = int(asked.json()["id"])
    exports.work(job_id, instant=lambda: NOW, more=lambda: True)
    answer = api.get(f"/api/v1/exports/{job_id}/file")
    file = io.BytesIO(b"".join(cast(Any, answer).streaming_content))

    assert answer["Content-Disposition"].endswith('.xlsx"')
    sheet: Any = openpyxl.load_workbook(file).active
    assert (sheet.freeze_panes, sheet["A1"].value, sheet.max_row) == ("A2", "客户编号", 5)
    assert sheet["A5"].value == "f-1"
    assert {type(cell.value) for row in sheet for cell in row} <= {str, type(None)}
    assert "=" not in {str(cell.value)[:1] for row in sheet for cell in row}
    assert applied(api, file.getvalue())["outcomes"] == {"unchanged": 4}


def test_a_workbook_of_more_rows_than_a_sheet_has_goes_on_in_the_next() -> None:
    file = io.BytesIO()
    workbooks.write([["n"], *([str(nr)] for nr in range(7))], file, most=4)
    sheets = openpyxl.load_workbook(file).worksheets
    values = [[cell.value for cell in sheet["A"]] for sheet in sheets]
    assert values == [["n", "0", "1", "2"], ["n", "3", "4", "5"], ["n", "6"]]


def test_coupons_and_vouchers_go_out_too(operator: Operator, api: APIClient) -> None:
    applied(api, "code,name,percent\nhalf,Half,50\n", "coupons")
    sold_vouchers(operator, api, count=3)

    coupon_lines = exported(api, kind="coupons")[1:]
    voucher_lines = exported(api, kind="vouchers", batch="SPRING")[1:]

    assert coupon_lines[0][:3] == ["half", "Half", "50.00"]
    assert [line[:2] for line in voucher_lines] == [
        [f"SPRING-{nr:07}", "activated"] for nr in (1, 2, 3)
    ]
    again = applied(
        api, "\n".join(["serial,state", *(",".join(x[:2]) for x in voucher_lines)]), "vouchers"
    )
    assert again["outcomes"] == {"unchanged": 3}
    assert_problem(post(api, "exports", {"kind": "vouchers"}), 422, "invalid")
    assert_problem(post(api, "exports", {"kind": "vouchers", "batch": "X"}), 404, "not_found")
    set_clock(operator, NOW + 8 * DAY)
    assert exports.forget(operator, at=NOW + 8 * DAY) == 2
    assert ExportJob.objects.count() == 2


# --- pure ---------------------------------------------------------------------------------------

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=20)


@given(CELL)
def test_a_cell_of_ours_is_read_back_as_it_was(cell: str) -> None:
    written = cells.text(cell)
    original = cells.original(written)

    assert (original if cells.text(original) == written else written) == cell
    assert not written.startswith(("=", "+", "-", "@", "\t"))


@given(st.lists(st.lists(CELL.map(str.strip), min_size=1, max_size=5), max_size=8))
def test_rows_are_read_as_they_were_written(rows: list[list[str]]) -> None:
    out = io.BytesIO(b"".join(cells.encode([["one", "two"], *rows])))

    read = [row for _, row in reading.rows(out)]

    assert read == [["one", "two"], *(row for row in rows if any(row))]


@pytest.mark.parametrize("kind", list(columns.BY_KIND))
def test_every_export_can_be_read_as_an_import(kind: str) -> None:
    for language in ("en", "zh"):
        fields = columns.fields_of(kind, columns.header_of(kind, language))
        assert [field for field in fields if field] == list(columns.BY_KIND[kind])
