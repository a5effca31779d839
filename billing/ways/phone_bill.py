"""The phone bill: paid at once, for the carrier owes it from then on, and collects it."""

from __future__ import annotations

from decimal import Decimal

from billing import ledger, phone_bills
from billing.ledger import Side
from billing.models import Order, PhoneBillCharge
from billing.ways.provider import Answer, Attempt, Fate
from subscriptions.models import Operator

WAY = "phone_bill"


class PhoneBillProvider:
    """In the transaction that grants: what is bought and what the carrier owes come together."""

    way = WAY
    local = True

    def source(self, attempt: Attempt) -> Side:
        return Side(ledger.CARRIER, attempt.amount, attempt.subscriber_id)

    def create(self, attempt: Attempt) -> Answer:
        """Raises what `phone_bills.accrue` does."""
        operator = Operator.objects.get(pk=attempt.operator_id)
        phone_bills.accrue(operator, attempt.order, at=attempt.at)
        return Answer(Fate.SUCCEEDED, reference=attempt.key, amount=attempt.amount)

    def get(self, attempt: Attempt) -> Answer:
        order = Order.objects.get(operator_id=attempt.operator_id, number=attempt.order)
        carried = PhoneBillCharge.objects.filter(
            subscriber_id=order.subscriber_id, order_id=order.id
        ).first()
        if carried is None:
            return Answer(Fate.FAILED, reason="the phone bill does not carry it")
        return Answer(Fate.SUCCEEDED, reference=attempt.key, amount=carried.amount)

    def cancel(self, attempt: Attempt) -> Answer:
        return Answer(Fate.FAILED, reason="the phone bill carries it at once or not at all")

    def refund(self, attempt: Attempt, amount: Decimal, *, key: str) -> Answer:
        return Answer(Fate.FAILED, reason="what the phone bill carries goes back into the wallet")
