"""Asking before the tokens are spent: how much a request may take, and whether it may be made.

What it will take is estimated from the model and its token counts with the subscriber's rate card;
what there is, and what the plan allows beyond, subscriptions/reservations.py decides under locks.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import msgspec

from metering.context import Caller
from metering.ingest import KeyRevoked
from metering.parsing import Count, Malformed, Name
from metering.weighing import Cards, Weight, cards_of
from subscriptions import accounts, pgarrays, reservations
from subscriptions.accounts import Account, Terms
from subscriptions.errors import Conflict, DomainError, Invalid
from subscriptions.reservations import Ask, NameTaken, Verdict
from subscriptions.units import MAX_UNITS, THOUSANDTHS, from_decimal, to_wire

# What a request is taken to use where the gateway does not say: about the middle of real traffic.
DEFAULT_INPUT_TOKENS = 1_024
DEFAULT_OUTPUT_TOKENS = 1_024
MAX_ID = 512
DEFAULT_TTL = 600
MAX_TTL = 86_400
_ATTEMPTS = 20


class Request(msgspec.Struct, gc=False):
    """`POST /api/v1/reservations`, as it is sent."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)]
    subject: Name
    model: Name
    input_tokens: Count | None = None
    max_output_tokens: Count | None = None
    units: Decimal | None = None
    ttl_seconds: Annotated[int, msgspec.Meta(ge=1, le=MAX_TTL)] = DEFAULT_TTL


_request = msgspec.json.Decoder(Request, strict=False)


def parse(body: bytes) -> Request:
    """Raises Malformed for what is no JSON, Invalid for what breaks a rule."""
    try:
        body.decode()
        request = _request.decode(body)
    except msgspec.ValidationError as error:
        raise Invalid(str(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(f"the body is not JSON: {error}") from error
    if any(ord(char) < 32 or ord(char) == 127 for char in request.id):
        raise Invalid("id cannot hold control characters: it has to fit into an address")
    if "\0" in request.subject or "\0" in request.model:
        raise Invalid("subject and model cannot hold a NUL character")
    if request.units is not None:
        _thousandths(request.units)
    return request


def _thousandths(units: Decimal) -> int:
    if not units.is_finite() or not 0 <= units <= MAX_UNITS // THOUSANDTHS:
        raise Invalid(f"units are from 0 to {MAX_UNITS // THOUSANDTHS}")
    try:
        return from_decimal(units)
    except ValueError as error:
        raise Invalid(str(error)) from error


def reserve(
    caller: Caller, requests: Sequence[Request], *, wall: dt.datetime
) -> list[dict[str, Any] | DomainError]:
    """Hold what each request may take; each id once, a retry gets the first answer.

    Answers go along with the requests; one that says something else under an id that was used is
    answered by a Conflict. Raises KeyRevoked.
    """
    if caller.subject:
        for request in requests:
            request.subject = caller.subject
    pgarrays.revive()
    prints = [_fingerprint(request) for request in requests]
    names = sorted({request.id for request in requests})
    first = reservations.first_answers(caller.gateway_id, names)
    for _ in range(_ATTEMPTS):
        # Of two that come together under one id the first is asked.
        todo: dict[str, int] = {}
        for nr, request in enumerate(requests):
            if request.id not in first:
                todo.setdefault(request.id, nr)
        if not todo:
            break
        try:
            made = _reserve(caller, [(requests[nr], prints[nr]) for nr in todo.values()], wall)
        except NameTaken:
            first |= reservations.first_answers(caller.gateway_id, sorted(todo))
        else:
            first |= {requests[nr].id: (prints[nr], made[requests[nr].id]) for nr in todo.values()}
    answers: list[dict[str, Any] | DomainError] = []
    for request, fingerprint in zip(requests, prints, strict=True):
        known, answer = first[request.id]
        if known != fingerprint:
            answers.append(Conflict(f"id {request.id!r} was used for another reservation"))
        else:
            answers.append(answer)
    return answers


def _fingerprint(request: Request) -> str:
    said = msgspec.json.encode(msgspec.structs.astuple(request))
    return hashlib.sha256(said).hexdigest()


def _reserve(
    caller: Caller, requests: Sequence[tuple[Request, str]], wall: dt.datetime
) -> dict[str, dict[str, Any]]:
    terms, found = present(caller, [request.subject for request, _ in requests], wall=wall)
    cards = cards_of(caller.operator_id, terms.card_stamp)
    asks = [
        _ask(request, fingerprint, account, terms, cards)
        for (request, fingerprint), account in zip(requests, found, strict=True)
    ]
    return reservations.reserve(
        asks,
        operator_id=caller.operator_id,
        gateway_id=caller.gateway_id,
        at=terms.at,
        render=_Renderer(terms.at),
    )


def present(
    caller: Caller, subjects: Sequence[str], *, wall: dt.datetime, with_sources: bool = False
) -> tuple[Terms, list[Account | None]]:
    """Who these subjects are now, without holds that outlived their time. Raises KeyRevoked."""
    read = functools.partial(
        accounts.read,
        caller.operator_id,
        caller.key_id,
        subjects,
        wall=wall,
        with_sources=with_sources,
    )
    found = read()
    outlived = [a.subscriber_id for a in found.accounts if a and a.outlived] if found else []
    if found and outlived:
        reservations.expire_due_of(outlived, at=found.terms.at)
        found = read()
    if found is None:
        raise KeyRevoked
    return found.terms, found.accounts


def _ask(
    request: Request, fingerprint: str, account: Account | None, terms: Terms, cards: Cards
) -> Ask:
    if account is None:
        return Ask(request.id, fingerprint, request.ttl_seconds, refused="unknown_subject")
    weight = weight_of(account, request.model, terms, cards)
    estimate = _estimate(request, weight) if weight is not None else _Estimate(0, 0)
    policy = account.period.policy
    cheaper = None
    if policy is not None and policy.degrade_model and request.units is None:
        other = weight_of(account, policy.degrade_model, terms, cards)
        cheaper = _estimate(request, other).units if other is not None else None
    return Ask(
        request.id,
        fingerprint,
        request.ttl_seconds,
        account.subscriber_id,
        account.period,
        estimate.units,
        estimate.least,
        cheaper,
        refused=account.blocked or ("" if weight is not None else "unknown_model"),
    )


def weight_of(account: Account, model: str, terms: Terms, cards: Cards) -> Weight | None:
    """What a token of this model weighs for the subscriber now."""
    policy = account.period.policy
    version = cards.version_at(policy.rate_card if policy else terms.default_card, terms.at)
    return version.weight_of(model) if version is not None else None


class _Estimate(NamedTuple):
    """What a request will take, and how much has to be there for it to be worth beginning."""

    units: int
    least: int


def _estimate(request: Request, weight: Weight) -> _Estimate:
    """All input as uncached, all output as plain: what is left over is freed by the commit.

    A number that the gateway gave has to be there whole. What was only assumed refuses nobody:
    then it is enough that something is left beyond what was given.
    """
    if request.units is not None:
        units = from_decimal(request.units)
        return _Estimate(units, units)
    given = assumed = 0
    for tokens, default, units in (
        (request.input_tokens, DEFAULT_INPUT_TOKENS, weight.uncached_input),
        (request.max_output_tokens, DEFAULT_OUTPUT_TOKENS, weight.output),
    ):
        if tokens is None:
            assumed += default * units
        else:
            given += tokens * units
    return _Estimate(given + assumed, given + min(assumed, 1))


class _Renderer:
    """Makes the first answer to an ask, as it travels."""

    def __init__(self, at: dt.datetime) -> None:
        self._at = at

    def __call__(self, ask: Ask, verdict: Verdict) -> dict[str, Any]:
        denied = verdict.decision == reservations.DENY
        expires_at = self._at + dt.timedelta(seconds=ask.ttl)
        answer: dict[str, Any] = {
            "id": ask.name,
            "decision": verdict.decision,
            "granted": to_wire(verdict.granted),
            "expires_at": None if denied else wire_time(expires_at),
            "available": to_wire(verdict.available),
        }
        if verdict.cause:
            answer["cause"] = verdict.cause
        if verdict.final:
            answer["final"] = True
        if verdict.decision == reservations.DEGRADE:
            answer["degrade_to"] = _degrade_to(ask)
        return answer


def _degrade_to(ask: Ask) -> dict[str, Any]:
    """What the plan names; where it names nothing the gateway chooses."""
    assert ask.period is not None
    assert ask.period.policy is not None
    policy = ask.period.policy
    return {
        "model": policy.degrade_model or None,
        "tokens_per_minute": policy.degrade_tokens_per_minute,
    }


def wire_time(instant: dt.datetime) -> str:
    """`2026-06-10T04:00:00Z`."""
    return instant.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


# --- without holding anything -------------------------------------------------------------------


class Permission(NamedTuple):
    """Whether a subject may use a model now, and what is left; where not, why and what to do."""

    decision: str
    cause: str
    available: int
    top_up_url: str
    degrade_to: dict[str, Any] | None = None

    @property
    def status(self) -> int:
        """Of a refusal: a limit that passes by itself is 429."""
        return 429 if self.cause == "rate_limited" else 403


def permit(caller: Caller, subject: str, model: str, *, wall: dt.datetime) -> Permission:
    """What an ask for the least there is would be answered now. Holds nothing, locks nothing.

    Without a model only the subject is looked at. Raises KeyRevoked.
    """
    terms, [account] = present(caller, [subject], wall=wall, with_sources=True)
    if account is None:
        return Permission(reservations.DENY, "unknown_subject", 0, terms.top_up_url)
    left = reservations.available(account.sources)
    refuse = functools.partial(
        Permission, reservations.DENY, available=left, top_up_url=terms.top_up_url
    )
    if account.blocked:
        return refuse(cause=account.blocked)
    least = 1
    if model:
        weight = weight_of(account, model, terms, cards_of(caller.operator_id, terms.card_stamp))
        if weight is None:
            return refuse(cause="unknown_model")
        least = min(1, sum(weight[1:]))
    ask = Ask("", "", 0, account.subscriber_id, account.period, least, least)
    verdict = reservations.decide(
        ask,
        account.sources,
        at=terms.at,
        promised=lambda: reservations.promised_to(pgarrays.cursor(), account.subscriber_id),
    )
    if verdict.decision == reservations.DENY:
        return refuse(cause=verdict.cause)
    degrade_to = _degrade_to(ask) if verdict.decision == reservations.DEGRADE else None
    return Permission(verdict.decision, verdict.cause, left, terms.top_up_url, degrade_to)
