"""The sandbox as the platform sees it: a company like any other, asked and listened to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

from django.conf import settings
from django.urls import reverse

from billing.ledger import Side
from billing.models import ProviderAccount, ProviderSecret
from billing.ways import accounts
from billing.ways.provider import (
    About,
    Answer,
    Attempt,
    Card,
    Event,
    Fate,
    Moved,
    Notice,
    Saving,
    Unavailable,
    Unreadable,
    Unverified,
)
from billing.ways.sandbox import company, notices
from billing.ways.sandbox.models import Payment
from subscriptions.models import Operator

NAME = ProviderAccount.Provider.SANDBOX
# By redirect to the company's page; a code to scan leads to the same.
BY_CODE = "wechat_pay"
WAYS = ("alipay", company.CARD, BY_CODE)
# Of payments, refunds and disputes.
_FATES = {
    "waiting": Fate.WAITING,
    "processing": Fate.WAITING,
    "succeeded": Fate.SUCCEEDED,
    "failed": Fate.FAILED,
    "expired": Fate.FAILED,
    "open": Fate.WAITING,
    "won": Fate.SUCCEEDED,
    "lost": Fate.FAILED,
}
_KINDS = {
    "payment": About.PAYMENT,
    "refund": About.REFUND,
    "dispute": About.DISPUTE,
    "method": About.METHOD,
}


_DISPUTES = ("dispute", "dispute_won")
_MOVED = {
    "payment": "payment",
    "refund": "refund",
    "refund_failed": "refund",
    **dict.fromkeys(_DISPUTES, "dispute"),
}


def is_open(account: ProviderAccount) -> bool:
    """Whether anything may be paid through this account: never where the operator has an account
    at a real company, or ever took money."""
    if not settings.SANDBOX_PAYMENTS or account.provider != NAME or account.ended_at is not None:
        return False
    theirs = ProviderAccount.objects.filter(operator=account.operator_id, ended_at=None)
    return not theirs.exclude(provider=NAME).exists() and not accounts.was_live(account.operator)


class SandboxPartner:
    """An operator's account at the sandbox."""

    ways: tuple[str, ...] = WAYS

    def __init__(self, account: ProviderAccount, secrets: Callable[[str], list[str]]) -> None:
        self._account = account
        self._secrets = secrets

    def provider(self, way: str) -> SandboxProvider:
        return SandboxProvider(self._account, way)

    def begin_saving(self, saving: Saving) -> Answer:
        if not is_open(self._account):
            return Answer(Fate.FAILED, reason="sandbox_closed")
        asked = company.ask_to_save(
            self._account.pk,
            saving.key,
            merchant=self._account.operator.name,
            customer=str(saving.subscriber_id),
            return_url=saving.return_url,
            at=saving.at,
        )
        url = _address("sandbox-save", asked.secret)
        return Answer(Fate.WAITING, asked.customer, action={"kind": "redirect", "url": url})

    def describe(self, reference: str) -> Card:
        method = company.method_of(self._account.pk, reference)
        if method is None:
            raise Unavailable("the sandbox does not know this card")
        return Card(method.brand, method.last4, method.expires_on.year, method.expires_on.month)

    def forget(self, reference: str) -> None:
        company.forget_method(self._account.pk, reference)

    def moved(self, since: dt.datetime, until: dt.datetime) -> Iterator[Moved]:
        for one in company.balance_transactions(self._account.pk, since, until):
            yield Moved(
                id=one.pk,
                at=one.at,
                kind=_MOVED[one.kind],
                gross=one.amount,
                fee=one.fee,
                currency=one.currency,
                key="" if one.kind in _DISPUTES else one.key,
                reference=one.source,
            )

    def verify(self, headers: Mapping[str, str], body: bytes, *, wall: dt.datetime) -> Notice:
        try:
            said = notices.check(headers, body, self._secrets(ProviderSecret.Kind.WEBHOOK), at=wall)
        except notices.Forged as forged:
            raise Unverified(str(forged)) from forged
        if said.get("account") != self._account.pk:
            raise Unverified("for another account")
        if not isinstance(said.get("type"), str):
            raise Unreadable("no type")
        return Notice(said["id"], said["type"])

    def read(self, body: bytes) -> Event:
        said = notices.content(body)
        kind, _, happened = said["type"].partition(".")
        about = _KINDS[kind]
        subject = said[kind]
        event = partial(
            Event, id=said["id"], occurred_at=dt.datetime.fromisoformat(said["occurred_at"])
        )
        if about == About.METHOD:
            answer = Answer(Fate.SUCCEEDED)
            details: dict[str, Any] = {"happened": happened, "card": _card(subject)}
        else:
            answer = _answer(subject, said["payment"])
            details = {}
        if about == About.DISPUTE:
            details = {"due_by": dt.datetime.fromisoformat(subject["due_at"])}
        if about == About.PAYMENT and answer.fate == Fate.SUCCEEDED and not is_open(self._account):
            about = About.NOTHING
        key = subject.get("key") or said["payment"]["key"]
        return event(about=about, key=key, reference=subject["id"], answer=answer, details=details)


def _card(said: dict[str, Any]) -> Card:
    until = dt.date.fromisoformat(said["expires_on"])
    return Card(said["brand"], said["last4"], until.year, until.month)


def _address(name: str, secret: str) -> str:
    return f"{settings.PUBLIC_URL}{reverse(name, args=[secret])}"


def _answer(subject: dict[str, Any], payment: dict[str, Any]) -> Answer:
    """What a notice says of a payment, a refund, or a dispute, which is named by its payment."""
    return Answer(
        _FATES[subject["state"]],
        reference=subject["id"] if "key" in subject else payment["id"],
        reason=subject["reason"],
        amount=Decimal(subject["amount"]),
        currency=subject["currency"],
    )


class SandboxProvider:
    """One of the sandbox's ways to pay."""

    local = False

    def __init__(self, account: ProviderAccount, way: str) -> None:
        self._account = account
        self.way = way

    def source(self, attempt: Attempt) -> Side:
        return Side(f"cash:{NAME}", attempt.amount)

    def create(self, attempt: Attempt) -> Answer:
        if not is_open(self._account):
            return Answer(Fate.FAILED, reason="sandbox_closed")
        operator = Operator.objects.get(pk=attempt.operator_id)
        assert attempt.expires_at is not None
        asked = company.Asked(
            account=self._account.pk,
            key=attempt.key,
            way=self.way,
            merchant=operator.name,
            order=attempt.order,
            customer=str(attempt.subscriber_id),
            currency=attempt.currency,
            amount=attempt.amount,
            expires_at=attempt.expires_at,
            return_url=attempt.return_url,
            method=attempt.method,
        )
        try:
            return self._answer(company.ask(asked, at=attempt.at))
        except company.Refused as refused:
            return Answer(Fate.FAILED, reason=str(refused))

    def get(self, attempt: Attempt) -> Answer:
        payment = company.look(self._account.pk, attempt.key, at=attempt.at)
        if payment is None:
            return Answer(Fate.FAILED, reason="unknown_payment")
        if not is_open(self._account):
            return Answer(Fate.FAILED, reason="sandbox_closed")
        return self._answer(payment)

    def cancel(self, attempt: Attempt) -> Answer:
        payment = company.look(self._account.pk, attempt.key, at=attempt.at)
        if payment is not None and payment.state == Payment.State.WAITING:
            try:
                payment = company.fail(payment.pk, "merchant_cancelled", at=attempt.at)
            except company.Refused:  # the payer was quicker
                payment = company.look(self._account.pk, attempt.key, at=attempt.at)
        if payment is None:
            return Answer(Fate.FAILED, reason="unknown_payment")
        return self._answer(payment)

    def refund(self, attempt: Attempt, amount: Decimal, *, key: str) -> Answer:
        try:
            refund = company.give_back(
                self._account.pk, attempt.reference, amount, key=key, at=attempt.at
            )
        except company.Refused as refused:
            return Answer(Fate.FAILED, reason=str(refused))
        return Answer(
            _FATES[refund.state],
            reference=refund.pk,
            reason=refund.reason,
            amount=refund.amount,
            currency=attempt.currency,
        )

    def respond(self, attempt: Attempt, reference: str, evidence: dict[str, str]) -> Answer:
        """Say something to a dispute; again it replaces what was said."""
        try:
            company.answer_dispute(self._account.pk, reference, evidence)
        except company.Refused as refused:
            return Answer(Fate.FAILED, reason=str(refused))
        return Answer(Fate.WAITING, reference=reference)

    def _answer(self, payment: Payment) -> Answer:
        fate = _FATES[payment.state]
        return Answer(
            fate,
            reference=payment.pk,
            action=self._action(payment) if fate == Fate.WAITING else {},
            reason=payment.reason,
            amount=payment.amount,
            currency=payment.currency,
        )

    def _action(self, payment: Payment) -> dict[str, Any]:
        address = _address("sandbox-payment", payment.secret)
        if self.way == BY_CODE:
            return {"kind": "qr", "text": address, "url": address}
        return {"kind": "redirect", "url": address}
