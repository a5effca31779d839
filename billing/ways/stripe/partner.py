"""An operator's account at Stripe: the ways to pay that it offers, and its notices."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping

from billing.models import ProviderAccount, ProviderSecret
from billing.ways.provider import Event, Notice, Provider
from billing.ways.stripe import notices


class StripePartner:
    ways: tuple[str, ...] = ()

    def __init__(self, account: ProviderAccount, secrets: Callable[[str], list[str]]) -> None:
        self._account, self._secrets = account, secrets

    def provider(self, way: str) -> Provider:
        raise NotImplementedError(way)

    def verify(self, headers: Mapping[str, str], body: bytes, *, wall: dt.datetime) -> Notice:
        secrets = self._secrets(ProviderSecret.Kind.WEBHOOK)
        return notices.verify(self._account, secrets, headers.get("Stripe-Signature", ""), body)

    def read(self, body: bytes) -> Event:
        return notices.read(body)
