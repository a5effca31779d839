"""`POST /api/v1/reservations` and what follows one: translates, asks, answers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema

from metering import asking, committing, parsing, reporting
from metering.api import schema
from metering.api.doors import (
    JSON,
    GatewayDoor,
    Respond,
    body_of,
    caller_in,
    caller_of,
    sent,
    unpacked,
)
from metering.api.usage_records import answer as usage_answer
from metering.asking import Request
from metering.combining import Combiner
from metering.committing import Answer, Order
from metering.context import Caller
from subscriptions import clock, pgarrays, warm
from subscriptions.errors import DomainError, NotFound


def _do_together(caller: Caller, items: Sequence[Request | Order]) -> list[Answer]:
    orders = [item for item in items if isinstance(item, Order)]
    requests = [item for item in items if isinstance(item, Request)]
    with warm.connection():
        pgarrays.revive()
        if orders:
            return committing.commit(caller, orders, wall=clock.wall())
        return asking.reserve(caller, requests, wall=clock.wall())


# What comes at the same moment shares a transaction, as single records do.
_together: Combiner[Caller, Request | Order, Answer] = Combiner(_do_together, kind=type)


def _bytes(answer: Answer) -> bytes:
    if isinstance(answer, DomainError):
        raise answer
    return msgspec.json.encode(answer)


def _json(body: bytes, status: int) -> HttpResponse:
    return HttpResponse(body, status=status, content_type=JSON)


def respond_to_ask(meta: Mapping[str, Any], read: Callable[[], bytes]) -> bytes:
    """The body of the 201 to an ask. Raises what refuses it."""
    caller = caller_in(meta)
    return _bytes(_together.submit(caller, asking.parse(unpacked(meta, read))))


def respond_to_commit(name: str, meta: Mapping[str, Any], read: Callable[[], bytes]) -> bytes:
    """The body of the 200 to a commit. Raises what refuses it."""
    caller = caller_in(meta)
    return _bytes(_together.submit(caller, committing.parse(_named(name), unpacked(meta, read))))


_ADDRESS = "/api/v1/reservations"
_COMMIT = "/commit"


def past_django(path: str) -> tuple[Respond, HTTPStatus] | None:
    """What answers a POST to this address, and with which status; None: leave it to Django.

    For asks and commits, which come with every request that a gateway lets through.
    """
    if path == _ADDRESS:
        return respond_to_ask, HTTPStatus.CREATED
    if path.startswith(f"{_ADDRESS}/") and path.endswith(_COMMIT) and path.isascii():
        name = path[len(_ADDRESS) + 1 : -len(_COMMIT)]
        return functools.partial(respond_to_commit, name), HTTPStatus.OK
    return None


class ReservationsDoor(GatewayDoor):
    @extend_schema(**schema.RESERVE)
    def post(self, request: HttpRequest) -> HttpResponse:
        """Hold units for a request that is about to be made. Sent again: the first answer."""
        return _json(respond_to_ask(request.META, lambda: sent(request)), 201)


class ReportDoor(GatewayDoor):
    @extend_schema(**schema.REPORT)
    def post(self, request: HttpRequest, name: str) -> HttpResponse:
        """Charge what was used of a slice, and renew it where it runs low."""
        caller = caller_of(request)
        name = _named(name)
        parsed = parsing.parse_native(body_of(request))
        reported = reporting.report(caller, name, parsed, wall=clock.wall())
        said = reporting.answer(name, reported, usage_answer(reported.ingested))
        return _json(_bytes(said), 200)


class CommitDoor(GatewayDoor):
    @extend_schema(**schema.COMMIT)
    def post(self, request: HttpRequest, name: str) -> HttpResponse:
        """Charge what the request has used, and free the rest. Sent again: the first answer."""
        return _json(respond_to_commit(name, request.META, lambda: sent(request)), 200)


class ReleaseDoor(GatewayDoor):
    @extend_schema(**schema.RELEASE)
    def post(self, request: HttpRequest, name: str) -> HttpResponse:
        """Free what is held for a request that was not made. Sent again: the same answer."""
        caller = caller_of(request)
        return _json(_bytes(committing.release(caller, _named(name), wall=clock.wall())), 200)


def _named(name: str) -> str:
    """The id in an address. Raises NotFound for what no reservation can be called."""
    if "\0" in name or len(name) > asking.MAX_ID:
        raise NotFound("this gateway has no such reservation")
    return name
