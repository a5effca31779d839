"""How often a worker looks for garbage cycles: seldom."""

from __future__ import annotations

import gc


def look_seldom() -> None:
    """For a process that has loaded what it needs: what is there is never looked at again.

    A batch of usage, and a chunk of a close or of renewals, make tens of thousands of objects and
    no cycles: by default these are looked through several times, a tenth to a fifth of a worker's
    time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
