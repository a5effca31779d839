"""JSON bodies, read so that nothing a caller sends is worse than a 400."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from django.conf import settings
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from subscriptions.errors import DomainError

# Each takes fifty bytes of memory and more, however short it is sent; a full batch of subscribers
# with twenty subjects each holds a twentieth of this.
_MOST_VALUES = 500_000


class TooLarge(DomainError):
    status = 413
    cause = "too_large"


class JsonParser(BaseParser):
    """UTF-8 JSON (RFC 8259), whatever charset the header names. NaN and Infinity are none."""

    media_type = "application/json"

    def parse(
        self,
        stream: Any,
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        limit: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        raw = stream.read(limit + 1)
        if len(raw) > limit:
            raise TooLarge(f"a body has at most {limit} bytes; send several")
        if sum(map(raw.count, (b"{", b"[", b","))) > _MOST_VALUES:
            raise TooLarge("the body holds too many values; send several")
        try:
            return json.loads(raw.decode("utf-8"), parse_constant=_refuse)
        except UnicodeDecodeError as error:
            raise ParseError(f"the body is not UTF-8 (byte {error.start})") from error
        except RecursionError as error:
            raise ParseError("the body is nested too deeply") from error
        except ValueError as error:
            raise ParseError(f"the body is not JSON: {error}") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
