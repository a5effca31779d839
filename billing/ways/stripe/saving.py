"""Cards saved at Stripe (SetupIntents): typed on its own page, charged later without the owner."""

from __future__ import annotations

from typing import Any

from billing.ways.provider import Answer, Card, Fate, Saving
from billing.ways.stripe import notices
from billing.ways.stripe.client import KeyUsed, Refused, asking, client


def begin(secret: str, saving: Saving) -> Answer:
    """A page of Stripe's on which a card is saved; its SetupIntent carries our key. Raises
    Unavailable."""
    stripe: Any = client(secret).v1
    metadata = {"key": saving.key}
    try:
        with asking():
            customer = saving.customer or str(
                stripe.customers.create(
                    {"metadata": {"subscriber": str(saving.subscriber_id)}},
                    {"idempotency_key": f"customer-{saving.key}"},
                )["id"]
            )
            session = stripe.checkout.sessions.create(
                {
                    "mode": "setup",
                    "allowed_payment_method_types": ["card"],
                    "customer": customer,
                    "metadata": metadata,
                    "setup_intent_data": {"metadata": metadata},
                    "success_url": saving.return_url,
                    "cancel_url": saving.return_url,
                },
                {"idempotency_key": saving.key},
            )
    except (Refused, KeyUsed) as refused:
        return Answer(Fate.FAILED, reason=str(refused))
    return Answer(Fate.WAITING, customer, action={"kind": "redirect", "url": str(session["url"])})


def describe(secret: str, reference: str) -> Card:
    with asking():
        found = client(secret).v1.payment_methods.retrieve(_method(reference))
    plain: dict[str, Any] = found.to_dict()
    return notices.card_of(plain)


def forget(secret: str, reference: str) -> None:
    """What Stripe refuses to forget it does not know any more."""
    try:
        with asking():
            client(secret).v1.payment_methods.detach(_method(reference))
    except Refused:
        return


def _method(reference: str) -> str:
    return reference.rpartition("/")[2]
