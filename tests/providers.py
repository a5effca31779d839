"""Payment providers as operators have them and as they tell things, for tests."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import Any

import pytest
import stripe
from django.db import transaction
from rest_framework.test import APIClient

from billing import inbox, methods, receiving
from billing.models import PaymentMethod, PaymentTask, ProviderAccount
from billing.ways import accounts, known
from billing.ways.provider import About, Answer, Card, Event, Fate, Saving
from subscriptions import clock
from subscriptions.models import Operator

SIGNED_WITH = "whsec_of_a_test"


def stripe_account(
    operator: Operator, name: str = "acct_1", *, live: bool = False, secret: str = SIGNED_WITH
) -> ProviderAccount:
    """The operator's account at Stripe from now on."""
    return accounts.set_up(
        operator,
        ProviderAccount.Provider.STRIPE,
        name=name,
        live=live,
        secrets={"api": f"sk_test_of_{name}", "webhook": secret},
        at=clock.now(operator),
    )


def event(kind: str, thing: dict[str, Any], *, id: str = "evt_1", **more: Any) -> bytes:
    """The body of a notice of Stripe's."""
    said = {
        "id": id,
        "object": "event",
        "type": kind,
        "created": 1781000000,
        "livemode": False,
        "data": {"object": thing},
    }
    return json.dumps(said | more).encode()


def intent(
    key: str = "", amount: int = 990, currency: str = "cny", *, id: str = "pi_1", **more: Any
) -> dict[str, Any]:
    """A PaymentIntent that has succeeded."""
    said = {
        "id": id,
        "object": "payment_intent",
        "status": "succeeded",
        "amount": amount,
        "amount_received": amount,
        "currency": currency,
        "metadata": {"key": key} if key else {},
    }
    return said | more


class _Keeps:
    """A company that keeps cards, and is asked for nothing else."""

    ways: tuple[str, ...] = ("card",)

    def provider(self, way: str) -> _Keeps:
        return self

    def begin_saving(self, saving: Saving) -> Answer:
        return Answer(Fate.WAITING, "cus_1")

    def describe(self, reference: str) -> Card:
        raise NotImplementedError

    def forget(self, reference: str) -> None:
        raise NotImplementedError


def saved_card(
    operator: Operator, subscriber_id: int, reference: str = "sbx_card_1", **card: Any
) -> PaymentMethod:
    """A card that a subscriber has saved at the operator's provider, as that tells it."""
    at = clock.now(operator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "partner_of", lambda account, *, at: _Keeps())
        asked, _ = methods.begin(
            operator, subscriber_id, consent="Charge me.", return_url="https://example.com/", at=at
        )
    typed = Card("visa", "4242", **{"exp_year": 2030, "exp_month": 12, **card})
    told = Event(
        *("ev", About.METHOD, asked.key, reference),
        Answer(Fate.SUCCEEDED),
        at,
        {"happened": "saved", "card": typed},
    )
    with transaction.atomic():
        methods.take(operator, asked.account, told, at)
    return PaymentMethod.objects.get(pk=asked.pk)


def signature(body: bytes, secret: str = SIGNED_WITH, *, age: int = 0) -> str:
    at = int(time.time()) - age
    return str(stripe.WebhookSignature.generate_signature_header(body.decode(), secret, at))


def tell(account: ProviderAccount, body: bytes, header: str | None = None) -> Any:
    """The answer of the webhook's door."""
    return APIClient().generic(
        "POST",
        f"/webhooks/{account.provider}/{account.public_id}",
        body,  # type: ignore[arg-type]
        "application/json",
        headers={"Stripe-Signature": signature(body) if header is None else header},
    )


def unclear_payment(
    operator: Operator, reference: str = "pi_1", amount: str = "9.90", currency: str = "CNY"
) -> PaymentTask:
    """Money that came at the operator's account for an order that nobody knows."""
    account = accounts.find(operator, "stripe")
    paid = receiving.Paid(account, "card", "no-order-1", reference, Decimal(amount), currency)
    with transaction.atomic():
        receiving.receive(operator, paid, None, None, at=clock.now(operator))
    return PaymentTask.objects.get(payment__reference=reference)


def deliver(
    operator: Operator, account: ProviderAccount, *bodies: bytes, secret: str = SIGNED_WITH
) -> None:
    """Send these notices, and have them worked."""
    for body in bodies:
        answer = tell(account, body, signature(body, secret))
        assert answer.status_code == 200, answer.content
    inbox.work(operator, at=clock.now(operator))
