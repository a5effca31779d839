"""After the tokens are spent: usage that was reserved for is charged, and its hold is freed.

It is the charge that charges all usage, with a hook: in its transaction, right before the draw,
the reservation is settled and its units are free for that draw. Nothing is refused for having come
late or for having used more than was held.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import psycopg

from metering import rate_limits
from metering.context import Caller
from metering.ingest import Ingested, Weighed, ingest
from metering.parsing import Malformed, Rejected, Usage, parse_native
from metering.quarantine import Rejection
from metering.records import Line
from metering.terms import KeyRevoked
from subscriptions import accounts, buckets, reservations, reservations_few
from subscriptions.errors import Conflict, DomainError, NotFound
from subscriptions.models import Reservation
from subscriptions.reservations import Commit, Held, Settled
from subscriptions.units import to_wire

State = Reservation.State
_ATTEMPTS = 20


class Order(NamedTuple):
    """A commit as it was sent: the reservation's id, and its record (or why that is none)."""

    name: str
    record: Usage | Rejected


class WrongSubscriber(Conflict):
    cause = "wrong_subscriber"


def parse(name: str, body: bytes) -> Order:
    """The body of a commit: one native record. Raises Malformed, TooLarge."""
    parsed = parse_native(body)
    if not parsed.single:
        raise Malformed("a commit is one usage record, a JSON object")
    return Order(name, parsed.usages[0] if parsed.usages else parsed.rejected[0])


Answer = dict[str, Any] | DomainError


def commit(caller: Caller, orders: Sequence[Order], *, wall: dt.datetime) -> list[Answer]:
    """Charge what was used under reservations, each once; a commit sent again is answered again.

    One that says something else than the first, or was charged otherwise, is answered by a
    Conflict; an id that was never asked for by NotFound. A record that cannot be charged goes to
    the quarantine, and the reservation stays as it is. Raises KeyRevoked.
    """
    if caller.subject:
        for order in orders:
            if isinstance(order.record, Usage):
                order.record.subject = caller.subject
    answers: dict[int, Answer] = {}
    # Most are there and were never committed: the charge itself finds out whether all are.
    todo = list({order.name: nr for nr, order in reversed(list(enumerate(orders)))}.values())
    for _ in range(_ATTEMPTS):
        try:
            _charge(caller, orders, todo, answers, wall=wall)
        except Settled:
            pass
        except _Misplaced as misplaced:
            answers[misplaced.nr] = WrongSubscriber(
                "the record is of another subscriber than the reservation; send it as usage"
            )
        if len(answers) == len(orders):
            break
        todo = _answer_known(caller, orders, answers)
        if not todo:
            break
    if len(answers) < len(orders):
        raise psycopg.OperationalError("the commit was overtaken too often; send it again")
    return [answers[nr] for nr in range(len(orders))]


def release(caller: Caller, name: str, *, wall: dt.datetime) -> dict[str, Any]:
    """Free what is held for what was not used after all. Raises NotFound, KeyRevoked."""
    at = accounts.now(caller.operator_id, caller.key_id, wall=wall)
    if at is None:
        raise KeyRevoked
    state, freed, held = reservations.release(caller.gateway_id, name, at=at)
    if held is not None and held.rated_tokens:
        rate_limits.correct([_correction(held, 0)])
    return {"id": name, "state": State(state).name.lower(), "released": to_wire(freed)}


def _correction(held: Held, tokens: int) -> rate_limits.Correction:
    more = tokens - held.rated_tokens
    return rate_limits.Correction(held.subscriber_id, held.created_at, more)


def _answer_known(caller: Caller, orders: Sequence[Order], answers: dict[int, Answer]) -> list[int]:
    """Answer what is committed or unknown; of the others of each reservation the first is due."""
    waiting = [nr for nr in range(len(orders)) if nr not in answers]
    found = reservations.find(caller.gateway_id, sorted({orders[nr].name for nr in waiting}))
    todo: dict[str, int] = {}
    for nr in waiting:
        name, record = orders[nr]
        known = found.get(name)
        if known is None:
            answers[nr] = NotFound("this gateway has no such reservation; send the record as usage")
        elif known.answer is not None:
            same = isinstance(record, Usage) and _fingerprint(record) == known.commit_fingerprint
            answers[nr] = (
                known.answer if same else Conflict(f"{name!r} was committed with another record")
            )
        else:
            todo.setdefault(name, nr)
    return list(todo.values())


def _fingerprint(usage: Usage) -> str:
    """What makes two commits the same: the record's id and content, as for usage."""
    said = (usage.id, usage.source, usage.subject, usage.model, *usage.classes())
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


class _Misplaced(Exception):
    def __init__(self, nr: int) -> None:
        self.nr = nr


def _charge(
    caller: Caller,
    orders: Sequence[Order],
    todo: Sequence[int],
    answers: dict[int, Answer],
    *,
    wall: dt.datetime,
) -> None:
    """One charge for all that is to do; fills in the answers. Raises Settled, _Misplaced."""
    usages: list[Usage] = []
    indexes: list[int] = []
    refused: list[Rejected] = []
    for nr in todo:
        record = orders[nr].record
        if isinstance(record, Usage):
            usages.append(record)
            indexes.append(nr)
        else:
            refused.append(msgspec.structs.replace(record, index=nr))
    settlement = _Settlement(caller, orders, indexes)
    done = ingest(
        caller,
        usages,
        refused,
        at=wall,
        indexes=indexes,
        before_draw=settlement.settle,
        few=settlement,
    )
    answers |= settlement.answers
    rate_limits.correct(settlement.corrections)
    for rejection in done.rejected:
        answers[rejection.index] = _refusal(
            orders[rejection.index].name, settlement.states, rejection, done
        )


def _body(
    name: str, batch_id: int, units: int, duplicate: bool, late: bool, released: int
) -> dict[str, Any]:
    return {
        "id": name,
        "state": "committed",
        "late": late,
        "released": to_wire(released),
        "batch": str(batch_id),
        "accepted": 0 if duplicate else 1,
        "duplicates": 1 if duplicate else 0,
        "rejected": [],
        "units": to_wire(units),
    }


def _refusal(name: str, states: dict[str, int], rejection: Rejection, done: Ingested) -> Answer:
    if rejection.cause == "conflict":
        return Conflict(rejection.detail)
    return {
        **_body(name, done.batch_id, 0, True, late=False, released=0),
        "state": State(states[name]).name.lower(),
        "duplicates": 0,
        "rejected": [
            {
                "index": 0,
                "id": rejection.id,
                "cause": rejection.cause,
                "detail": rejection.detail,
                "quarantine_id": str(rejection.quarantine_id),
            }
        ],
    }


# Between these goes what a commit gives back, in its answer as it travels. Inside a name it could
# not be: there the quotation marks have backslashes.
_RELEASED = b'"released":"0.000"'


class _Settlement:
    """The hook of one charge; called again where it is attempted again.

    `answers` are those of what was charged, by place among the orders; `states` the reservations'
    before that; `corrections` what their rate limits counted wrong.
    """

    def __init__(self, caller: Caller, orders: Sequence[Order], indexes: Sequence[int]) -> None:
        self._caller = caller
        self._orders = orders
        self._indexes = indexes
        self._look_first = False
        self.answers: dict[int, Answer] = {}
        self.states: dict[str, int] = {}
        self._corrections: dict[int, rate_limits.Correction] = {}

    @property
    def corrections(self) -> list[rate_limits.Correction]:
        return list(self._corrections.values())

    def commits(
        self, lines: Sequence[Line], payers: Mapping[int, int], batch_id: int
    ) -> list[reservations_few.Commit]:
        """A commit for each line, all but whether its reservation is as most are."""
        commits = []
        for line in lines:
            subscriber_id, units, record = line[0], line[4], line[6]
            name = self._orders[self._indexes[line[5]]].name
            body = msgspec.json.encode(_body(name, batch_id, units, False, late=False, released=0))
            head, _, tail = body.partition(_RELEASED)
            commits.append(
                reservations_few.Commit(
                    subscriber_id,
                    payers[subscriber_id],
                    units,
                    name,
                    bytes.fromhex(_fingerprint(record)),
                    head + b'"released":"',
                    b'"' + tail,
                )
            )
        return commits

    def settled(self, lines: Sequence[Line], batch_id: int, freed: Sequence[int]) -> None:
        """What each line's commit is answered, now that it is one."""
        for line, held in zip(lines, freed, strict=True):
            nr, units = self._indexes[line[5]], line[4]
            released = max(0, held - units)
            self.answers[nr] = _body(
                self._orders[nr].name, batch_id, units, False, late=False, released=released
            )

    def settle(self, weighed: Weighed) -> None:
        """Free what is held for what is about to be drawn. Raises Settled, _Misplaced, Raced."""
        charged: dict[int, int] = {}
        owners: dict[int, int] = {}
        for demand in weighed.demands:
            for use in demand.uses:
                nr = self._indexes[use[5]]
                charged[nr], owners[nr] = use[4], demand.subscriber_id
        used = charged | dict.fromkeys(weighed.done.duplicates, 0)
        places = {*used, *(rejection.index for rejection in weighed.done.rejected)}
        for nr in places:  # of an attempt before this one
            self.answers.pop(nr, None)
            self._corrections.pop(nr, None)
        names = sorted({self._orders[nr].name for nr in places})
        held = reservations.lock_named(weighed.cursor, self._caller.gateway_id, names)
        self.states |= {name: one.state if one else State.DENIED for name, one in held.items()}
        for nr, subscriber_id in owners.items():
            one = held[self._orders[nr].name]
            if one is not None and one.subscriber_id != subscriber_id:
                raise _Misplaced(nr)
        commits: dict[int, Commit] = {}
        for nr, units in used.items():
            name, record = self._orders[nr]
            assert isinstance(record, Usage)
            render = functools.partial(_body, name, weighed.batch_id, units, nr not in charged)
            one = held[name]
            if one is None:
                self.answers[nr] = render(False, 0)
            else:
                commits[nr] = Commit(one[:3], _fingerprint(record), units, render)
                if one.rated_tokens and one.state == State.OPEN:
                    tokens = record.input_tokens + record.output_tokens
                    self._corrections[nr] = _correction(one, tokens)
        if not commits:
            return
        try:
            answers = reservations.commit(
                weighed.cursor,
                [one for one in held.values() if one is not None],
                list(commits.values()),
                weighed.demands,
                at=weighed.at,
                grace=weighed.grace,
                look_first=self._look_first,
            )
        except buckets.Raced:
            self._look_first = True
            raise
        self.answers |= zip(commits, answers, strict=True)
