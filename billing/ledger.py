"""The money ledger: the only writer of Account, Posting and Entry.

Debits are positive, credits negative; each posting's entries add up to zero, which the database
keeps. What is wrong is corrected by a further posting.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from django.db import connection

from billing.models import Account
from subscriptions import pgarrays
from subscriptions.pgarrays import Instants, Int8s, OptionalInt8s, Texts

ASSET, LIABILITY = Account.Kind.ASSET, Account.Kind.LIABILITY
INCOME, EXPENSE = Account.Kind.INCOME, Account.Kind.EXPENSE

# What an account is, by the first word of its code.
_KINDS = {
    "receivable": ASSET,
    "cash": ASSET,
    "carrier": ASSET,
    "disputed": ASSET,
    "wallet": LIABILITY,
    "bonus": LIABILITY,
    "prepaid": LIABILITY,
    "voucher": LIABILITY,
    "refund": LIABILITY,
    "vat": LIABILITY,
    "deferred": LIABILITY,
    "revenue": INCOME,
    "breakage": INCOME,
    "voucher_breakage": INCOME,
    "late_fee": INCOME,
    "write_off": EXPENSE,
    "compensation": EXPENSE,
    "dispute_loss": EXPENSE,
    "marketing": EXPENSE,
    "provider_fee": EXPENSE,
    "payment_differences": EXPENSE,
}
RECEIVABLE = "receivable"
LATE_FEE = "late_fee"
WALLET = "wallet"
BONUS = "bonus"  # in wallets, given and not paid
MARKETING = "marketing"
PROVIDER_FEE = "provider_fee"
PAYMENT_DIFFERENCES = "payment_differences"
PREPAID = "prepaid"  # paid orders that no invoice has named yet
VOUCHER = "voucher"  # sold and not redeemed yet
VOUCHER_BREAKAGE = "voucher_breakage"  # never redeemed
CARRIER = "carrier"  # what the carrier collects for us with phone bills
REFUND = "refund"  # on its way back to subscribers
DISPUTED = "disputed"  # held by a provider while a dispute is open, less what a wallet gave for it
DISPUTE_LOSS = "dispute_loss"
WRITE_OFF = "write_off"
COMPENSATION = "compensation"


def revenue(plan_code: str, rate: Decimal) -> str:
    """The account of what a plan (or booster) earns at a tax rate."""
    return f"revenue:{plan_code}:{_rate(rate)}"


def deferred(code: str, rate: Decimal) -> str:
    """The account of what was sold in advance and is not earned yet: it is owed in units."""
    return f"deferred:{code}:{_rate(rate)}"


def breakage(code: str, rate: Decimal) -> str:
    """The account of what was earned because nobody burned it in time."""
    return f"breakage:{code}:{_rate(rate)}"


def vat(rate: Decimal) -> str:
    """The account of the tax owed at a rate."""
    return f"vat:{_rate(rate)}"


def _rate(rate: Decimal) -> str:
    # Two places at least, so that one rate has one account however many places a row keeps.
    text = f"{rate:.4f}".rstrip("0")
    return text + "0" * (4 - len(text))


class Side(NamedTuple):
    """An entry to be: `amount` > 0 debits the account, < 0 credits it."""

    account: str
    amount: Decimal
    subscriber_id: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A posting to be; `key` makes it repeatable within its operator. Sides of 0 are left out."""

    key: str
    kind: str
    at: dt.datetime
    currency: str
    sides: tuple[Side, ...]
    description: str = ""


_POST_SQL = """
INSERT INTO billing_posting (id, operator_id, key, kind, at, currency, description, entries)
SELECT nextval('billing_posting_id'), %s, p.*
FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::text[], %s::bigint[])
     AS p (key, kind, at, currency, description, entries)
ORDER BY p.key
ON CONFLICT (operator_id, key) DO NOTHING
RETURNING key, id
"""
_ENTER_SQL = """
INSERT INTO billing_entry (posting_id, nr, account_id, subscriber_id, amount)
SELECT * FROM unnest(
    %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[]::numeric[])
"""


def post_many(operator_id: int, drafts: Sequence[Draft]) -> int:
    """Post each draft whose key was not posted before; answers how many were.

    Joins the caller's transaction. Two statements, however many there are; the order of the keys
    is that of the locks. What does not add up to zero the database refuses, and nothing of it
    stays.
    """
    assert connection.in_atomic_block
    sides = {d.key: [side for side in d.sides if side.amount] for d in drafts}
    drafts = [draft for draft in drafts if sides[draft.key]]
    if not drafts:
        return 0
    wanted = {(side.account, draft.currency) for draft in drafts for side in sides[draft.key]}
    accounts = _accounts(operator_id, wanted)
    with pgarrays.statements() as cursor:
        cursor.execute(
            _POST_SQL,
            [
                operator_id,
                Texts(draft.key for draft in drafts),
                Texts(draft.kind for draft in drafts),
                Instants(draft.at for draft in drafts),
                Texts(draft.currency for draft in drafts),
                Texts(draft.description for draft in drafts),
                Int8s(len(sides[draft.key]) for draft in drafts),
            ],
        )
        posted: dict[str, int] = dict(cursor.fetchall())
        rows = [
            (posted[draft.key], nr, accounts[side.account, draft.currency], side)
            for draft in drafts
            if draft.key in posted
            for nr, side in enumerate(sides[draft.key], 1)
        ]
        if rows:
            postings, nrs, account_ids, entered = zip(*rows, strict=True)
            cursor.execute(
                _ENTER_SQL,
                [
                    Int8s(postings),
                    Int8s(nrs),
                    Int8s(account_ids),
                    OptionalInt8s(side.subscriber_id for side in entered),
                    Texts(str(side.amount) for side in entered),
                ],
            )
    return len(posted)


def post(operator_id: int, draft: Draft) -> bool:
    """Post one; answers whether it was not posted before."""
    return post_many(operator_id, [draft]) == 1


def _accounts(operator_id: int, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The ids of these accounts (code, currency), made where there are none yet."""

    def held() -> dict[tuple[str, str], int]:
        codes = {code for code, _ in wanted}
        rows = Account.objects.filter(operator_id=operator_id, code__in=codes)
        return {(a.code, a.currency): a.pk for a in rows}

    known = held()
    missing = sorted(wanted - known.keys())
    if missing:
        Account.objects.bulk_create(
            [
                Account(operator_id=operator_id, code=code, kind=kind_of(code), currency=currency)
                for code, currency in missing
            ],
            ignore_conflicts=True,
        )
        known = held()
    return known


def kind_of(code: str) -> str:
    """What kind of account a code names. A code that names none is our own bug."""
    return _KINDS[code.partition(":")[0]]


# Reading -----------------------------------------------------------------------------------------


class Balance(NamedTuple):
    """An account's sums up to an instant; `balance` = debit - credit."""

    account: str
    kind: str
    currency: str
    debit: Decimal
    credit: Decimal

    @property
    def balance(self) -> Decimal:
        return self.debit - self.credit


_BALANCES_SQL = """
SELECT a.code, a.kind, a.currency, coalesce(sum(e.amount) FILTER (WHERE e.amount > 0), 0),
       coalesce(-sum(e.amount) FILTER (WHERE e.amount < 0), 0)
FROM billing_account a
JOIN billing_entry e ON e.account_id = a.id
JOIN billing_posting p ON p.id = e.posting_id
WHERE a.operator_id = %s AND p.at <= %s
GROUP BY a.id
ORDER BY a.code, a.currency
"""


def trial_balance(operator_id: int, *, at: dt.datetime) -> Iterator[Balance]:
    """Every account of an operator that was posted to by `at`; per currency they add up to zero."""
    with connection.cursor() as cursor:
        cursor.execute(_BALANCES_SQL, [operator_id, at])
        yield from (Balance(*row) for row in cursor.fetchall())


def liabilities(operator_id: int, *, at: dt.datetime) -> Iterator[Balance]:
    """What an operator owes by an instant: units sold in advance, wallets, tax; the wallets also
    where there is nothing in them, in each currency that was ever posted."""
    balances = list(trial_balance(operator_id, at=at))
    owed = [balance for balance in balances if balance.kind == LIABILITY]
    empty = {balance.currency for balance in balances} - {
        balance.currency for balance in owed if balance.account.partition(":")[0] == WALLET
    }
    zero = Decimal("0.00")
    yield from sorted(owed + [Balance(WALLET, LIABILITY, one, zero, zero) for one in empty])


_SUBSCRIBER_SQL = """
SELECT coalesce(sum(e.amount), 0)
FROM billing_account a
JOIN billing_entry e ON e.account_id = a.id AND e.subscriber_id = %s
JOIN billing_posting p ON p.id = e.posting_id
WHERE a.operator_id = %s AND a.code = %s AND a.currency = %s AND p.at <= %s
"""


def balance_of(
    operator_id: int, subscriber_id: int, account: str, currency: str, *, at: dt.datetime
) -> Decimal:
    """A subscriber's share of an account up to an instant: of `receivable`, what it owes."""
    with connection.cursor() as cursor:
        cursor.execute(_SUBSCRIBER_SQL, [subscriber_id, operator_id, account, currency, at])
        amount: Decimal = cursor.fetchone()[0]
    return amount
