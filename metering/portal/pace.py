"""When the units run out at the present pace."""

from __future__ import annotations

import datetime as dt

WINDOW = dt.timedelta(days=7)
# Below this an average says nothing.
_LEAST = dt.timedelta(hours=1)


def runs_out_at(
    available: int, used: int, *, since: dt.datetime, now: dt.datetime
) -> dt.datetime | None:
    """The instant at which `available` is used up, if what was `used` since goes on alike.

    None where nothing was used, where `since` is too near to tell, or where it is beyond a year.
    Units in thousandths.
    """
    elapsed = now - since
    if used <= 0 or elapsed < _LEAST:
        return None
    if available <= 0:
        return now
    seconds = available * elapsed.total_seconds() / used
    return None if seconds > 366 * 86400 else now + dt.timedelta(seconds=seconds)
