"""Many new rows into a table at once, as COPY takes them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from django.db import connection, models
from psycopg import sql
from psycopg.types.json import Jsonb

from subscriptions import pgarrays


def store(rows: Sequence[Any], model: type[models.Model] | None = None) -> None:
    """Insert new rows of one model, in the caller's transaction, as `bulk_create` would, which
    spends more on each value than the server on storing it. The values are those that the table
    holds: no expressions, nothing that is set by being saved.

    `model` is theirs where they are no instances of it, but tuples that name the same columns: an
    instance takes longer to make than a row to store. Raises IntegrityError where a row may not be
    there; then none is.
    """
    assert connection.in_atomic_block
    if not rows:
        return
    kind: type[models.Model] = model or type(rows[0])
    statement, values = _copying(kind)
    with pgarrays.statements() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(values(row))


@functools.cache
def _copying(
    model: type[models.Model],
) -> tuple[sql.Composed, Callable[[Any], Sequence[Any]]]:
    """The statement for rows of a model, and what it takes of each."""
    fields = model._meta.concrete_fields
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(model._meta.db_table),
        sql.SQL(", ").join(sql.Identifier(str(field.column)) for field in fields),
    )
    plain = attrgetter(*(field.attname for field in fields))
    json = [nr for nr, field in enumerate(fields) if isinstance(field, models.JSONField)]

    def values(row: Any) -> Sequence[Any]:
        found: tuple[Any, ...] = plain(row)
        if not json:
            return found
        wrapped = list(found)
        for nr in json:
            wrapped[nr] = Jsonb(wrapped[nr])
        return wrapped

    return statement, values
