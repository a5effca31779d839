"""A made-up life, small: the whole system on one clock, its books checked at the end."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing.models import Invoice
from subscriptions.models import Upgrade
from tests.factories import local, make_operator

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(600),
]


def simulate(code: str, months: int, subscribers: int) -> str:
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command(
            "simulate", months=months, subscribers=subscribers, seed=7, operator=code, stdout=out
        )
    assert ended.value.code == 0, out.getvalue()
    return out.getvalue()


def test_after_months_of_life_all_books_add_up() -> None:
    said = simulate("sim", months=3, subscribers=30)

    assert "All adds up." in said
    assert "Ledger: 0.00 CNY" in said
    assert Upgrade.objects.exists()
    assert Invoice.objects.filter(state="paid").exists()
    assert not Invoice.objects.filter(state="draft").exists()


def test_the_same_seed_lives_the_same_life() -> None:
    lives = [simulate(code, months=1, subscribers=8).partition("Lived")[0] for code in ("a", "b")]

    assert lives[0] == lives[1]


def test_a_life_is_lived_once() -> None:
    make_operator("sim", at=local(2026, 6, 1))

    with pytest.raises(CommandError, match="there is an operator sim"):
        call_command("simulate", months=1, subscribers=1, operator="sim")
