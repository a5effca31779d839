"""An operator's account at Stripe: the ways to pay that it offers, and its notices."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping

from billing.models import ProviderAccount, ProviderSecret
from billing.ways.provider import (
    Answer,
    Card,
    Event,
    Moved,
    Notice,
    Provider,
    Saving,
    Unavailable,
)
from billing.ways.stripe import balance, notices
from billing.ways.stripe import saving as saved
from billing.ways.stripe.provider import StripeProvider


class StripePartner:
    ways: tuple[str, ...] = ("alipay", "card", "wechat_pay")

    def __init__(self, account: ProviderAccount, secrets: Callable[[str], list[str]]) -> None:
        self._account, self._secrets = account, secrets

    def provider(self, way: str) -> Provider:
        return StripeProvider(self._account, self.api_secret(), way)

    def api_secret(self) -> str:
        """Raises Unavailable where the account has none that is valid."""
        secrets = self._secrets(ProviderSecret.Kind.API)
        if not secrets:
            raise Unavailable("the account has no API secret")
        return secrets[0]

    def begin_saving(self, saving: Saving) -> Answer:
        return saved.begin(self.api_secret(), saving)

    def describe(self, reference: str) -> Card:
        return saved.describe(self.api_secret(), reference)

    def forget(self, reference: str) -> None:
        saved.forget(self.api_secret(), reference)

    def moved(self, since: dt.datetime, until: dt.datetime) -> Iterator[Moved]:
        return balance.moved(self.api_secret(), since, until)

    def verify(self, headers: Mapping[str, str], body: bytes, *, wall: dt.datetime) -> Notice:
        secrets = self._secrets(ProviderSecret.Kind.WEBHOOK)
        return notices.verify(self._account, secrets, headers.get("Stripe-Signature", ""), body)

    def read(self, body: bytes) -> Event:
        return notices.read(body)
