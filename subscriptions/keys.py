"""API keys: made once, shown once, kept as a hash."""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets

from django.db import transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest

from subscriptions.models import ApiKey, Gateway, Operator

_PREFIX = {ApiKey.Role.OPERATOR: "tbo_", ApiKey.Role.GATEWAY: "tbg_"}


def digest_of(key: str) -> bytes:
    """What is stored of a key. A key has 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


@transaction.atomic
def issue(
    *,
    operator_code: str,
    role: str,
    name: str,
    at: dt.datetime,
    test: bool = False,
    subject: str = "",
) -> str:
    """Make a key and answer it; the operator and the gateway are created where they are new.

    A second gateway key of the same name is the same gateway (rotation). A test operator's clock
    starts, and stands, at `at`.
    """
    operator, _ = Operator.objects.get_or_create(
        code=operator_code,
        defaults={
            "name": operator_code,
            "is_test": test,
            "clock_at": at if test else None,
            "created_at": at,
        },
    )
    gateway = None
    if role == ApiKey.Role.GATEWAY:
        gateway, _ = Gateway.objects.get_or_create(
            operator=operator, name=name, defaults={"created_at": at}
        )
    key = _PREFIX[ApiKey.Role(role)] + secrets.token_urlsafe(32)
    ApiKey.objects.create(
        operator=operator,
        role=role,
        gateway=gateway,
        name=name,
        digest=digest_of(key),
        subject=subject,
        created_at=at,
    )
    return key


def revoke(operator: Operator, key_id: int, *, at: dt.datetime) -> None:
    """Let a key of the operator's open nothing any more. Again changes nothing."""
    rows = ApiKey.objects.filter(operator=operator, pk=key_id, revoked_at__isnull=True)
    rows.update(revoked_at=Greatest(F("created_at"), Value(at)))


def find(key: str) -> ApiKey | None:
    """The live key, with its operator and gateway, or None."""
    return (
        ApiKey.objects.select_related("operator", "gateway")
        .filter(digest=digest_of(key), revoked_at__isnull=True)
        .first()
    )
