"""Personal data as it is shown before somebody asks to see it.

Enough stays to tell two people apart on the phone, too little to write down.
"""

from __future__ import annotations

from collections.abc import Callable

# Which columns of which tables hold personal data, by their names wherever they are.
PERSONAL: dict[str, str] = {
    "msisdn": "phone",
    "phone": "phone",
    "email": "email",
    "buyer_name": "name",
    "payer": "name",
    "remark": "name",
    "buyer_tax_id": "tax",
    "tax_id": "tax",
    "address": "address",
}


def phone(text: str) -> str:
    """`+8613800138000` -> `+86138****8000`."""
    return f"{text[:-8]}****{text[-4:]}" if len(text) >= 9 else "*" * len(text)


def subject(text: str) -> str:
    """A name that gateways use: only where it is a number of somebody."""
    return phone(text) if text.removeprefix("+").isdigit() and len(text) >= 9 else text


def name(text: str) -> str:
    """`张三丰` -> `张**`; `Li Lei` -> `L*****`."""
    return text[:1] + "*" * (len(text) - 1)


def email(text: str) -> str:
    """`someone@example.com` -> `s***@example.com`."""
    who, at, where = text.partition("@")
    return f"{who[:1]}***{at}{where}" if at else name(text)


def ending(text: str) -> str:
    """All but the last four characters; of a short one nothing."""
    return "*" * (len(text) - 4) + text[-4:] if len(text) > 8 else "*" * len(text)


def everything(text: str) -> str:
    return "******" if text else ""


MASKS: dict[str, Callable[[str], str]] = {
    "phone": phone,
    "subject": subject,
    "name": name,
    "email": email,
    "tax": ending,
    "address": everything,
}
