"""Accounts at payment providers and their secrets: the only writer of both.

A secret comes in once and is never shown again; `hint` is its last four characters. While one is
rotated, the one before stays valid until the time that is said.
"""

from __future__ import annotations

import datetime as dt
import secrets as random
from typing import cast

from django.db import connection, models, transaction
from django.db.models import Q

from billing.models import ProviderAccount, ProviderSecret
from subscriptions import sealing
from subscriptions.errors import Invalid, NotFound
from subscriptions.models import Operator

Kind = ProviderSecret.Kind
# How long a provider may go on with the secret before, where nobody says.
OVERLAP = dt.timedelta(hours=24)
LONGEST_OVERLAP = dt.timedelta(days=30)
# Of notices: Stripe tells a thing again for up to 30 days; invoices are kept for five years.
FEWEST_DAYS, MOST_DAYS = 30, 1830


@transaction.atomic
def keep(
    operator: Operator, provider: str, *, name: str, live: bool, at: dt.datetime
) -> ProviderAccount:
    """The account of this name that the operator has at a provider from now on.

    One of another name, or that is live where the other was not, ends: attempts that it knows are
    still heard of and refunded there.
    """
    Operator.objects.select_for_update(no_key=True).get(pk=operator.pk)
    current = ProviderAccount.objects.filter(operator=operator, provider=provider, ended_at=None)
    known = current.first()
    if known is not None and (known.name, known.live) == (name, live):
        return known
    current.update(ended_at=at)
    return ProviderAccount.objects.create(
        operator=operator,
        provider=provider,
        public_id=random.token_hex(16),
        name=name,
        live=live,
        created_at=at,
    )


def known(provider: str) -> None:
    """Raises NotFound for a company that an operator can have no account of its own at."""
    if provider != ProviderAccount.Provider.STRIPE:
        raise NotFound("there is no such provider")


@transaction.atomic
def set_up(
    operator: Operator,
    provider: str,
    *,
    name: str,
    live: bool,
    secrets: dict[str, str],
    at: dt.datetime,
) -> ProviderAccount:
    """Be paid through an account from now on, with these secrets by their kind. Raises Invalid,
    also while it has none that both sides need."""
    account = keep(operator, provider, name=name, live=live, at=at)
    for kind, secret in secrets.items():
        add_secret(account, kind, secret, at=at)
    for kind in Kind.values:
        if not secrets_of(account, kind, at=at):
            raise Invalid(f"this account has no {kind} secret yet: give one")
    return account


@transaction.atomic
def add_secret(
    account: ProviderAccount,
    kind: str,
    secret: str,
    *,
    at: dt.datetime,
    overlap: dt.timedelta = OVERLAP,
) -> None:
    """Let a secret be valid from now on, and those of its kind before it for `overlap` only; one
    that is the newest already changes nothing. Raises Invalid."""
    if not secret.strip() or not secret.isprintable():
        raise Invalid("a secret is a line of printable characters")
    if not dt.timedelta(0) <= overlap <= LONGEST_OVERLAP:
        raise Invalid(f"an old secret stays valid for at most {LONGEST_OVERLAP.days} days")
    ProviderAccount.objects.select_for_update(no_key=True).get(pk=account.pk)
    rows = ProviderSecret.objects.filter(account=account, kind=kind)
    newest = rows.order_by("-id").first()
    if newest is not None and sealing.unseal(newest.sealed) == secret:
        return
    rows.filter(Q(valid_until=None) | Q(valid_until__gt=at + overlap)).update(
        valid_until=at + overlap
    )
    ProviderSecret.objects.create(
        account=account,
        kind=kind,
        sealed=sealing.seal(secret),
        hint=secret[-4:] if len(secret) >= 16 else "",
        valid_from=at,
    )


@transaction.atomic
def keep_notices(account: ProviderAccount, days: int) -> ProviderAccount:
    """Keep what the provider tells whole for so many days. Raises Invalid."""
    if not FEWEST_DAYS <= days <= MOST_DAYS:
        raise Invalid(f"notices are kept for {FEWEST_DAYS} to {MOST_DAYS} days")
    ProviderAccount.objects.filter(pk=account.pk).update(notices_kept_days=days)
    account.notices_kept_days = days
    return account


def _columns(model: type[models.Model], alias: str) -> str:
    return ", ".join(f'{alias}."{field.column}"' for field in model._meta.concrete_fields)


def _made(model: type[models.Model], row: tuple[object, ...]) -> models.Model:
    return model.from_db("default", [field.attname for field in model._meta.concrete_fields], row)


# Asked for each notice that comes: building the statement anew took longer than answering it.
_ADDRESSED = f"""
    SELECT {_columns(ProviderAccount, "a")}, {_columns(Operator, "o")}
    FROM {ProviderAccount._meta.db_table} a
    JOIN {Operator._meta.db_table} o ON o.id = a.operator_id
    WHERE a.public_id = %s AND a.provider = %s
"""  # noqa: S608
_VALID = f"""
    SELECT sealed FROM {ProviderSecret._meta.db_table}
    WHERE account_id = %s AND kind = %s AND valid_from <= %s
      AND (valid_until IS NULL OR valid_until > %s)
    ORDER BY id DESC
"""  # noqa: S608


def addressed(provider: str, public_id: str) -> ProviderAccount | None:
    """The account, with its operator, that a notice to this address is for."""
    with connection.cursor() as cursor:
        cursor.execute(_ADDRESSED, [public_id, provider])
        row = cursor.fetchone()
    if row is None:
        return None
    width = len(ProviderAccount._meta.concrete_fields)
    account = cast(ProviderAccount, _made(ProviderAccount, row[:width]))
    account.operator = cast(Operator, _made(Operator, row[width:]))
    return account


def secrets_of(account: ProviderAccount, kind: str, *, at: dt.datetime) -> list[str]:
    """The secrets of a kind that are valid at `at`, the newest first. Raises Unreadable."""
    with connection.cursor() as cursor:
        cursor.execute(_VALID, [account.pk, kind, at, at])
        return [sealing.unseal(sealed) for (sealed,) in cursor.fetchall()]


@transaction.atomic
def open_sandbox(operator: Operator, *, at: dt.datetime) -> ProviderAccount:
    """The operator's account at the sandbox, which comes by itself, with a secret of its own."""
    account = keep(operator, ProviderAccount.Provider.SANDBOX, name="", live=False, at=at)
    if not ProviderSecret.objects.filter(account=account, kind=Kind.WEBHOOK).exists():
        add_secret(account, Kind.WEBHOOK, random.token_urlsafe(32), at=at)
    return account


def was_live(operator: Operator) -> bool:
    """Whether the operator has, or had, an account that takes money."""
    return ProviderAccount.objects.filter(operator=operator, live=True).exists()


@transaction.atomic
def end(operator: Operator, provider: str, *, at: dt.datetime) -> ProviderAccount:
    """Take no more payments at a provider. Raises NotFound."""
    account = find(operator, provider)
    ProviderAccount.objects.filter(pk=account.pk).update(ended_at=at)
    account.ended_at = at
    return account


def find(operator: Operator, provider: str) -> ProviderAccount:
    """The account that the operator has at a provider today. Raises NotFound."""
    found = ProviderAccount.objects.filter(
        operator=operator, provider=provider, ended_at=None
    ).first()
    if found is None:
        raise NotFound(f"there is no account at {provider}")
    return found


def seal_again() -> int:
    """Seal every secret with today's SECRET_KEY; answers how many there are."""
    done = 0
    for row in ProviderSecret.objects.order_by("id"):
        ProviderSecret.objects.filter(pk=row.pk).update(sealed=sealing.again(row.sealed))
        done += 1
    return done
