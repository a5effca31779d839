"""Batches of vouchers for tests, ordered and made through the doors and the worker's function."""

from __future__ import annotations

import csv
import io
from typing import Any

from rest_framework.test import APIClient

from billing.vouchers import keeping
from subscriptions import clock
from subscriptions.models import Operator
from tests.usage import post, put

TERMS: dict[str, Any] = {
    "name": "Spring",
    "count": 3,
    "valid_from": "2026-06-01T00:00:00+08:00",
    "valid_until": "2026-12-01T00:00:00+08:00",
}


def order_batch(api: APIClient, code: str = "SPRING", **said: Any) -> str:
    """Order a batch, of 50 yuan unless `said` gives something else; its key."""
    gives = said.keys() & {"amount", "booster", "units"}
    body = TERMS | ({} if gives else {"amount": "50.00"}) | said
    answer = put(api, f"voucher-batches/{code}", body)
    assert answer.status_code == 201, answer.content
    return str(answer.json()["codes_key"])


def make_all(operator: Operator) -> None:
    """What workers do when they are rung for."""
    for batch_id in keeping.making(operator.pk):
        while keeping.make_next(batch_id, at=clock.now(operator)):
            pass


def shown_codes(api: APIClient, key: str, code: str = "SPRING") -> dict[str, str]:
    """The codes of a batch by serial number, as its file says."""
    answer: Any = post(api, f"voucher-batches/{code}/codes", {"key": key})
    assert answer.status_code == 200, answer.content
    text = b"".join(answer.streaming_content).decode()
    return dict(list(csv.reader(io.StringIO(text)))[1:])


def sold_vouchers(
    operator: Operator, api: APIClient, code: str = "SPRING", **said: Any
) -> dict[str, str]:
    """A batch that is made, shown and activated: codes by serial number."""
    key = order_batch(api, code, **said)
    make_all(operator)
    codes = shown_codes(api, key, code)
    done = post(api, f"voucher-batches/{code}/activate", {"first": 1, "last": len(codes)})
    assert done.json() == {"changed": len(codes)}, done.content
    return codes
