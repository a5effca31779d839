"""What the dates say about a debt, without a database: steps and late fees."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from decimal import Decimal

from django.utils.translation import override
from hypothesis import given
from hypothesis import strategies as st

from billing import arrears
from billing.arrears import DAY, Debt, Kind, Late, Span, Standing, State, Terms, accrued, advance
from billing.console import sentences
from tests.factories import SHANGHAI, local

DUE = local(2026, 7, 18)
TERMS = Terms(
    reminder_days=(1, 7, 15, 25),
    late_fee_rate=Decimal("0.003"),
    late_fee_cap=Decimal(1),
    late_fee_grace_days=0,
    late_fee_tax_rate=Decimal(0),
    suspend_after_days=30,
    terminate_after_days=60,
)
US = dt.timedelta(microseconds=1)


def debt(due_at: dt.datetime = DUE, nr: int = 1, terms: Terms = TERMS) -> Debt:
    due_on = due_at.astimezone(SHANGHAI).date()
    return Debt(nr, f"CT-2026-{nr:08}", due_at, due_on, terms)


def fresh() -> Standing:
    return Standing(State.SETTLED, None, None, 0, None, DUE - 1000 * DAY)


def step(case: Standing, owed: Debt | None, at: dt.datetime, *, stopped: bool = False):
    """(kind, days after the due date) of each step."""
    steps = advance(case, owed, at=at, stopped=stopped)
    return [(said.kind, (said.at - DUE) / DAY) for said in steps]


def test_a_debt_goes_from_overdue_to_terminated_by_its_dates() -> None:
    case = fresh()

    assert step(case, debt(), DUE) == [(Kind.OVERDUE, 0)]
    assert step(case, debt(), DUE + DAY - US) == []
    assert step(case, debt(), DUE + DAY) == [(Kind.REMINDER, 1)]
    assert step(case, debt(), DUE + 29 * DAY) == [
        (Kind.REMINDER, 7),
        (Kind.REMINDER, 15),
        (Kind.REMINDER, 25),
    ]
    assert step(case, debt(), DUE + 30 * DAY - US) == []
    assert step(case, debt(), DUE + 30 * DAY) == [(Kind.SUSPENDED, 30)]
    assert step(case, debt(), DUE + 90 * DAY - US) == []
    assert step(case, debt(), DUE + 90 * DAY) == [(Kind.TERMINATED, 90)]
    assert step(case, debt(), DUE + 900 * DAY) == []
    assert step(case, None, DUE + 901 * DAY) == [(Kind.RESTORED, 901), (Kind.SETTLED, 901)]


def test_steps_that_were_missed_have_their_own_dates_but_nobody_loses_days_to_pay() -> None:
    case = fresh()

    assert step(case, debt(), DUE + 40 * DAY) == [
        (Kind.OVERDUE, 0),
        (Kind.REMINDER, 1),
        (Kind.REMINDER, 7),
        (Kind.REMINDER, 15),
        (Kind.REMINDER, 25),
        (Kind.SUSPENDED, 30),
    ]
    assert step(case, debt(), DUE + 100 * DAY - US) == []
    assert step(case, debt(), DUE + 100 * DAY) == [(Kind.TERMINATED, 100)]


def test_each_step_s_reason_is_said_in_the_reader_s_language() -> None:
    case = fresh()
    steps = [arrears.reminder_ahead(debt(), 3)]
    for days in (0, 1, 29, 30, 90, 901):
        steps += advance(case, debt() if days < 901 else None, at=DUE + days * DAY, stopped=False)
    assert {said.kind for said in steps} == set(Kind)

    with override("zh-hans"):
        for said in steps:
            words = sentences.said(said.reason)
            assert not re.search("[a-z]", words), words
            assert ("CT-2026-00000001" in words) == ("CT-2026-00000001" in said.reason)
    assert sentences.said("asked by the father") == "asked by the father"


def test_a_younger_debt_takes_over_where_the_oldest_is_paid() -> None:
    case = fresh()
    younger = debt(DUE + 31 * DAY, 2)
    step(case, debt(), DUE + 40 * DAY)

    assert step(case, younger, DUE + 40 * DAY) == [(Kind.RESTORED, 40), (Kind.OVERDUE, 40)]
    # Nine days overdue: its earlier reminders were not needed.
    assert step(case, younger, DUE + 46 * DAY) == [(Kind.REMINDER, 46)]
    step(case, younger, DUE + 70 * DAY)
    assert (case.state, case.suspended_at) == (State.SUSPENDED, DUE + 70 * DAY)


def test_a_line_stays_suspended_while_another_debt_is_old_enough() -> None:
    case = fresh()
    step(case, debt(), DUE + 40 * DAY)

    assert step(case, debt(DUE + DAY, 2), DUE + 41 * DAY) == [(Kind.OVERDUE, 41)]
    assert step(case, debt(DUE + DAY, 2), DUE + 100 * DAY) == [(Kind.TERMINATED, 100)]


def test_a_stopped_case_only_notes_what_money_did() -> None:
    case = fresh()

    assert step(case, debt(), DUE + 40 * DAY, stopped=True) == [(Kind.OVERDUE, 0)]
    assert step(case, debt(), DUE + 50 * DAY, stopped=True) == []
    assert step(case, None, DUE + 51 * DAY, stopped=True) == [(Kind.SETTLED, 51)]


def test_what_is_owed_again_is_overdue_from_then_on() -> None:
    case = fresh()
    step(case, debt(), DUE + 40 * DAY)
    step(case, None, DUE + 41 * DAY)

    # It was reminded of before.
    assert step(case, debt(), DUE + 50 * DAY) == [(Kind.OVERDUE, 41), (Kind.SUSPENDED, 41)]
    assert case.state == State.SUSPENDED
    assert case.suspended_at == DUE + 50 * DAY


def test_a_case_goes_by_the_oldest_debt_that_nobody_disputes() -> None:
    case, second = fresh(), debt(DUE + 31 * DAY, 2)
    disputed = replace(debt(), disputed=True)
    at = DUE + 2 * DAY

    assert arrears.pressed(case, [disputed], at=at) is None
    assert arrears.pressed(case, [disputed, second], at=at) == second
    step(case, debt(), at)
    assert arrears.pressed(case, [disputed], at=at) == disputed
    assert arrears.pressed(case, [disputed, second], at=at) == second
    assert arrears.pressed(case, [debt(), second], at=at) == debt()


def test_a_line_that_is_held_for_a_disputed_debt_is_held_until_another_is_old_enough() -> None:
    case, second = fresh(), debt(DUE + 31 * DAY, 2)
    disputed = replace(debt(), disputed=True)
    step(case, debt(), DUE + 30 * DAY)

    assert arrears.pressed(case, [disputed, second], at=DUE + 61 * DAY - US) == disputed
    assert arrears.pressed(case, [disputed, second], at=DUE + 61 * DAY) == second
    assert step(case, second, DUE + 61 * DAY)[0] == (Kind.OVERDUE, 61)
    assert (case.state, case.suspended_at) == (State.SUSPENDED, DUE + 61 * DAY)


# Late fees ---------------------------------------------------------------------------------------


def late(principal: str = "100.00", terms: Terms = TERMS, **said) -> Late:
    return Late(
        invoice_id=1,
        number="CT-2026-00000001",
        currency="CNY",
        due_at=DUE,
        principal=Decimal(principal),
        payments=said.pop("payments", ()),
        terms=terms,
        **said,
    )


def fee(of: Late, days: float) -> Decimal:
    return accrued(of, until=DUE + days * DAY).gross


def test_a_late_fee_is_counted_in_whole_days_and_rounded_once() -> None:
    assert [fee(late(), days) for days in (-5, 0, 0.99, 1, 1.99, 2)] == [
        Decimal(said) for said in ("0", "0", "0", "0.30", "0.30", "0.60")
    ]
    # 9.90 x 0.003 is 0.0297 a day: three days are 0.0891, not three times 0.03.
    assert [fee(late("9.90"), days) for days in (1, 2, 3)] == [
        Decimal(said) for said in ("0.03", "0.06", "0.09")
    ]
    assert fee(late("9.90"), 50) == Decimal("1.49")  # 1.485


def test_what_was_paid_by_a_days_end_costs_nothing_that_day() -> None:
    paid = late(payments=((DUE + 2 * DAY, Decimal(60)), (DUE + 4.5 * DAY, Decimal(40))))

    assert accrued(paid, until=DUE + 30 * DAY).spells == ((Decimal(100), 1), (Decimal(40), 3))
    assert fee(paid, 30) == Decimal("0.66")


def test_a_late_fee_never_exceeds_its_cap() -> None:
    low = replace(TERMS, late_fee_cap=Decimal("0.05"))

    assert fee(late("9.90"), 10_000) == Decimal("9.90")
    assert [fee(late("9.90", low), days) for days in (16, 17, 10_000)] == [
        Decimal(said)
        for said in ("0.48", "0.49", "0.49")  # 0.495 is never exceeded
    ]


def test_a_day_that_ends_while_dunning_is_stopped_costs_nothing() -> None:
    stopped = late(stops=(Span(DUE + 2 * DAY, DUE + 4 * DAY), Span(DUE + 8 * DAY, None)))

    assert fee(stopped, 100) == Decimal("1.50")  # days 1, 4, 5, 6, 7


def test_a_bill_says_what_bills_before_did_not() -> None:
    line = arrears.late_fee_line(late(billed=Decimal("0.60")), until=DUE + 5 * DAY, zone=SHANGHAI)
    back = arrears.late_fee_line(
        late("0.00", billed=Decimal("0.60")), until=DUE + 5 * DAY, zone=SHANGHAI
    )

    assert line is not None
    assert (line.gross, line.net, line.tax) == (Decimal("0.90"), Decimal("0.90"), Decimal(0))
    assert back is not None
    assert back.gross == Decimal("-0.60")
    assert (
        arrears.late_fee_line(late(billed=Decimal("1.50")), until=DUE + 5 * DAY, zone=SHANGHAI)
        is None
    )


amounts = st.decimals("0", "1000", places=2)


@given(
    principal=amounts,
    payments=st.lists(st.tuples(st.integers(-20, 200), amounts), max_size=4),
    rate=st.decimals("0", "0.003", places=5),
    cap=st.decimals("0", "1", places=4),
    grace=st.integers(0, 10),
    ends=st.lists(st.integers(-10, 900), min_size=1, max_size=6),
)
def test_a_late_fee_only_grows_and_stays_between_nothing_and_its_cap(
    principal: Decimal,
    payments: list[tuple[int, Decimal]],
    rate: Decimal,
    cap: Decimal,
    grace: int,
    ends: list[int],
) -> None:
    terms = Terms((), rate, cap, grace, Decimal(0), 30, 60)
    of = late(
        str(principal),
        terms,
        payments=tuple((DUE + day * DAY, amount) for day, amount in sorted(payments)),
    )
    bills, billed = [], Decimal(0)

    for end in sorted(ends):
        so_far = fee(of, end)
        assert 0 <= so_far <= principal * cap
        bills.append(so_far - billed)
        billed = so_far

    assert all(bill >= 0 for bill in bills)
    # By another path: each day for itself.
    exact = Decimal(0)
    for day in range(grace + 1, max(max(ends), 0) + 1):
        paid = sum((amount for at, amount in payments if at <= day), Decimal(0))
        exact += max(principal - paid, Decimal(0)) * rate
    assert abs(billed - min(exact, principal * cap)) <= Decimal("0.01")
