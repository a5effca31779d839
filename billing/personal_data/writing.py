"""What is in a file of personal data."""

from __future__ import annotations

import datetime as dt
import json
import zipfile
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import IO, Any
from zoneinfo import ZoneInfo

from allauth.usersessions.models import UserSession

from billing import complaints
from billing.exports import cells
from billing.models import (
    Complaint,
    Consent,
    Invoice,
    PersonalDataExport,
)
from subscriptions import registry
from subscriptions.models import Subscription
from subscriptions.units import to_wire

_READ_ME = """{operator}

这里是您在本运营商的账户数据，制作于 {at}。时间为 {zone}，数量以词元计，金额以元等币种计。
profile.json 个人资料与会话；subscriptions.json 套餐；buckets.csv 词元包；
usage_days.csv 每日用量；usage_records.csv 每次请求；invoices.csv、invoice_lines.csv 账单；
payments.csv 支付；orders.csv 订单；wallet.csv 钱包；notices.csv 通知；keys.csv 密钥；
safety.csv 安全设置；consents.json 授权；complaints.json 投诉。提示词与回答从不保存。

This is what is kept of your account with this carrier, as of {at}. Times are in {zone}, quantities
in tokens. Prompts and answers are never kept. Files:
profile.json: you and your sessions; subscriptions.json: plans; buckets.csv: buckets of tokens;
usage_days.csv: usage by day; usage_records.csv: each request; invoices.csv and invoice_lines.csv;
payments.csv; orders.csv; wallet.csv; notices.csv; keys.csv; safety.csv; consents.json;
complaints.json.
"""

# Each reads one subscriber's rows by the head of their keys: %(subscriber)s, %(zone)s.
_TABLES: dict[str, tuple[Sequence[str], str]] = {
    "buckets.csv": (
        ("kind", "granted", "used", "valid_from", "valid_until", "note"),
        """SELECT kind, granted, used, valid_from, valid_until, note
        FROM subscriptions_bucket WHERE subscriber_id = %(subscriber)s ORDER BY valid_from, id""",
    ),
    "usage_days.csv": (
        (
            *("day", "model", "requests", "uncached_input_tokens", "cached_input_tokens"),
            *("cache_write_tokens", "output_tokens", "reasoning_tokens", "units"),
        ),
        """SELECT day, model, requests, uncached_input_tokens, cached_input_tokens,
               cache_write_tokens, output_tokens, reasoning_tokens, units
        FROM metering_usageday WHERE subscriber_id = %(subscriber)s ORDER BY day, model""",
    ),
    # As they are in force; what is void counts nothing.
    "usage_records.csv": (
        (
            *("occurred_at", "id", "key", "model", "outcome", "void", "uncached_input_tokens"),
            *("cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"),
            "units",
        ),
        """SELECT r.occurred_at, r.record_id, s.subject, coalesce(a.model, r.model),
               coalesce(a.outcome, r.outcome), coalesce(a.requests < 0, false),
               greatest(coalesce(a.uncached_input_tokens, r.uncached_input_tokens), 0),
               greatest(coalesce(a.cached_input_tokens, r.cached_input_tokens), 0),
               greatest(coalesce(a.cache_write_tokens, r.cache_write_tokens), 0),
               greatest(coalesce(a.output_tokens, r.output_tokens), 0),
               greatest(coalesce(a.reasoning_tokens, r.reasoning_tokens), 0),
               greatest(coalesce(a.units, r.units), 0) AS units
        FROM metering_usagerecord r
        LEFT JOIN subscriptions_subject s ON s.id = r.subject_id
        LEFT JOIN LATERAL (
            SELECT * FROM metering_adjustedrecord a
            WHERE a.subscriber_id = r.subscriber_id AND a.gateway_id = r.gateway_id
              AND a.source = r.source AND a.record_id = r.record_id
              AND a.occurred_at = r.occurred_at
            ORDER BY a.nr DESC LIMIT 1
        ) a ON true
        WHERE r.subscriber_id = %(subscriber)s
        ORDER BY r.occurred_at""",
    ),
    "invoices.csv": (
        (
            *("number", "kind", "state", "period_start", "period_end", "issued_at", "due_at"),
            *("currency", "net", "tax", "gross", "paid"),
        ),
        """SELECT number, kind, state, period_start, period_end, issued_at, due_at, currency, net,
               tax, gross, paid
        FROM billing_invoice
        WHERE subscriber_id = %(subscriber)s AND number IS NOT NULL ORDER BY id""",
    ),
    "invoice_lines.csv": (
        ("invoice", "line", "kind", "description", "units", "net", "tax_rate", "tax", "gross"),
        """SELECT i.number, l.nr, l.kind, l.description, l.units, l.net, l.tax_rate, l.tax, l.gross
        FROM billing_invoiceline l
        JOIN billing_invoice i ON i.subscriber_id = l.subscriber_id AND i.id = l.invoice_id
        WHERE l.subscriber_id = %(subscriber)s AND i.number IS NOT NULL
        ORDER BY l.invoice_id, l.nr""",
    ),
    "payments.csv": (
        ("invoice", "way", "at", "currency", "amount"),
        """SELECT i.number, p.way, p.at, p.currency, p.amount
        FROM billing_payment p
        JOIN billing_invoice i ON i.subscriber_id = p.subscriber_id AND i.id = p.invoice_id
        WHERE p.subscriber_id = %(subscriber)s ORDER BY p.at, p.invoice_id, p.nr""",
    ),
    "orders.csv": (
        ("number", "kind", "state", "currency", "amount", "created_at"),
        """SELECT number, kind, state, currency, amount, created_at
        FROM billing_order WHERE subscriber_id = %(subscriber)s ORDER BY id""",
    ),
    "wallet.csv": (
        ("at", "kind", "currency", "amount", "balance"),
        """SELECT at, kind, currency, amount, balance
        FROM billing_walletmovement WHERE subscriber_id = %(subscriber)s ORDER BY currency, nr""",
    ),
    "notices.csv": (
        ("kind", "channel", "occurred_at", "state", "ended_at"),
        """SELECT kind, channel, occurred_at, state, ended_at
        FROM subscriptions_notice WHERE subscriber_id = %(subscriber)s ORDER BY id""",
    ),
    "keys.csv": (
        ("name", "subject", "cap", "cap_per", "models", "created_at", "revoked_at"),
        """SELECT name, subject, cap / 1000.0, cap_per, array_to_string(allowed_models, ' '),
               created_at, revoked_at
        FROM subscriptions_subscriberkey WHERE subscriber_id = %(subscriber)s ORDER BY id""",
    ),
    "safety.csv": (
        ("at", "kind", "by", "terms"),
        """SELECT at, kind, by, terms::text
        FROM subscriptions_safetystep WHERE subscriber_id = %(subscriber)s ORDER BY at, kind, nr""",
    ),
}
_UNITS = ("granted", "used", "units")


def write(file: IO[bytes], export: PersonalDataExport, *, at: dt.datetime) -> None:
    """The ZIP of an account, as it is now."""
    zone = ZoneInfo(export.operator.time_zone)
    own = {"subscriber": export.subscriber_id, "zone": zone.key}
    said = {
        "operator": export.operator.name,
        "at": at.astimezone(zone).isoformat(timespec="seconds"),
        "zone": zone.key,
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.txt", _READ_ME.format(**said))
        for name, made in (
            ("profile.json", _profile(export)),
            ("subscriptions.json", _subscriptions(export)),
            ("consents.json", _consents(export)),
            ("complaints.json", _complaints(export)),
        ):
            archive.writestr(name, json.dumps(made, ensure_ascii=False, indent=2, default=str))
        for name, (head, sql) in _TABLES.items():
            rows = (
                [_cell(head[nr], cell, zone) for nr, cell in enumerate(row)]
                for row in cells.stream(sql, own)
            )
            with archive.open(name, "w", force_zip64=True) as entry:
                _write(entry, head, rows)


def _write(entry: IO[bytes], head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    entry.write(b"\xef\xbb\xbf")  # else spreadsheets take Chinese for something else
    for chunk in cells.encode([head]):
        entry.write(chunk)
    for chunk in cells.encode(rows):
        entry.write(chunk)


def _cell(name: str, value: Any, zone: ZoneInfo) -> str:
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        return cells.time(value, zone)
    if isinstance(value, bool):
        return str(int(value))
    if name in _UNITS:
        return to_wire(int(value))
    if isinstance(value, int | Decimal | dt.date):
        return str(value)
    return cells.text(str(value))


def _profile(export: PersonalDataExport) -> dict[str, Any]:
    user, subscriber = export.user, export.subscriber
    sessions = UserSession.objects.filter(user=user).order_by("created_at")
    return {
        "user": {
            "id": str(user.key),
            "email": user.email,
            "phone": user.phone,
            "created_at": user.created_at,
        },
        "subscriber": {
            "id": subscriber.external_id,
            "name": subscriber.name,
            "kind": subscriber.kind,
            "phone": subscriber.msisdn,
            "email": subscriber.email,
            "language": subscriber.language,
            "created_at": subscriber.created_at,
            "keys": registry.subjects_of([subscriber.pk]).get(subscriber.pk, []),
        },
        "sessions": [
            {
                "device": session.user_agent,
                "address": session.ip,
                "since": session.created_at,
                "last_seen": session.last_seen_at,
            }
            for session in sessions
        ],
    }


def _subscriptions(export: PersonalDataExport) -> list[dict[str, Any]]:
    rows = Subscription.objects.filter(subscriber_id=export.subscriber_id).select_related("plan")
    return [
        {
            "plan": row.plan.code,
            "name": row.plan.name,
            "starts_at": row.starts_at,
            "ends_at": row.ends_at,
        }
        for row in rows.order_by("starts_at")
    ]


def _consents(export: PersonalDataExport) -> list[dict[str, Any]]:
    rows = Consent.objects.filter(subscriber_id=export.subscriber_id).order_by("id")
    return [
        {
            "number": row.number,
            "kind": row.kind,
            "text": row.text,
            "channel": row.channel,
            "given_at": row.given_at,
            "withdrawn_at": row.withdrawn_at,
        }
        for row in rows
    ]


def _complaints(export: PersonalDataExport) -> list[dict[str, Any]]:
    own = {"subscriber_id": export.subscriber_id}
    rows = list(Complaint.objects.filter(**own).order_by("id"))
    said = complaints.messages_of(rows)
    named = {row.invoice_id for row in rows if row.invoice_id is not None}
    numbers = dict(Invoice.objects.filter(**own, id__in=named).values_list("id", "number"))
    return [
        {
            "number": row.number,
            "kind": row.kind,
            "state": row.state,
            "invoice": numbers.get(row.invoice_id or 0),
            "line": row.line,
            "messages": [{"by": m.by, "at": m.at, "text": m.text} for m in said[row.id]],
        }
        for row in rows
    ]
