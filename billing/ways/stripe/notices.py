"""What Stripe tells by itself: its signature, and what an event says of what we asked for.

What we ask Stripe for carries our key as metadata `key`; an event without it is about something
else that the operator does at Stripe, and concerns nothing here.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import stripe

from billing.models import ProviderAccount
from billing.ways.provider import About, Answer, Card, Event, Fate, Notice, Unreadable, Unverified
from billing.ways.stripe.amounts import from_stripe

TOLERANCE_SECONDS = 300


def verify(account: ProviderAccount, secrets: Sequence[str], header: str, body: bytes) -> Notice:
    """The notice that these bytes are. Raises Unverified, Unreadable."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Unverified("not signed by this account") from error
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(text, header, secret, TOLERANCE_SECONDS)
            break
        except stripe.SignatureVerificationError:
            continue
    else:
        raise Unverified("not signed by this account, or too long ago")
    said = _event(text)
    if said.get("account") not in (None, account.name) or said["livemode"] is not account.live:
        raise Unverified("signed, and for another account")
    return Notice(said["id"], said["type"])


def _event(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("the body is not JSON") from error
    shape = {"id": str, "type": str, "livemode": bool, "created": int, "data": dict}
    if not isinstance(said, dict) or any(
        not isinstance(said.get(name), kind) for name, kind in shape.items()
    ):
        raise Unreadable("the body is no event")
    if not isinstance(said["data"].get("object"), dict) or len(said["id"]) > 255:
        raise Unreadable("the body is no event")
    return said


def read(body: bytes) -> Event:
    """What a verified event tells. Raises Unreadable."""
    said = _event(body.decode())
    reader = _READERS.get(said["type"], _nothing)
    about, key, reference, answer = reader(said["data"]["object"])
    return Event(
        id=said["id"],
        about=about,
        key=key,
        reference=reference,
        answer=answer,
        occurred_at=dt.datetime.fromtimestamp(said["created"], dt.UTC),
        details={
            "type": said["type"],
            "object": said["data"]["object"],
            **_of_method(said["type"], said["data"]["object"]),
        },
    )


Read = tuple[About, str, str, Answer]


def _nothing(thing: dict[str, Any]) -> Read:
    return About.NOTHING, "", str(thing.get("id", "")), Answer(Fate.WAITING)


def _payment(thing: dict[str, Any]) -> Read:
    return About.PAYMENT, key_of(thing), thing["id"], of_intent(thing)


def _checkout(thing: dict[str, Any]) -> Read:
    if thing["mode"] != "payment":
        return _nothing(thing)
    return About.PAYMENT, key_of(thing), thing["id"], of_checkout(thing)


def _refund(thing: dict[str, Any]) -> Read:
    return About.REFUND, key_of(thing), thing["id"], of_refund(thing)


def _dispute(thing: dict[str, Any]) -> Read:
    """`key` is not known to it: whoever takes it looks for the payment by `payment_intent`."""
    fates = {"won": Fate.SUCCEEDED, "lost": Fate.FAILED}
    answer = Answer(
        fates.get(thing["status"], Fate.WAITING),
        reference=thing.get("payment_intent") or "",
        reason=thing.get("reason") or "",
        amount=from_stripe(thing["amount"]),
        currency=thing["currency"].upper(),
    )
    return About.DISPUTE, "", thing["id"], answer


def _setup(thing: dict[str, Any]) -> Read:
    reference = method_reference(_id(thing["customer"]), _id(thing["payment_method"]))
    return About.METHOD, key_of(thing), reference, Answer(Fate.SUCCEEDED)


def _method(thing: dict[str, Any]) -> Read:
    """One that was detached names its customer no more: it is found by its own name."""
    reference = method_reference(_id(thing.get("customer") or ""), thing["id"])
    return About.METHOD, "", reference, Answer(Fate.WAITING)


def method_reference(customer: str, method: str) -> str:
    """A saved method as we name it: Stripe charges it with its customer only."""
    return f"{customer}/{method}"


def card_of(method: dict[str, Any]) -> Card:
    card = method.get("card") or {}
    return Card(
        card.get("brand") or method["type"],
        card.get("last4") or "",
        card.get("exp_year"),
        card.get("exp_month"),
    )


def _of_method(kind: str, thing: dict[str, Any]) -> dict[str, Any]:
    match kind:
        case "setup_intent.succeeded":
            return {"happened": "saved"}
        case "payment_method.detached":
            return {"happened": "removed"}
        case "payment_method.updated" | "payment_method.automatically_updated":
            return {"happened": "changed", "card": card_of(thing)}
        case _:
            return {}


def key_of(thing: dict[str, Any]) -> str:
    """Our key, as Stripe was told it; empty of what we did not ask for."""
    return str((thing.get("metadata") or {}).get("key", ""))


def of_intent(intent: dict[str, Any]) -> Answer:
    """What a PaymentIntent says became of an attempt."""
    status = intent["status"]
    if status == "succeeded":
        return _paid(intent["id"], intent["amount_received"], intent["currency"])
    reason = _reason(intent.get("last_payment_error"))
    if status == "canceled":
        return Answer(Fate.FAILED, intent["id"], reason=reason or "cancelled")
    return Answer(
        Fate.WAITING, intent["id"], action=action_of(intent.get("next_action")), reason=reason
    )


def of_checkout(session: dict[str, Any]) -> Answer:
    """What a Checkout session says became of an attempt. Once it is paid, the payment's own name
    is the reference, as in all else that tells of it."""
    if session["payment_status"] == "paid":
        return _paid(_id(session["payment_intent"]), session["amount_total"], session["currency"])
    if session["status"] == "expired":
        return Answer(Fate.FAILED, session["id"], reason="expired")
    action = {"kind": "redirect", "url": session["url"]} if session.get("url") else {}
    return Answer(Fate.WAITING, session["id"], action=action)


def of_refund(refund: dict[str, Any]) -> Answer:
    """What a Refund says became of it."""
    fates = {"succeeded": Fate.SUCCEEDED, "failed": Fate.FAILED, "canceled": Fate.FAILED}
    return Answer(
        fates.get(refund["status"], Fate.WAITING),
        reference=refund["id"],
        reason=refund.get("failure_reason") or "",
        amount=from_stripe(refund["amount"]),
        currency=refund["currency"].upper(),
    )


def action_of(action: dict[str, Any] | None) -> dict[str, Any]:
    """What the payer is to do: go somewhere, or scan a code."""
    match (action or {}).get("type"):
        case "redirect_to_url":
            return {"kind": "redirect", "url": action["redirect_to_url"]["url"]}  # type: ignore[index]
        case "alipay_handle_redirect":
            return {"kind": "redirect", "url": action["alipay_handle_redirect"]["url"]}  # type: ignore[index]
        case "wechat_pay_display_qr_code":
            return {"kind": "qr", "content": action["wechat_pay_display_qr_code"]["data"]}  # type: ignore[index]
        case _:
            return {}


def _paid(reference: str, hundredths: int, currency: str) -> Answer:
    amount: Decimal = from_stripe(hundredths)
    return Answer(Fate.SUCCEEDED, reference, amount=amount, currency=currency.upper())


def _id(expandable: Any) -> str:
    return str(expandable["id"] if isinstance(expandable, dict) else expandable)


def _reason(error: dict[str, Any] | None) -> str:
    """A code, for machines and people; the message may quote the payer."""
    if not error:
        return ""
    return ": ".join(str(error[name]) for name in ("code", "decline_code") if error.get(name))


_READERS: dict[str, Callable[[dict[str, Any]], Read]] = {
    **dict.fromkeys(
        [
            "payment_intent.succeeded",
            "payment_intent.processing",
            "payment_intent.requires_action",
            "payment_intent.payment_failed",
            "payment_intent.canceled",
        ],
        _payment,
    ),
    **dict.fromkeys(
        [
            "checkout.session.completed",
            "checkout.session.async_payment_succeeded",
            "checkout.session.async_payment_failed",
            "checkout.session.expired",
        ],
        _checkout,
    ),
    **dict.fromkeys(["refund.created", "refund.updated", "refund.failed"], _refund),
    **dict.fromkeys(
        [
            "charge.dispute.created",
            "charge.dispute.updated",
            "charge.dispute.closed",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.funds_reinstated",
        ],
        _dispute,
    ),
    **dict.fromkeys(
        [
            "payment_method.automatically_updated",
            "payment_method.updated",
            "payment_method.detached",
        ],
        _method,
    ),
    "setup_intent.succeeded": _setup,
}
