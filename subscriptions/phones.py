"""Phone numbers as people and CRMs write them: with and without plus, country and blanks."""

from __future__ import annotations

import re

# A Chinese mobile number at home. Some numbers of other countries have these digits behind a plus:
# theirs are never taken for it.
_MOBILE = re.compile(r"1[3-9][0-9]{9}")
_DIGITS = re.compile(r"[0-9]{5,20}")


def forms(number: str) -> set[str]:
    """All ways to write the same number; none for what is no number."""
    bare = re.sub(r"[\s()-]", "", number)
    if bare.startswith("00"):
        bare = f"+{bare[2:]}"
    digits = bare.removeprefix("+")
    if not _DIGITS.fullmatch(digits):
        return set()
    home = digits.removeprefix("86") if bare.startswith("+86") or len(digits) == 13 else digits
    if bare.startswith("+") and home == digits:
        return {bare} if _MOBILE.fullmatch(digits) else {bare, digits}
    written = {home, f"86{home}", f"+86{home}"}
    return written if _MOBILE.fullmatch(home) else written | {digits, f"+{digits}"}
