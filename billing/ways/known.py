"""The ways to pay that an operator has, and who is asked for each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import NamedTuple

from django.conf import settings

from billing.models import ProviderAccount
from billing.ways import accounts
from billing.ways.bank import BankTransferProvider
from billing.ways.phone_bill import PhoneBillProvider
from billing.ways.provider import Partner, Provider
from billing.ways.sandbox.provider import SandboxPartner
from billing.ways.stripe import StripePartner
from billing.ways.wallet import WalletProvider
from subscriptions.models import Operator

# What every operator has.
ALWAYS: dict[str, Provider] = {
    provider.way: provider
    for provider in (WalletProvider(), PhoneBillProvider(), BankTransferProvider())
}
# What a company has to be asked for.
ONLINE = ("alipay", "card", "wechat_pay")
NAMES = tuple(sorted({*ALWAYS, *ONLINE}))

# Who speaks to each company, given the operator's account there: `secrets(kind)` are those that
# are valid, the newest first.
Secrets = Callable[[str], list[str]]
PARTNERS: dict[str, Callable[[ProviderAccount, Secrets], Partner]] = {
    ProviderAccount.Provider.STRIPE: StripePartner,
    ProviderAccount.Provider.SANDBOX: SandboxPartner,
}


class Asked(NamedTuple):
    """Who is asked for a way to pay, and through which account; none for what needs nobody."""

    provider: Provider
    account: ProviderAccount | None = None


def choose(operator: Operator, way: str, *, at: dt.datetime) -> Asked | None:
    """Who is asked when somebody pays this operator in a way today; None where it has no such."""
    if way in ALWAYS:
        return Asked(ALWAYS[way])
    account = _account(operator, at=at) if way in ONLINE else None
    if account is None:
        return None
    partner = partner_of(account, at=at)
    return Asked(partner.provider(way), account) if way in partner.ways else None


def offered(operator: Operator, *, at: dt.datetime) -> list[str]:
    """All ways in which this operator can be paid today: those that it always has first."""
    account = _account(operator, at=at)
    online = () if account is None else partner_of(account, at=at).ways
    return [*ALWAYS, *(way for way in ONLINE if way in online)]


def again(way: str, account: ProviderAccount | None, *, at: dt.datetime) -> Provider:
    """Who was asked for an attempt, and is asked again."""
    return ALWAYS[way] if account is None else partner_of(account, at=at).provider(way)


def partner_of(account: ProviderAccount, *, at: dt.datetime) -> Partner:
    """Who speaks to the company where this account is."""

    def secrets(kind: str) -> list[str]:
        return accounts.secrets_of(account, kind, at=at)

    return PARTNERS[account.provider](account, secrets)


def _account(operator: Operator, *, at: dt.datetime) -> ProviderAccount | None:
    """Stripe where the operator has it, else the sandbox, which takes no money: never again once
    the operator has taken some."""
    theirs: Mapping[str, ProviderAccount] = {
        account.provider: account
        for account in ProviderAccount.objects.filter(operator=operator, ended_at=None)
    }
    stripe = theirs.get(ProviderAccount.Provider.STRIPE)
    if stripe is not None:
        return stripe
    sandbox = ProviderAccount.Provider.SANDBOX
    if not settings.SANDBOX_PAYMENTS or accounts.was_live(operator):
        return None
    return theirs.get(sandbox) or accounts.open_sandbox(operator, at=at)
