"""A way to pay through an operator's account at Stripe.

Alipay, WeChat Pay and a saved card are PaymentIntents that are confirmed as they are made: the
answer says where the payer goes, or which code to scan. A card that is not saved is typed on
Stripe's own page (Checkout), which also does 3-D Secure. All of them carry our key as metadata and
as the idempotency key, so the same asked twice is one.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from billing.ledger import Side
from billing.models import ProviderAccount
from billing.ways.provider import Answer, Attempt, Fate
from billing.ways.stripe import notices
from billing.ways.stripe.amounts import to_stripe
from billing.ways.stripe.client import KeyUsed, Refused, asking, client

# Stripe keeps keys for 24 hours; after that a payment is looked for by its metadata first.
_KEYS_KEPT = dt.timedelta(hours=23)
# What Checkout allows, with room for clocks that differ.
_SHORTEST, _LONGEST = dt.timedelta(minutes=35), dt.timedelta(hours=23, minutes=30)


class StripeProvider:
    local = False

    def __init__(self, account: ProviderAccount, secret: str, way: str) -> None:
        self.way = way
        self._account, self._secret = account, secret

    def source(self, attempt: Attempt) -> Side:
        return Side(f"cash:{self._account.provider}", attempt.amount)

    def create(self, attempt: Attempt) -> Answer:
        if self._old(attempt) and (found := self._found(attempt)) is not None:
            return notices.of_intent(found)
        try:
            if self.way == "card" and not attempt.method:
                return self._checkout(attempt)
            return self._intent(attempt)
        except KeyUsed:
            # Its terms were other ones when it was asked first: what was made then counts.
            found = self._found(attempt)
            return (
                notices.of_intent(found)
                if found is not None
                else Answer(Fate.FAILED, attempt.reference, reason="asked twice, differently")
            )
        except Refused as refused:
            return Answer(Fate.FAILED, _intent_of(refused), reason=refused.code)

    def get(self, attempt: Attempt) -> Answer:
        if attempt.reference.startswith("cs_"):
            return notices.of_checkout(self._session(attempt.reference))
        found = self._retrieved(attempt.reference) if attempt.reference else self._found(attempt)
        if found is None:
            return Answer(Fate.FAILED, reason="Stripe knows of no such payment")
        return notices.of_intent(found)

    def cancel(self, attempt: Attempt) -> Answer:
        """What Stripe refuses to cancel is over, or paid: then that is the answer."""
        try:
            with asking():
                if attempt.reference.startswith("cs_"):
                    session = self._client.v1.checkout.sessions.expire(attempt.reference)
                    return notices.of_checkout(_plain(session))
                reference = attempt.reference or (self._found(attempt) or {}).get("id")
                if not reference:
                    return Answer(Fate.FAILED, reason="Stripe knows of no such payment")
                intent = self._client.v1.payment_intents.cancel(reference)
                return notices.of_intent(_plain(intent))
        except Refused:
            return self.get(attempt)

    def refund(self, attempt: Attempt, amount: Decimal, *, key: str) -> Answer:
        """Looked for first: it may be long after the day for which Stripe keeps the key."""
        try:
            with asking():
                known = self._client.v1.refunds.list(
                    {"payment_intent": attempt.reference, "limit": 100}
                )
                for one in map(_plain, known.auto_paging_iter()):
                    if notices.key_of(one) == key:
                        return notices.of_refund(one)
                refund = self._client.v1.refunds.create(
                    {
                        "payment_intent": attempt.reference,
                        "amount": to_stripe(amount, attempt.currency),
                        "metadata": {"key": key},
                    },
                    {"idempotency_key": key},
                )
        except Refused as refused:
            return Answer(Fate.FAILED, reason=refused.code)
        except KeyUsed:
            return Answer(Fate.FAILED, reason="asked twice, differently")
        return notices.of_refund(_plain(refund))

    def respond(self, attempt: Attempt, reference: str, evidence: dict[str, str]) -> Answer:
        """Hand in evidence of a dispute, at once and for good: Stripe takes it once, as a rule."""
        try:
            with asking():
                self._client.v1.disputes.update(reference, {"evidence": evidence, "submit": True})
        except (Refused, KeyUsed) as refused:
            return Answer(Fate.FAILED, reference, reason=str(refused))
        return Answer(Fate.WAITING, reference)

    # Asking -----------------------------------------------------------------------------------

    @property
    def _client(self) -> Any:
        return client(self._secret)

    def _intent(self, attempt: Attempt) -> Answer:
        kind = self.way
        params: dict[str, Any] = {
            "amount": to_stripe(attempt.amount, attempt.currency),
            "currency": attempt.currency.lower(),
            "metadata": {"key": attempt.key, "order": attempt.order},
            "allowed_payment_method_types": [kind],
            "confirm": True,
        }
        if attempt.method:
            customer, _, method = attempt.method.rpartition("/")
            params |= {"customer": customer, "payment_method": method}
            if not attempt.return_url:
                params["off_session"] = True
        else:
            params["payment_method_data"] = {"type": kind}
        if kind == "wechat_pay":
            params["payment_method_options"] = {"wechat_pay": {"client": "web"}}
        elif attempt.return_url:
            params["return_url"] = attempt.return_url
        with asking():
            intent = self._client.v1.payment_intents.create(
                params, {"idempotency_key": attempt.key}
            )
        return notices.of_intent(_plain(intent))

    def _checkout(self, attempt: Attempt) -> Answer:
        if not attempt.return_url:
            return Answer(Fate.FAILED, reason="a card needs a return_url, or a saved method")
        metadata = {"key": attempt.key, "order": attempt.order}
        price = {
            "currency": attempt.currency.lower(),
            "unit_amount": to_stripe(attempt.amount, attempt.currency),
            "product_data": {"name": attempt.order},
        }
        params: dict[str, Any] = {
            "mode": "payment",
            "allowed_payment_method_types": ["card"],
            "line_items": [{"price_data": price, "quantity": 1}],
            "metadata": metadata,
            "payment_intent_data": {"metadata": metadata},
            "success_url": attempt.return_url,
            "cancel_url": attempt.return_url,
        }
        if attempt.expires_at is not None and attempt.begun_at is not None:
            earliest, latest = attempt.begun_at + _SHORTEST, attempt.begun_at + _LONGEST
            ends = min(max(attempt.expires_at, earliest), latest)
            params["expires_at"] = int(ends.timestamp())
        with asking():
            session = self._client.v1.checkout.sessions.create(
                params, {"idempotency_key": attempt.key}
            )
        return notices.of_checkout(_plain(session))

    def _old(self, attempt: Attempt) -> bool:
        return attempt.begun_at is not None and attempt.at - attempt.begun_at >= _KEYS_KEPT

    def _found(self, attempt: Attempt) -> dict[str, Any] | None:
        """The payment that carries our key; one that was paid before any that was not."""
        with asking():
            found = self._client.v1.payment_intents.search(
                {"query": f"metadata['key']:'{attempt.key}'", "limit": 10}
            )
        intents = [one for one in map(_plain, found.data) if notices.key_of(one) == attempt.key]
        intents.sort(key=lambda one: (one["status"] != "succeeded", -one["created"]))
        return intents[0] if intents else None

    def _retrieved(self, reference: str) -> dict[str, Any]:
        with asking():
            return _plain(self._client.v1.payment_intents.retrieve(reference))

    def _session(self, reference: str) -> dict[str, Any]:
        with asking():
            return _plain(self._client.v1.checkout.sessions.retrieve(reference))


def _plain(thing: Any) -> dict[str, Any]:
    said: dict[str, Any] = thing.to_dict()
    return said


def _intent_of(refused: Refused) -> str:
    """A payment that was made, and refused by the bank, is named in the error."""
    said = refused.error.json_body
    intent = said.get("error", {}).get("payment_intent") if isinstance(said, dict) else None
    return str(intent["id"]) if isinstance(intent, dict) else ""
