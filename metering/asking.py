"""Asking before the tokens are spent: how much a request may take, and whether it may be made.

What it will take is estimated from the model and its token counts with the subscriber's rate card;
what there is, and what the plan allows beyond, subscriptions/reservations.py decides under locks.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import msgspec
import psycopg

from metering import few_asks, guarding, rate_limits, windows
from metering.context import Caller
from metering.guarding import Limits, Wish
from metering.parsing import Count, Name, parse_object
from metering.terms import KeyRevoked
from metering.weighing import Cards, Weight, cards_of
from subscriptions import accounts, buckets, lifecycle, periods, pgarrays, pools, reservations
from subscriptions.accounts import Account, Terms
from subscriptions.demands import Period, Source
from subscriptions.errors import Conflict, DomainError, Invalid
from subscriptions.reservations import Ask, Moved, NameTaken, Room, Rooms, StillHolds, Verdict
from subscriptions.units import MAX_UNITS, THOUSANDTHS, from_decimal, to_wire

# What a request is taken to use where the gateway does not say: about the middle of real traffic.
DEFAULT_INPUT_TOKENS = 1_024
DEFAULT_OUTPUT_TOKENS = 1_024
MAX_ID = 512
# How much a slice holds where the gateway does not say.
DEFAULT_SLICE = 100_000 * THOUSANDTHS
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
    slice: bool = False


_request = msgspec.json.Decoder(Request, strict=False)


def parse(body: bytes) -> Request:
    """Raises Malformed for what cannot be read, Invalid for what breaks a rule."""
    request = parse_object(body, _request)
    if any(ord(char) < 32 or ord(char) == 127 for char in request.id):
        raise Invalid("id cannot hold control characters: it has to fit into an address")
    if "\0" in request.subject or "\0" in request.model:
        raise Invalid("subject and model cannot hold a NUL character")
    if request.units is not None and not _thousandths(request.units) and request.slice:
        raise Invalid("a slice is more than nothing")
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
    first = {
        requests[nr].id: (prints[nr], answer)
        for nr, answer in _reserve_few(caller, requests, prints, wall).items()
    }
    others = [name for name in names if name not in first]
    if others:
        first |= reservations.first_answers(caller.gateway_id, others)
    rated: Rated = {}
    for _ in range(_ATTEMPTS):
        # Of two that come together under one id the first is asked.
        todo: dict[str, int] = {}
        for nr, request in enumerate(requests):
            if request.id not in first:
                todo.setdefault(request.id, nr)
        if not todo:
            break
        try:
            asked = [(requests[nr], prints[nr]) for nr in todo.values()]
            made = _reserve(caller, asked, rated, wall)
        except (NameTaken, Moved):
            first |= reservations.first_answers(caller.gateway_id, sorted(todo))
        else:
            first |= {requests[nr].id: (prints[nr], made[requests[nr].id]) for nr in todo.values()}
    if len(first) < len(names):
        raise psycopg.OperationalError("the ask was overtaken too often; send it again")
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


def _reserve_few(
    caller: Caller, requests: Sequence[Request], prints: Sequence[str], wall: dt.datetime
) -> dict[int, dict[str, Any]]:
    """The answers to those that go in one message, by place among the requests."""
    plain = [nr for nr, request in enumerate(requests) if not request.slice]
    wishes = [
        few_asks.Wish(
            requests[nr].id,
            requests[nr].subject,
            requests[nr].model,
            requests[nr].ttl_seconds,
            prints[nr],
            functools.partial(_units, requests[nr]),
            functools.partial(_granted, requests[nr]),
        )
        for nr in plain
    ]
    answers = few_asks.reserve(caller, wishes, wall=wall) if wishes else {}
    return {plain[place]: answer for place, answer in answers.items()}


def _units(request: Request, weight: Weight) -> int:
    return _estimate(request, weight).units


def _granted(request: Request, units: int, at: dt.datetime) -> dict[str, Any]:
    return {
        "id": request.id,
        "decision": reservations.ALLOW,
        "granted": to_wire(units),
        "expires_at": wire_time(at + dt.timedelta(seconds=request.ttl_seconds)),
    }


def _reserve(
    caller: Caller, requests: Sequence[tuple[Request, str]], rated: Rated, wall: dt.datetime
) -> dict[str, dict[str, Any]]:
    subjects = [request.subject for request, _ in requests]
    terms, found = present(caller, subjects, wall=wall)
    cards = cards_of(caller.operator_id, terms.card_stamp)
    limits = guarding.limits_of(
        terms,
        [
            Wish(request.subject, request.model, account)
            for (request, _), account in zip(requests, found, strict=True)
        ],
    )
    asks = [
        _ask(request, fingerprint, account, limit, terms, cards)
        for (request, fingerprint), account, limit in zip(requests, found, limits, strict=True)
    ]
    return reservations.reserve(
        _within_rates(asks, [_tokens(request) for request, _ in requests], rated, terms.at),
        operator_id=caller.operator_id,
        gateway_id=caller.gateway_id,
        at=terms.at,
        rooms=rooms_of(caller, terms),
        still_holds=still_holds(caller, subjects, found, wall=wall),
        render=_Renderer(terms.at),
    )


# What the rate limits said to an ask, by its name, subscriber and plan: it is counted once.
Rated = dict[tuple[str, int, int], rate_limits.Refusal | None]


def _within_rates(
    asks: Sequence[Ask], tokens: Sequence[int], rated: Rated, at: dt.datetime
) -> list[Ask]:
    """The asks, counted by their plans' rate limits, refused where one is reached."""
    limited = [
        (nr, rate_limits.Ask(ask.subscriber_id, ask.period.policy, tokens[nr]))
        for nr, ask in enumerate(asks)
        if not ask.refused
        and ask.subscriber_id is not None
        and ask.period is not None
        and ask.period.policy is not None
        and rate_limits.applies(ask.period.policy)
    ]
    keys = [(asks[nr].name, one.subscriber_id, one.policy.plan_id) for nr, one in limited]
    new = {key: one for key, (_, one) in zip(keys, limited, strict=True) if key not in rated}
    rated.update(zip(new, rate_limits.take(list(new.values()), at=at), strict=True))
    counted = list(asks)
    for key, (nr, one) in zip(keys, limited, strict=True):
        refusal = rated[key]
        if refusal is not None:
            room = _rate_room(refusal, at)
            counted[nr] = replace(asks[nr], refused="rate_limited", limit=room)
        elif one.policy.tokens_per_minute is not None:
            counted[nr] = replace(asks[nr], rated_tokens=one.tokens)
    return counted


def _rate_room(refusal: rate_limits.Refusal, at: dt.datetime) -> Room:
    return Room(0, "minute", refusal.what, at + dt.timedelta(seconds=refusal.seconds))


def _tokens(request: Request) -> int:
    """What a request is taken to use, in tokens of any class; of a slice nobody knows."""
    if request.slice:
        return 0
    given, most = request.input_tokens, request.max_output_tokens
    return (DEFAULT_INPUT_TOKENS if given is None else given) + (
        DEFAULT_OUTPUT_TOKENS if most is None else most
    )


def no_period(terms: Terms) -> Period:
    """The calendar month of now, under no plan."""
    month = periods.month_start(terms.at, terms.zone)
    return Period(month, periods.end_of("calendar_month", month, 1, terms.zone))


def rooms_of(caller: Caller, terms: Terms) -> Rooms:
    def rooms(ask: Ask) -> list[Room]:
        assert ask.subscriber_id is not None
        assert ask.period is not None
        return windows.rooms_of(
            caller.operator_id,
            ask.subscriber_id,
            ask.period,
            ask.caps,
            at=terms.at,
            zone=terms.zone,
        )

    return rooms


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
    members = [account.subscriber_id for account in found.accounts if account and account.pooled]
    if members:
        at = found.terms.at
        behind = pools.read(pgarrays.cursor(), members, since=at, at=at).behind
        if behind:
            lifecycle.ensure_open(sorted(behind), at=at, until=at)
    return found.terms, found.accounts


def still_holds(
    caller: Caller, subjects: Sequence[str], found: Sequence[Account | None], *, wall: dt.datetime
) -> StillHolds:
    """Whether these subjects are still who they were found to be.

    What guards some besides may have changed, and is looked at anew.
    """
    if any(account is not None and account.guard is not None for account in found):
        return lambda: False
    ours = caller.operator_id, caller.key_id
    return functools.partial(accounts.still_holds, *ours, subjects, found, wall=wall)


def _ask(
    request: Request,
    fingerprint: str,
    account: Account | None,
    limits: Limits,
    terms: Terms,
    cards: Cards,
) -> Ask:
    if account is None:
        return Ask(request.id, fingerprint, request.ttl_seconds, refused="unknown_subject")
    weight = weight_of(account, request.model, terms, cards)
    estimate = _estimate(request, weight) if weight is not None else _Estimate(0, 0)
    policy = account.period.policy
    cheaper = None
    whole = request.units is not None or request.slice
    if policy is not None and policy.degrade_model and not whole:
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
        estimate.units if request.slice else None,
        request.subject if request.slice or account.guard is not None else "",
        refused=account.blocked
        or limits.refused
        or ("" if weight is not None else "unknown_model"),
        limit=None if account.blocked else limits.limit,
        generations=account.generations,
        caps=limits.caps,
        pooled=account.pooled,
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
    then it is enough that something is left beyond what was given. Of a slice anything will do.
    """
    if request.slice:
        return _Estimate(DEFAULT_SLICE if request.units is None else from_decimal(request.units), 1)
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
        if ask.slice_units is not None and verdict.decision == reservations.ALLOW:
            answer["threshold"] = wire_threshold(ask.slice_units, final=verdict.final)
        if verdict.limit is not None:
            answer["limit"] = wire_limit(verdict.limit)
        if verdict.decision == reservations.DEGRADE:
            answer["degrade_to"] = degrade_to(ask.period)
        return answer


def wire_threshold(slice_units: int, *, final: bool) -> str:
    """How much of a slice may be left when it is time to report; the last is used up."""
    return to_wire(0 if final else reservations.threshold_of(slice_units))


def wire_limit(room: Room) -> dict[str, Any]:
    """The limit that refused, as it travels."""
    return {
        "per": room.per,
        "kind": room.kind,
        "left": to_wire(max(0, room.left)),
        "resets_at": None if room.resets_at is None else wire_time(room.resets_at),
    }


def degrade_to(period: Period | None) -> dict[str, Any]:
    """What the period's plan names; where it names nothing the gateway chooses."""
    assert period is not None
    assert period.policy is not None
    policy = period.policy
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
    limit: Room | None = None
    retry_after: int | None = None  # seconds

    @property
    def status(self) -> int:
        """Of a refusal: a limit that passes by itself is 429."""
        return 429 if self.limit is not None else 403


def permit(caller: Caller, subject: str, model: str, *, wall: dt.datetime) -> Permission:
    """What an ask for the least there is would be answered now. Holds nothing, locks nothing.

    Without a model only the subject is looked at. Raises KeyRevoked.
    """
    terms, [account] = present(caller, [subject], wall=wall, with_sources=True)
    if account is None:
        return Permission(reservations.DENY, "unknown_subject", 0, terms.top_up_url)
    if account.pooled:
        account.sources.extend(_pool_of(account, terms))
    left = reservations.available(account.sources)
    refuse = functools.partial(
        Permission, reservations.DENY, available=left, top_up_url=terms.top_up_url
    )
    if account.blocked:
        return refuse(cause=account.blocked)
    [limits] = guarding.limits_of(terms, [Wish(subject, model, account)])
    if limits.refused:
        return refuse(
            cause=limits.refused, limit=limits.limit, retry_after=_until(limits.limit, terms.at)
        )
    least = 1
    if model:
        weight = weight_of(account, model, terms, cards_of(caller.operator_id, terms.card_stamp))
        if weight is None:
            return refuse(cause="unknown_model")
        least = min(1, sum(weight[1:]))
    policy = account.period.policy
    if policy is not None and rate_limits.applies(policy):
        rated = rate_limits.Ask(account.subscriber_id, policy, 0)
        [refusal] = rate_limits.take([rated], at=terms.at)
        if refusal is not None:
            room = _rate_room(refusal, terms.at)
            return refuse(cause="rate_limited", limit=room, retry_after=refusal.seconds)
    ask = Ask("", "", 0, account.subscriber_id, account.period, least, least, caps=limits.caps)
    verdict = reservations.decide(
        ask,
        account.sources,
        at=terms.at,
        promised=lambda: reservations.promised_to(pgarrays.cursor(), account.subscriber_id),
        room=reservations.tightest(rooms_of(caller, terms)(ask)),
    )
    if verdict.decision == reservations.DENY:
        limit = verdict.limit
        return refuse(cause=verdict.cause, limit=limit, retry_after=_until(limit, terms.at))
    instead = degrade_to(ask.period) if verdict.decision == reservations.DEGRADE else None
    return Permission(verdict.decision, verdict.cause, left, terms.top_up_url, instead)


def _until(limit: Room | None, at: dt.datetime) -> int | None:
    """In how many seconds a limit begins anew, rounded up; None where it does not at once."""
    if limit is None or limit.resets_at is None:
        return None
    return -((at - limit.resets_at) // dt.timedelta(seconds=1))


def _pool_of(account: Account, terms: Terms) -> list[Source]:
    """What a member of a family could draw of its pool now."""
    cursor = pgarrays.cursor()
    family = pools.read(cursor, [account.subscriber_id], since=terms.at, at=terms.at)
    owned = buckets.look(cursor, family.owners, at=terms.at)
    return reservations.pool_now(family, account.subscriber_id, owned, at=terms.at)[1]
