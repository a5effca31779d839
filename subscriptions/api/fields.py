"""How values travel: units and money as decimal strings, times as RFC 3339.

Strict: a number is not text and text is not a number, so that a client's mistake shows at once.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import extend_schema_field
from moneyed import CurrencyDoesNotExist, get_currency
from rest_framework import serializers

from subscriptions import periods
from subscriptions.models import Operator
from subscriptions.units import MAX_UNITS, THOUSANDTHS, from_decimal, to_wire

MAX_AMOUNT_DIGITS = 14  # before the point; two follow

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# A path segment that survives clients, proxies and URL parsers: no slash, no control character.
_EXTERNAL_ID = re.compile(r"[^/\x00-\x1f\x7f-\x9f]{1,128}")
_DIGITS = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_RESERVED = {".", "..", "batch"}


class Text(serializers.CharField):
    """A string as it was sent: nothing trimmed, no number taken for one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return str(super().to_internal_value(data))


class Flag(serializers.BooleanField):
    """true or false, not "yes"."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class Count(serializers.IntegerField):
    """A JSON integer, not a string of digits."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            self.fail("invalid")
        return data


@extend_schema_field({"type": "string", "pattern": f"^{_CODE.pattern}$"})
class Code(Text):
    """The name of an offering: letters, digits, `.`, `_` and `-`, at most 64."""

    default_error_messages = {
        "code": "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit",
    }

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if not _CODE.fullmatch(text):
            self.fail("code")
        return text


EXTERNAL_ID_SCHEMA = {
    "type": "string",
    "pattern": r"^[^/\u0000-\u001f\u007f-\u009f]{1,128}$",
}


@extend_schema_field(EXTERNAL_ID_SCHEMA)
class ExternalId(Text):
    """The operator's own id of a subscriber; it has to fit into an address."""

    default_error_messages = {
        "external_id": "1 to 128 characters without '/' and control characters, not 'batch'",
    }

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if not _EXTERNAL_ID.fullmatch(text) or text in _RESERVED:
            self.fail("external_id")
        return text


def _decimal_schema(pattern: str, most: int, example: str) -> dict[str, Any]:
    """A decimal string of this pattern, or an integer up to `most`."""
    return {
        "anyOf": [
            {"type": "string", "pattern": pattern},
            {"type": "integer", "minimum": 0, "maximum": most},
        ],
        "examples": [example],
    }


class _Decimal(serializers.DecimalField):
    """Plain decimal digits, or a JSON integer; other JSON numbers have no exact digits."""

    def validate_empty_values(self, data: Any) -> tuple[bool, Any]:
        return serializers.Field.validate_empty_values(self, data)  # "" is not null

    def to_internal_value(self, data: Any) -> Decimal:
        if isinstance(data, bool) or not isinstance(data, str | int):
            self.fail("invalid")
        if isinstance(data, str) and not _DIGITS.fullmatch(data):
            self.fail("invalid")
        return super().to_internal_value(data)


@extend_schema_field(
    _decimal_schema(r"^[0-9]{1,19}(\.[0-9]{1,3})?$", MAX_UNITS // THOUSANDTHS, "10000000.000")
)
class Units(serializers.Field[int, Any, str, int]):
    """Units on the wire, thousandths of them inside."""

    def __init__(self, *, minimum: Decimal = Decimal(0), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._decimal = _Decimal(
            max_digits=19,
            decimal_places=3,
            min_value=minimum,
            max_value=Decimal(MAX_UNITS // THOUSANDTHS),
        )

    def to_internal_value(self, data: Any) -> int:
        return from_decimal(self._decimal.run_validation(data))

    def to_representation(self, value: int) -> str:
        return to_wire(value)


_AMOUNT_SCHEMA = _decimal_schema(r"^[0-9]{1,14}(\.[0-9]{1,2})?$", 10**MAX_AMOUNT_DIGITS - 1, "9.90")


@extend_schema_field(
    {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "amount": _AMOUNT_SCHEMA,
                    "currency": {"type": "string", "pattern": "^[A-Z]{3}$", "examples": ["CNY"]},
                },
                "required": ["amount"],
            },
            *_AMOUNT_SCHEMA["anyOf"],
        ],
        "description": "Tax included; a plain string is in the operator's currency.",
    }
)
class Price(serializers.Field[Money, Any, dict[str, str], Money]):
    """Money as `{"amount", "currency"}`; taken as a plain decimal string too.

    Takes the operator from the serializer's context: its currency is the default one.
    """

    default_error_messages = {
        "shape": "a decimal string, or an object with amount and currency",
        "currency": "an ISO 4217 code such as CNY",
    }
    _amount = _Decimal(max_digits=MAX_AMOUNT_DIGITS + 2, decimal_places=2, min_value=Decimal(0))

    def to_internal_value(self, data: Any) -> Money:
        operator: Operator = self.context["operator"]
        amount, currency = data, operator.currency
        if isinstance(data, dict):
            if "amount" not in data:
                self.fail("shape")
            amount, currency = data["amount"], data.get("currency", operator.currency)
        elif not isinstance(data, str | int):
            self.fail("shape")
        try:
            known = isinstance(currency, str) and get_currency(currency).code == currency
        except CurrencyDoesNotExist:
            known = False
        if not known:
            self.fail("currency")
        return Money(self._amount.run_validation(amount), currency)

    def to_representation(self, value: Money) -> dict[str, str]:
        return money_to_wire(value)


def money_to_wire(money: Money) -> dict[str, str]:
    """`{"amount": "9.90", "currency": "CNY"}`."""
    return {"amount": f"{money.amount:.2f}", "currency": money.currency.code}


class _Plain(_Decimal):
    """A decimal string without the zeros that its column keeps: `"0.06"`, at least two places."""

    def to_representation(self, value: Decimal) -> str:
        return plain(value)


@extend_schema_field(
    _decimal_schema(r"^0(\.[0-9]{1,4})?$", 0, "0.06"),
)
class TaxRate(_Plain):
    """A share of the net price, below 1."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            max_digits=5,
            decimal_places=4,
            min_value=Decimal(0),
            max_value=Decimal("0.9999"),
            **kwargs,
        )


@extend_schema_field(_decimal_schema(r"^(100(\.0{1,2})?|[0-9]{1,2}(\.[0-9]{1,2})?)$", 100, "20"))
class Percent(_Plain):
    """A percentage above 0, at most 100."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            max_digits=5,
            decimal_places=2,
            min_value=Decimal("0.01"),
            max_value=Decimal(100),
            **kwargs,
        )


@extend_schema_field(_decimal_schema(r"^[0-9]{1,8}(\.[0-9]{1,6})?$", 10**8 - 1, "1.20"))
class PerMillion(_Plain):
    """Money per million units, in the currency of the price beside it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=14, decimal_places=6, min_value=Decimal(0), **kwargs)


@extend_schema_field(_decimal_schema(r"^(100(\.0{1,3})?|[0-9]{1,2}(\.[0-9]{1,3})?)$", 100, "0.1"))
class UnitsPerToken(_Plain):
    """A weight, 0 to 100."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            max_digits=6,
            decimal_places=3,
            min_value=Decimal(0),
            max_value=Decimal(100),
            **kwargs,
        )


def plain(value: Decimal) -> str:
    """`Decimal("1.200000")` -> `"1.20"`, `Decimal("0.0625")` -> `"0.0625"`."""
    short = value.normalize()
    places = max(2, -int(short.as_tuple().exponent))
    return f"{value:.{places}f}"


class Instant(serializers.DateTimeField):
    """An RFC 3339 time with its offset, in the years any zone can show; UTC on the wire."""

    default_error_messages = {
        "naive": "give the offset from UTC too, as in 2026-06-10T12:00:00+08:00",
        "far": "this time is too far away",
    }

    def to_internal_value(self, value: Any) -> dt.datetime:
        if not isinstance(value, str):
            self.fail("invalid", format="2026-06-10T12:00:00+08:00")
        return super().to_internal_value(value)

    def enforce_timezone(self, value: dt.datetime) -> dt.datetime:
        if value.tzinfo is None:
            self.fail("naive")
        try:
            instant = value.astimezone(dt.UTC)
        except (OverflowError, ValueError):
            self.fail("far")
        if not periods.FIRST <= instant <= periods.LAST:
            self.fail("far")
        return instant

    def to_representation(self, value: dt.datetime) -> str:
        return to_wire_time(value)


def to_wire_time(instant: dt.datetime) -> str:
    """`2026-06-10T04:00:00Z`, with microseconds where there are any."""
    return instant.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
