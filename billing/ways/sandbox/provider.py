"""The sandbox as the platform sees it: a company like any other, asked and listened to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from decimal import Decimal
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
    Event,
    Fate,
    Notice,
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
_FATES = {
    Payment.State.WAITING: Fate.WAITING,
    Payment.State.PROCESSING: Fate.WAITING,
    Payment.State.SUCCEEDED: Fate.SUCCEEDED,
    Payment.State.FAILED: Fate.FAILED,
    Payment.State.EXPIRED: Fate.FAILED,
}
_KINDS = {"payment": About.PAYMENT, "refund": About.REFUND, "dispute": About.DISPUTE}


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
        payment = said["payment"]
        about = _KINDS[said["type"].partition(".")[0]]
        subject = said[about]
        answer = Answer(
            _fate(about, subject["state"]),
            reference=payment["id"],
            reason=subject["reason"],
            amount=Decimal(subject["amount"]),
            currency=subject["currency"],
        )
        if answer.fate == Fate.SUCCEEDED and about == About.PAYMENT and not is_open(self._account):
            about = About.NOTHING
        return Event(
            id=said["id"],
            about=about,
            key=subject.get("key", payment["key"]),
            reference=subject["id"],
            answer=answer,
            occurred_at=dt.datetime.fromisoformat(said["occurred_at"]),
            details=_details(said),
        )


def _fate(about: About, state: str) -> Fate:
    if about == About.PAYMENT:
        return _FATES[Payment.State(state)]
    return {"succeeded": Fate.SUCCEEDED, "won": Fate.SUCCEEDED}.get(
        state, Fate.FAILED if state in ("failed", "lost") else Fate.WAITING
    )


def _details(said: dict[str, Any]) -> dict[str, Any]:
    return {name: said[name] for name in ("dispute",) if name in said} | {
        "payment": said["payment"]
    }


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
            _fate(About.REFUND, refund.state),
            reference=refund.pk,
            reason=refund.reason,
            amount=refund.amount,
            currency=attempt.currency,
        )

    def _answer(self, payment: Payment) -> Answer:
        fate = _FATES[Payment.State(payment.state)]
        return Answer(
            fate,
            reference=payment.pk,
            action=self._action(payment) if fate == Fate.WAITING else {},
            reason=payment.reason,
            amount=payment.amount,
            currency=payment.currency,
        )

    def _action(self, payment: Payment) -> dict[str, Any]:
        address = settings.PUBLIC_URL + reverse("sandbox-payment", args=[payment.secret])
        if self.way == BY_CODE:
            return {"kind": "qr", "text": address, "url": address}
        return {"kind": "redirect", "url": address}
