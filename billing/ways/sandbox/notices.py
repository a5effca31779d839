"""What the sandbox tells its merchants: the only writer of notices, and how they are signed.

Standard Webhooks: `webhook-id`, `webhook-timestamp` and `webhook-signature`, an HMAC over the
three parts `id.timestamp.body`. A notice is sent until the merchant has taken it; it may come late,
twice, or after one that happened later.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any

from django.db import connection
from django.db.models import F, Q

from billing.ways.sandbox.models import Dispute, Notice, Payment, Refund

# Between tries; when they are used up it is given up.
PAUSES = (2, 5, 15, 60, 300, 1800, 7200, 14400, 28800)
TOLERANCE = dt.timedelta(seconds=300)


class Forged(Exception):
    """Not signed by the sandbox with this secret, or too long ago."""


# Writing -----------------------------------------------------------------------------------------


def tell_of_payment(payment: Payment, *, at: dt.datetime, copies: int = 1) -> None:
    _tell(payment.account, f"payment.{payment.state}", {"payment": _payment(payment)}, at, copies)


def tell_of_refund(payment: Payment, refund: Refund, *, at: dt.datetime) -> None:
    said = {
        "id": refund.id,
        "key": refund.key,
        "amount": f"{refund.amount:.2f}",
        "currency": payment.currency,
        "state": refund.state,
        "reason": refund.reason,
    }
    about = {"refund": said, "payment": _payment(payment)}
    _tell(payment.account, f"refund.{refund.state}", about, at)


def tell_of_dispute(payment: Payment, dispute: Dispute, *, at: dt.datetime) -> None:
    said = {
        "id": dispute.id,
        "amount": f"{dispute.amount:.2f}",
        "currency": payment.currency,
        "state": dispute.state,
        "reason": dispute.reason,
        "due_at": dispute.due_at.isoformat(),
    }
    about = {"dispute": said, "payment": _payment(payment)}
    _tell(payment.account, f"dispute.{dispute.state}", about, at)


def _payment(payment: Payment) -> dict[str, Any]:
    said: dict[str, Any] = {
        "id": payment.id,
        "key": payment.key,
        "way": payment.way,
        "amount": f"{payment.amount:.2f}",
        "currency": payment.currency,
        "state": payment.state,
        "reason": payment.reason,
    }
    card = payment.method
    if card is not None and card.removed_at is None:
        said["method"] = {
            "id": card.id,
            "customer": card.customer,
            "brand": card.brand,
            "last4": card.last4,
            "expires_on": card.expires_on.isoformat(),
        }
    return said


def _tell(account: int, kind: str, about: dict[str, Any], at: dt.datetime, copies: int = 1) -> None:
    assert connection.in_atomic_block
    name = f"sbx_evt_{secrets.token_hex(12)}"
    body = {"id": name, "type": kind, "account": account, "occurred_at": at.isoformat(), **about}
    Notice.objects.create(
        id=name,
        account=account,
        body=json.dumps(body, ensure_ascii=False, sort_keys=True),
        copies=copies,
        occurred_at=at,
    )


# Sending -----------------------------------------------------------------------------------------


def due(*, at: dt.datetime, limit: int = 100) -> list[Notice]:
    """Notices that are to be sent at `at` by the wall, the oldest first."""
    waiting = Notice.objects.filter(taken__lt=F("copies"), given_up=False)
    ready = waiting.filter(Q(next_try_at=None) | Q(next_try_at__lte=at))
    return list(ready.order_by("occurred_at", "id")[:limit])


def taken(notice: Notice) -> None:
    """The merchant has taken it once (more)."""
    Notice.objects.filter(pk=notice.pk).update(taken=F("taken") + 1, tries=0, next_try_at=None)


def refused(notice: Notice, *, at: dt.datetime) -> None:
    """The merchant has not; it is sent again after a growing pause, and at last no more."""
    pause = dict(enumerate(PAUSES)).get(notice.tries)
    Notice.objects.filter(pk=notice.pk).update(
        tries=F("tries") + 1,
        given_up=pause is None,
        next_try_at=at + dt.timedelta(seconds=pause or 0),
    )


def sign(notice_id: str, body: bytes, secret: str, *, at: dt.datetime) -> dict[str, str]:
    """The headers that make these bytes a notice at `at`, by the wall."""
    sent_at = str(int(at.timestamp()))
    return {
        "webhook-id": notice_id,
        "webhook-timestamp": sent_at,
        "webhook-signature": f"v1,{_mac(notice_id, sent_at, body, secret)}",
    }


def check(
    headers: Mapping[str, str], body: bytes, secrets_: list[str], *, at: dt.datetime
) -> dict[str, Any]:
    """What a notice says, if one of these secrets has signed it lately. Raises Forged."""
    sent = {name.lower(): value for name, value in headers.items()}
    notice_id, sent_at = sent.get("webhook-id", ""), sent.get("webhook-timestamp", "")
    if not sent_at.isascii() or not sent_at.isdigit() or len(sent_at) > 12:
        raise Forged("no time")
    if abs(at.timestamp() - int(sent_at)) > TOLERANCE.total_seconds():
        raise Forged("too old")
    signatures = (one.partition(",") for one in sent.get("webhook-signature", "").split())
    given = [mac for version, _, mac in signatures if version == "v1"]
    wanted = [_mac(notice_id, sent_at, body, secret) for secret in secrets_]
    if not any(hmac.compare_digest(a.encode(), b.encode()) for a in given for b in wanted):
        raise Forged("not signed by the sandbox")
    said = content(body)
    if said.get("id") != notice_id:
        raise Forged("of another id")
    return said


def content(body: bytes) -> dict[str, Any]:
    """What the bytes of a notice say. Raises Forged where they say nothing."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Forged("no JSON") from error
    if not isinstance(said, dict):
        raise Forged("no JSON object")
    return said


def _mac(notice_id: str, sent_at: str, body: bytes, secret: str) -> str:
    signed = b".".join((notice_id.encode(), sent_at.encode(), body))
    mac = hmac.new(secret.encode(), signed, hashlib.sha256)
    return base64.b64encode(mac.digest()).decode()
