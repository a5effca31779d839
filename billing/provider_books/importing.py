"""Files of providers, imported whole or not at all: the only writer of ProviderFile, and of the
lines that come with one.

The same file again is the one that is there; a line that another file brought already is counted
and left as it is. What contradicts what is there is refused, with its place.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import IO, Any

from django.db import connection, transaction
from psycopg.types.json import Jsonb

from billing.models import ProviderFile
from billing.provider_books import matching, reading
from billing.provider_books.layouts import LAYOUTS
from billing.provider_books.reading import BadFile
from subscriptions import advisory
from subscriptions.advisory import Lock
from subscriptions.errors import Conflict, Invalid
from subscriptions.models import Operator

_ACCOUNT = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_LONGEST = 400  # days between the first and the last line


class FileKnown(Conflict):
    cause = "file_known"


@dataclass(frozen=True, slots=True)
class Loaded:
    file: ProviderFile
    new: bool


def load(
    operator: Operator,
    file: IO[bytes],
    *,
    layout: str,
    account: str = "",
    name: str,
    by: str,
    at: dt.datetime,
) -> Loaded:
    """Import a file that can be read from its beginning again, and compare its days.

    `account` is the word of the ledger's `cash:…` that the provider's money stands on; none: the
    layout's name. Raises Invalid, BadFile, FileKnown for the same content in another place.
    """
    if layout not in LAYOUTS:
        raise Invalid(f"layout is one of {', '.join(sorted(LAYOUTS))}")
    account = account or layout
    if not _ACCOUNT.fullmatch(account) or account == "bank":
        raise Invalid("account is the provider's word in the ledger's accounts, as in cash:stripe")
    digest, size = _digest(file)
    facts = {
        "layout": layout,
        "account": account,
        "name": name[:200],
        "digest": digest,
        "bytes": size,
        "imported_by": by,
        "imported_at": at,
    }

    def lines() -> Iterator[reading.Line]:
        file.seek(0)
        return reading.lines_of(file, LAYOUTS[layout], operator)

    return _take(operator, lines, facts)


def take_day(
    operator: Operator,
    lines: Sequence[reading.Line],
    *,
    day: dt.date,
    account: str,
    name: str,
    by: str,
    at: dt.datetime,
) -> Loaded:
    """Keep what a provider has told of one of the operator's days, when asked, as a file of that
    day; also that nothing moved. The same again changes nothing. Raises BadFile."""
    said = [[account, name, day.isoformat()], *([*map(str, astuple(line)[1:])] for line in lines)]
    content = json.dumps(said, ensure_ascii=False).encode()
    facts = {
        "layout": account,
        "account": account,
        "name": name[:200],
        "digest": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "imported_by": by,
        "imported_at": at,
    }
    return _take(operator, lambda: iter(lines), facts, day=day)


def _take(
    operator: Operator,
    lines: Callable[[], Iterator[reading.Line]],
    facts: dict[str, Any],
    *,
    day: dt.date | None = None,
) -> Loaded:
    with transaction.atomic():
        advisory.take(Lock.PROVIDER_BOOKS, operator.pk)
        known = ProviderFile.objects.filter(operator=operator, digest=facts["digest"]).first()
        if known is not None:
            if (known.layout, known.account) != (facts["layout"], facts["account"]):
                raise FileKnown(f"this file was imported as {known.layout}, of {known.account}")
            return Loaded(known, False)
        _take_in(lines())
        made = _keep(operator, facts, day)
        matching.run(operator, facts["account"], at=facts["imported_at"])
        return Loaded(made, True)


def _digest(file: IO[bytes]) -> tuple[str, int]:
    sha, size = hashlib.sha256(), 0
    file.seek(0)
    while chunk := file.read(1 << 20):
        sha.update(chunk)
        size += len(chunk)
    return sha.hexdigest(), size


_INCOMING_SQL = """
CREATE TEMPORARY TABLE incoming (
    nr bigint, line_id text, at timestamptz, kind text, gross numeric, fee numeric, key text,
    reference text, payout text, raw jsonb
) ON COMMIT DROP
"""
_TAKE_IN_SQL = """
COPY incoming (nr, line_id, at, kind, gross, fee, key, reference, payout, raw) FROM STDIN
"""


def _take_in(lines: Iterator[reading.Line]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS incoming")
        cursor.execute(_INCOMING_SQL)
        with cursor.copy(_TAKE_IN_SQL) as copy:
            for one in lines:
                copy.write_row(
                    (
                        *(one.nr, one.id, one.at, one.kind, one.gross, one.fee, one.key),
                        *(one.reference, one.payout, Jsonb(one.raw)),
                    )
                )
        cursor.execute("ANALYZE incoming")


# An id that is there twice says the same twice, within a file and against what is there.
_AGAIN_SQL = """
SELECT max(nr), line_id FROM incoming
GROUP BY line_id HAVING count(DISTINCT (at, kind, gross, fee, key, reference)) > 1
ORDER BY 1 LIMIT 1
"""
_OTHER_SQL = """
SELECT i.nr, i.line_id, f.name FROM incoming i
JOIN billing_providerline l
  ON l.operator_id = %(operator)s AND l.account = %(account)s AND l.line_id = i.line_id
JOIN billing_providerfile f ON f.id = l.file_id
WHERE (l.at, l.gross, l.fee) IS DISTINCT FROM (i.at, i.gross, i.fee)
ORDER BY i.nr LIMIT 1
"""
_SPAN_SQL = """
SELECT count(*), min((at AT TIME ZONE %(zone)s)::date), max((at AT TIME ZONE %(zone)s)::date)
FROM incoming
"""
_KEEP_SQL = """
INSERT INTO billing_providerline
    (operator_id, account, line_id, file_id, nr, at, day, kind, currency, gross, fee, key,
     reference, payout, raw, state, ours)
SELECT DISTINCT ON (line_id) %(operator)s, %(account)s, line_id, %(file)s, nr, at,
       (at AT TIME ZONE %(zone)s)::date, kind, %(currency)s, gross, fee, key, reference, payout,
       raw, 'new', ''
FROM incoming ORDER BY line_id, nr
ON CONFLICT (operator_id, account, line_id) DO NOTHING
"""


def _keep(operator: Operator, facts: dict[str, Any], day: dt.date | None) -> ProviderFile:
    """The lines that were taken in, as a file; of a day that was asked for, which may be none."""
    names: dict[str, Any] = {
        "operator": operator.pk,
        "account": facts["account"],
        "zone": operator.time_zone,
        "currency": operator.currency,
    }
    with connection.cursor() as cursor:
        cursor.execute(_AGAIN_SQL)
        if again := cursor.fetchone():
            raise BadFile(f"line {again[0]}: {again[1]} is there twice, with other content")
        cursor.execute(_OTHER_SQL, names)
        if other := cursor.fetchone():
            raise BadFile(f"line {other[0]}: {other[1]} has other content than in {other[2]}")
        cursor.execute(_SPAN_SQL, names)
        [(rows, first, last)] = cursor.fetchall()
        if day is not None:
            if rows and (first, last) != (day, day):
                raise BadFile(f"asked for {day}, the provider tells of {first} to {last}")
            first = last = day
        if not rows and day is None:
            raise BadFile("there is no line in this file")
        if (last - first).days > _LONGEST:
            raise BadFile(f"from {first} to {last} is too long for one file: is a date wrong?")
        cursor.execute(
            "SELECT count(DISTINCT i.line_id) FROM incoming i LEFT JOIN billing_providerline l"
            " ON l.operator_id = %(operator)s AND l.account = %(account)s"
            " AND l.line_id = i.line_id WHERE l.line_id IS NULL",
            names,
        )
        [(new,)] = cursor.fetchall()
        file = ProviderFile.objects.create(
            operator=operator, rows=rows, lines=new, first_day=first, last_day=last, **facts
        )
        cursor.execute(_KEEP_SQL, names | {"file": file.pk})
    return file
