"""What is known here of a span of a gateway's time, against what the gateway counted itself.

Only reads. One statement, hence one snapshot: sums, gaps and duplicates never contradict each other
because something came in between.

Records have no index by gateway and time: it would cost the charge more than all of this. They are
found through their batches, which tell their times: runs of batch numbers, each a look into the
day partitions' BRIN on the batch, so that an hour of a day of millions reads that hour's pages.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db import connection

# Inclusive totals, under the names that the wire has for them.
CLASSES = (
    "requests",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
# Numbers that a window lacks are looked for so long before and after it.
SLACK = dt.timedelta(hours=1)
# Processes take 64 batch numbers at a time: what lies so far apart is another run.
_RUN = 10_000
MAX_RANGES = 1000


class Numbers(NamedTuple):
    """A run of the numbers that a gateway gave its records, both ends included."""

    source: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Span:
    """What is asked about: `[since, until)` of one source's records, or (None) of all."""

    gateway_id: int
    source: str | None
    since: dt.datetime
    until: dt.datetime
    counted: dict[str, int | None]  # by CLASSES; None was not told
    sequences: Sequence[Numbers] = ()


@dataclass(slots=True)
class Findings:
    """`difference` is what the gateway counted less what was charged, None where it told nothing.

    `waiting` are records in the quarantine by cause, `settled` those that left it by how. `missing`
    are numbers that never came (at most MAX_RANGES runs, `more` says that there are further ones),
    `missing_numbers` how many there are in all. `unnamed` requests lack without a number to name
    them. `outside` are numbers of this window that came with
    a time beside it, and not in it.
    """

    charged: dict[str, int]
    difference: dict[str, int | None]
    duplicates: int = 0
    waiting: dict[str, int] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)
    outside: int = 0
    missing: list[Numbers] = field(default_factory=list)
    missing_numbers: int = 0
    more: bool = False
    unnamed: int = 0

    @property
    def agrees(self) -> bool:
        """Whether nothing is left to find."""
        return not self.missing_numbers and not any(self.difference.values())


# A record of the gateway in a span lies in a batch of the gateway that reaches into it.
_RUNS = """
runs AS MATERIALIZED (
    SELECT min(id) AS low, max(id) AS high
    FROM (
        SELECT id, count(*) FILTER (WHERE apart) OVER (ORDER BY id) AS run
        FROM (
            SELECT id, id - lag(id) OVER (ORDER BY id) > %(run)s AS apart
            FROM metering_usagebatch
            WHERE gateway_id = %(gateway)s AND occurred_from < %(wide_until)s
              AND occurred_to >= %(wide_since)s
        ) b
    ) b
    GROUP BY run
)
"""
_TOTALS = """
totals AS (
    SELECT count(*) AS requests,
           coalesce(sum(r.uncached_input_tokens + r.cached_input_tokens + r.cache_write_tokens), 0)
               AS input_tokens,
           coalesce(sum(r.cached_input_tokens), 0) AS cached_input_tokens,
           coalesce(sum(r.cache_write_tokens), 0) AS cache_write_tokens,
           coalesce(sum(r.output_tokens + r.reasoning_tokens), 0) AS output_tokens,
           coalesce(sum(r.reasoning_tokens), 0) AS reasoning_tokens
    FROM runs CROSS JOIN LATERAL (
        SELECT r.uncached_input_tokens, r.cached_input_tokens, r.cache_write_tokens,
               r.output_tokens, r.reasoning_tokens
        FROM metering_usagerecord r
        WHERE r.batch_id BETWEEN runs.low AND runs.high AND r.gateway_id = %(gateway)s
          AND r.occurred_at >= %(since)s AND r.occurred_at < %(until)s
          AND (%(every)s OR r.source = %(source)s)
        OFFSET 0  -- else the planner joins runs to all that the day holds
    ) r
)
"""
# What waits in the quarantine has come. A number that was told has to be in its window: a gateway
# may count from 1 in each. Of numbers that were not told only those between the first and the last
# that came can be missing, and not if they came for the window before or after.
_GAPS = """
numbered AS MATERIALIZED (
    SELECT r.source, r.inside,
           CASE WHEN r.said ~ '^[0-9]{1,18}$' THEN r.said::bigint END AS n
    FROM runs CROSS JOIN LATERAL (
        SELECT r.source, r.attributes ->> 'sequence' AS said,
               r.occurred_at >= %(since)s AND r.occurred_at < %(until)s AS inside
        FROM metering_usagerecord r
        WHERE r.batch_id BETWEEN runs.low AND runs.high AND r.gateway_id = %(gateway)s
          AND r.occurred_at >= %(wide_since)s AND r.occurred_at < %(wide_until)s
          AND r.attributes IS NOT NULL AND (%(every)s OR r.source = %(source)s)
        OFFSET 0
    ) r
    WHERE r.said IS NOT NULL
),
spans AS MATERIALIZED (
    SELECT s.source, s.first, s.last
    FROM unnest(%(sources)s::text[], %(firsts)s::bigint[], %(lasts)s::bigint[])
         AS s (source, first, last)
    UNION ALL
    SELECT source, min(n), max(n) FROM numbered
    WHERE inside AND n IS NOT NULL AND NOT %(told)s
    GROUP BY source
),
came AS (
    SELECT s.source, s.first, k.n, k.inside
    FROM spans s
    JOIN (
        SELECT source, n, inside FROM numbered
        UNION ALL
        SELECT q.source, q.sequence,
               coalesce(q.occurred_at, q.received_at) >= %(since)s
               AND coalesce(q.occurred_at, q.received_at) < %(until)s
        FROM metering_quarantinedrecord q
        WHERE q.gateway_id = %(gateway)s AND q.sequence IS NOT NULL
          AND coalesce(q.occurred_at, q.received_at) >= %(wide_since)s
          AND coalesce(q.occurred_at, q.received_at) < %(wide_until)s
    ) k ON k.source = s.source AND k.n BETWEEN s.first AND s.last
),
gaps AS MATERIALIZED (
    SELECT source, n + 1 AS first, after - 1 AS last
    FROM (
        SELECT source, n, lead(n) OVER (PARTITION BY source, first ORDER BY n) AS after
        FROM (
            SELECT source, first, n FROM came WHERE inside OR NOT %(told)s
            UNION ALL
            SELECT source, first, first - 1 FROM spans
            UNION ALL
            SELECT source, first, last + 1 FROM spans
        ) marks
    ) steps
    WHERE after > n + 1
)
"""
_QUARANTINE = """
    SELECT coalesce(jsonb_object_agg(word, many) FILTER (WHERE waits), '{}'),
           coalesce(jsonb_object_agg(word, many) FILTER (WHERE NOT waits), '{}'),
           -- A conflict's id is charged: it is told twice, and lacks nowhere.
           coalesce(sum(ids) FILTER (WHERE waits AND word <> 'conflict'), 0)
    FROM (
        SELECT resolution = '' AS waits,
               CASE WHEN resolution = '' THEN cause ELSE resolution END AS word,
               count(*) AS many, count(DISTINCT (source, record_id)) AS ids
        FROM metering_quarantinedrecord q
        WHERE q.gateway_id = %(gateway)s
          AND coalesce(q.occurred_at, q.received_at) >= %(since)s
          AND coalesce(q.occurred_at, q.received_at) < %(until)s
          AND (%(every)s OR q.source = %(source)s)
        GROUP BY 1, 2
    ) w
"""
_DUPLICATES = """
    SELECT count(*)
    FROM metering_duplicatebatch d CROSS JOIN LATERAL unnest(d.times) AS told (at)
    WHERE d.gateway_id = %(gateway)s AND d.occurred_from < %(until)s AND d.occurred_to >= %(since)s
      AND told.at >= %(since)s AND told.at < %(until)s AND (%(every)s OR d.source = %(source)s)
"""
# Numbers are looked at where they were told, or where requests lack.
_FIND_SQL = f"""
WITH {_RUNS}, {_TOTALS}, {_GAPS}
SELECT to_jsonb(totals), duplicates.many, quarantine.waiting, quarantine.settled, quarantine.held,
       CASE WHEN %(told)s OR totals.requests < %(requests)s THEN (
           SELECT jsonb_build_object(
               'outside', (
                   SELECT count(*) FROM (
                       SELECT source, n FROM came WHERE NOT inside
                       EXCEPT
                       SELECT source, n FROM came WHERE inside) o),
               'many', coalesce(sum(last - first + 1), 0),
               'ranges', (
                   SELECT coalesce(jsonb_agg(jsonb_build_array(source, first, last)), '[]')
                   FROM (SELECT * FROM gaps ORDER BY source, first LIMIT %(most)s) g),
               'more', count(*) > %(most)s)
           FROM gaps) END
FROM totals, ({_DUPLICATES}) AS duplicates (many),
     ({_QUARANTINE}) AS quarantine (waiting, settled, held)
"""  # noqa: S608 - of constants


def find(span: Span) -> Findings:
    """Compare a span as it is now."""
    parameters: dict[str, Any] = {
        "gateway": span.gateway_id,
        "every": span.source is None,
        "source": span.source or "",
        "since": span.since,
        "until": span.until,
        "wide_since": span.since - SLACK,
        "wide_until": span.until + SLACK,
        "run": _RUN,
        "most": MAX_RANGES,
        "requests": span.counted["requests"],
        "told": bool(span.sequences),
        "sources": [numbers.source for numbers in span.sequences],
        "firsts": [numbers.first for numbers in span.sequences],
        "lasts": [numbers.last for numbers in span.sequences],
    }
    with connection.cursor() as cursor:
        cursor.execute(_FIND_SQL, parameters)
        totals, duplicates, waiting, settled, held, numbers = (
            json.loads(value) if isinstance(value, str) else value for value in cursor.fetchone()
        )
    difference: dict[str, int | None] = {
        name: None if (said := span.counted[name]) is None else said - totals[name]
        for name in CLASSES
    }
    found = Findings(
        charged={name: totals[name] for name in CLASSES},
        difference=difference,
        duplicates=duplicates,
        waiting=waiting,
        settled=settled,
    )
    if numbers is not None:
        found.outside = numbers["outside"]
        found.missing = [Numbers(*one) for one in numbers["ranges"]]
        found.missing_numbers = numbers["many"]
        found.more = numbers["more"]
    lacking = max(0, difference["requests"] or 0)
    found.unnamed = max(0, lacking - int(held) - found.missing_numbers)
    return found


def as_json(found: Findings) -> dict[str, Any]:
    """The findings as they are stored and shown."""
    return {
        "charged": found.charged,
        "difference": found.difference,
        "duplicates": found.duplicates,
        "rejected": sum(found.waiting.values()) + sum(found.settled.values()),
        "quarantined": found.waiting,
        "settled": found.settled,
        "outside": found.outside,
        "missing": {
            "requests": found.missing_numbers + found.unnamed,
            "unnamed": found.unnamed,
            "ranges": [numbers._asdict() for numbers in found.missing],
            "more": found.more,
        },
    }
