"""Column types that every room shares."""

from __future__ import annotations

from typing import Any

from django.db import models
from djmoney.models.fields import MoneyField


def money_field(**kwargs: Any) -> MoneyField:
    """An amount in one currency, two decimals, with its currency column beside it."""
    options: dict[str, Any] = {
        "max_digits": 16,
        "decimal_places": 2,
        "default_currency": "CNY",
        **kwargs,
    }
    return MoneyField(**options)


def amount_field(**kwargs: Any) -> models.DecimalField[Any, Any]:
    """An amount in the currency that its row (or the row it belongs to) names, two decimals."""
    return models.DecimalField(max_digits=16, decimal_places=2, **kwargs)


def tax_rate_field(**kwargs: Any) -> models.DecimalField[Any, Any]:
    """A share of the net amount: 0.06 is 6 %."""
    return models.DecimalField(max_digits=5, decimal_places=4, **kwargs)


def units_field(**kwargs: Any) -> models.BigIntegerField[Any, Any]:
    """Units as a whole number of thousandths: 1 token at weight 1 is 1000."""
    return models.BigIntegerField(**kwargs)


class TransactionField(models.BigIntegerField):  # type: ignore[type-arg]
    """The transaction that wrote the row (PostgreSQL's xid8), which the database fills in: it tells
    what was committed since a snapshot, whatever the order of ids and clocks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("editable", False)
        kwargs.setdefault("db_default", models.Func(function="pg_current_xact_id"))
        super().__init__(*args, **kwargs)

    def db_type(self, connection: Any) -> str:
        return "xid8"

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> int:
        return int(value)


def weight_field() -> models.DecimalField[Any, Any]:
    """Units per token, 0 to 100, three places."""
    return models.DecimalField(max_digits=6, decimal_places=3)
