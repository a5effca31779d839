"""The ways to pay that there are."""

from __future__ import annotations

from billing.ways.bank import BankTransferProvider
from billing.ways.provider import Provider
from billing.ways.wallet import WalletProvider

_PROVIDERS: tuple[Provider, ...] = (WalletProvider(), BankTransferProvider())
BY_WAY: dict[str, Provider] = {provider.way: provider for provider in _PROVIDERS}
