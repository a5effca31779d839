"""What the stripe library says of parameters and objects: the fake is held against it."""

from __future__ import annotations

import importlib
import re
from typing import Any

import stripe
from stripe import checkout
from stripe.params import (
    BalanceTransactionListParams,
    CustomerCreateParams,
    DisputeUpdateParams,
    PaymentIntentCancelParams,
    PaymentIntentCreateParams,
    PaymentIntentSearchParams,
    RefundCreateParams,
)
from stripe.params.checkout import SessionCreateParams

PARAMS: dict[str, Any] = {
    "payment_intents": PaymentIntentCreateParams,
    "payment_intents/cancel": PaymentIntentCancelParams,
    "payment_intents/search": PaymentIntentSearchParams,
    "checkout/sessions": SessionCreateParams,
    "customers": CustomerCreateParams,
    "refunds": RefundCreateParams,
    "disputes/update": DisputeUpdateParams,
    "balance_transactions": BalanceTransactionListParams,
}
OBJECTS: dict[str, Any] = {
    "payment_intent": stripe.PaymentIntent,
    "checkout.session": checkout.Session,
    "setup_intent": stripe.SetupIntent,
    "payment_method": stripe.PaymentMethod,
    "customer": stripe.Customer,
    "refund": stripe.Refund,
    "charge": stripe.Charge,
    "dispute": stripe.Dispute,
    "balance_transaction": stripe.BalanceTransaction,
    "event": stripe.Event,
}


def unknown_params(params: dict[str, Any], kind: Any) -> list[str]:
    """Parameters that the library's TypedDict of this request does not have, at any depth."""
    known = _annotations(kind)
    wrong = [name for name in params if name not in known]
    for name, value in params.items():
        inner = _typed_dict(kind, known.get(name))
        if inner is None:
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                wrong += [f"{name}.{deeper}" for deeper in unknown_params(one, inner)]
    return wrong


def unknown_fields(thing: dict[str, Any]) -> list[str]:
    """Fields that the library's class of this object does not have, at any depth."""
    return _unknown_fields(thing, OBJECTS[thing["object"]])


def _unknown_fields(thing: dict[str, Any], kind: Any) -> list[str]:
    known = _annotations(kind)
    wrong = [name for name in thing if name not in known]
    for name, value in thing.items():
        inner = kind._inner_class_types.get(name)
        if inner is not None and isinstance(value, dict):
            wrong += [f"{name}.{deeper}" for deeper in _unknown_fields(value, inner)]
    return wrong


def _annotations(kind: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        found |= vars(base).get("__annotations__", {})
    return found


def _typed_dict(kind: Any, annotation: Any) -> Any:
    names = re.findall(r"\b(\w+(?:Create|Update|List)Params\w+)\b", str(annotation))
    module = importlib.import_module(kind.__module__)
    return getattr(module, names[-1], None) if names else None
