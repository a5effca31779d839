"""Lists by cursor: `{"items": […], "next": url or null}`.

A cursor is the key of the last item shown, so that a page costs the same however far it is in,
and rows that come meanwhile shift nothing. It is not signed: it grants nothing that the key of
the operator does not.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from rest_framework.request import Request
from rest_framework.utils.urls import replace_query_param

from subscriptions.errors import DomainError

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
_MAX_BIGINT = 2**63 - 1

Row = TypeVar("Row", bound=Model)


class BadQuery(DomainError):
    """A query parameter that cannot be read."""

    status = 400
    cause = "bad_query"


class BadCursor(BadQuery):
    cause = "bad_cursor"


def limit_of(request: Request) -> int:
    """`?limit=`, 1 to 1000, 100 where it is not given. Raises BadQuery."""
    given = request.query_params.get("limit")
    if given is None:
        return DEFAULT_LIMIT
    if not (given.isascii() and given.isdigit() and len(given) < 9) or not (
        1 <= int(given) <= MAX_LIMIT
    ):
        raise BadQuery(f"limit is a number from 1 to {MAX_LIMIT}")
    return int(given)


def cursor_of(request: Request, *types: type) -> list[Any] | None:
    """The values `?cursor=` holds, of these types, or None where it is not given.

    Raises BadCursor for what we never gave out.
    """
    given = request.query_params.get("cursor")
    if given is None:
        return None
    try:
        values = json.loads(base64.urlsafe_b64decode(given.encode("ascii")))
    except (ValueError, RecursionError, binascii.Error) as error:
        raise BadCursor("this cursor is not one of ours; start without one") from error
    if (
        not isinstance(values, list)
        or [type(value) for value in values] != list(types)
        or not all(_storable(value) for value in values)
    ):
        raise BadCursor("this cursor is not one of this list; start without one")
    return values


def _storable(value: Any) -> bool:
    """Whether the database can compare with it."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
    return not isinstance(value, int) or abs(value) <= _MAX_BIGINT


def next_url(request: Request, values: Sequence[Any]) -> str:
    """This address again, from after the item with these key values on."""
    cursor = base64.urlsafe_b64encode(json.dumps(list(values)).encode()).decode()
    return str(replace_query_param(request.build_absolute_uri(), "cursor", cursor))


def page(
    request: Request,
    rows: QuerySet[Row],
    *,
    by: str,
    of_type: type,
    show: Callable[[Sequence[Row]], list[Any]],
) -> dict[str, Any]:
    """One page of `rows`, which come ordered by the unique field `by` of type `of_type`."""
    limit = limit_of(request)
    after = cursor_of(request, of_type)
    if after is not None:
        rows = rows.filter(**{f"{by}__gt": after[0]})
    found = list(rows[: limit + 1])
    shown = found[:limit]
    more = len(found) > limit
    return {
        "items": show(shown),
        "next": next_url(request, [getattr(shown[-1], by)]) if more else None,
    }
