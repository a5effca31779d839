"""The way to the tax platform and back: no transaction is open while somebody else is asked.

A request is committed before it is handed over and marked after; whatever a crash leaves between,
the next sweep hands over again under the same id.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

from billing.fapiao import requests
from billing.fapiao.providers import Issued, Provider, ProviderError
from billing.models import FapiaoRequest
from subscriptions.errors import Invalid
from subscriptions.models import Operator

State = FapiaoRequest.State


class Swept(NamedTuple):
    """What a sweep did."""

    submitted: int = 0
    issued: int = 0
    refused: int = 0
    problems: int = 0


def sweep(operator: Operator, provider: Provider, *, at: dt.datetime) -> Swept:
    """Hand over what is requested, ask after what was handed over. Two at once harm nothing."""
    submitted = issued = refused = problems = 0
    for one in requests.waiting(operator, State.REQUESTED):
        hand_over = provider.submit if one.original_id is None else provider.red
        try:
            hand_over(payload(one))
        except ProviderError as error:
            requests.note_problem(one, str(error))
            problems += 1
        else:
            requests.note_submitted(one, at=at)
            submitted += 1
    for one in requests.waiting(operator, State.SUBMITTED):
        try:
            answer = provider.poll(operator.code, one.request_id)
            if answer is None:
                continue
            requests.note_outcome(one, answer)
        except (ProviderError, Invalid) as error:
            requests.note_problem(one, str(error))
            problems += 1
        else:
            issued += isinstance(answer, Issued)
            refused += not isinstance(answer, Issued)
    return Swept(submitted, issued, refused, problems)


def payload(one: FapiaoRequest) -> dict[str, Any]:
    """A request in full, as every provider gets it; the same each time."""
    red = {}
    if one.original is not None:
        red = {"red": {"reason": one.reason, "number": one.original.number}}
    return {
        "request_id": one.request_id,
        "operator": one.operator.code,
        "kind": one.kind,
        "seller": one.seller,
        "buyer": {
            "natural_person": one.buyer_is_person,
            "name": one.buyer_name,
            "tax_id": one.buyer_tax_id,
        },
        "lines": one.lines,
        "currency": one.currency,
        "net": f"{one.net:.2f}",
        "tax": f"{one.tax:.2f}",
        "gross": f"{one.gross:.2f}",
        "gross_in_capitals": one.capitals,
        **red,
    }
