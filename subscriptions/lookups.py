"""Lists in the ORM's filters as PostgreSQL takes them: one array, one parameter."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from django.core.exceptions import EmptyResultSet
from django.db.models import CharField, ForeignKey, IntegerField, Lookup, TextField

if TYPE_CHECKING:
    _Lookup = Lookup[Any]
else:
    _Lookup = Lookup


class Among(_Lookup):
    """`id__among=ids`: any of these whole numbers, or texts.

    What `id__in` finds. That sends a parameter for each, which Django and psycopg look at one by
    one: for some hundreds they take longer than the server.
    """

    lookup_name = "among"
    cast = ""

    def get_prep_lookup(self) -> Collection[Any]:
        return self.rhs  # type: ignore[no-any-return]

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        if not self.rhs:
            raise EmptyResultSet  # then Django asks nothing
        column, params = self.process_lhs(compiler, connection)
        return f"{column} = ANY(%s{self.cast})", (*params, self.array())

    def array(self) -> Any:
        return list(self.rhs)


class AmongNumbers(Among):
    """The same of whole numbers, which need no care in an array's text."""

    cast = "::bigint[]"

    def array(self) -> str:
        return f"{{{','.join(map(str, self.rhs))}}}"


def register() -> None:
    """Let fields know these lookups."""
    for number in (IntegerField, ForeignKey):  # keys of all our tables are whole numbers
        number.register_lookup(AmongNumbers)
    for text in (CharField, TextField):
        text.register_lookup(Among)
