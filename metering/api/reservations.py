"""`POST /api/v1/reservations` and what follows one: translates, asks, answers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema

from metering import asking, committing, parsing, reporting
from metering.api import schema
from metering.api.doors import GatewayDoor
from metering.api.usage_records import answer as usage_answer
from metering.api.usage_records import body_of, caller_of
from metering.asking import Request
from metering.combining import Combiner
from metering.committing import Answer, Order
from metering.context import Caller
from subscriptions import clock
from subscriptions.errors import DomainError, NotFound


def _ask_together(caller: Caller, requests: Sequence[Request]) -> list[Answer]:
    return asking.reserve(caller, requests, wall=clock.wall())


def _commit_together(caller: Caller, orders: Sequence[Order]) -> list[Answer]:
    return committing.commit(caller, orders, wall=clock.wall())


# What comes at the same moment shares a transaction, as single records do.
_asks: Combiner[Caller, Request, Answer] = Combiner(_ask_together)
_commits: Combiner[Caller, Order, Answer] = Combiner(_commit_together)


def _json(answer: Answer, status: int) -> HttpResponse:
    if isinstance(answer, DomainError):
        raise answer
    return HttpResponse(msgspec.json.encode(answer), status=status, content_type="application/json")


class ReservationsDoor(GatewayDoor):
    @extend_schema(**schema.RESERVE)
    def post(self, request: HttpRequest) -> HttpResponse:
        """Hold units for a request that is about to be made. Sent again: the first answer."""
        caller = caller_of(request)
        return _json(_asks.submit(caller, asking.parse(body_of(request))), 201)


class ReportDoor(GatewayDoor):
    @extend_schema(**schema.REPORT)
    def post(self, request: HttpRequest, name: str) -> HttpResponse:
        """Charge what was used of a slice, and renew it where it runs low."""
        caller = caller_of(request)
        name = _named(name)
        parsed = parsing.parse_native(body_of(request))
        reported = reporting.report(caller, name, parsed, wall=clock.wall())
        said = reporting.answer(name, reported, usage_answer(reported.ingested))
        return _json(said, 200)


class CommitDoor(GatewayDoor):
    @extend_schema(**schema.COMMIT)
    def post(self, request: HttpRequest, name: str) -> HttpResponse:
        """Charge what the request has used, and free the rest. Sent again: the first answer."""
        caller = caller_of(request)
        return _json(_commits.submit(caller, committing.parse(_named(name), body_of(request))), 200)


class ReleaseDoor(GatewayDoor):
    @extend_schema(**schema.RELEASE)
    def post(self, request: HttpRequest, name: str) -> HttpResponse:
        """Free what is held for a request that was not made. Sent again: the same answer."""
        caller = caller_of(request)
        return _json(committing.release(caller, _named(name), wall=clock.wall()), 200)


def _named(name: str) -> str:
    """The id in an address. Raises NotFound for what no reservation can be called."""
    if "\0" in name or len(name) > asking.MAX_ID:
        raise NotFound("this gateway has no such reservation")
    return name
