"""Who talks to the tax platform. Choose one by FAPIAO_PROVIDER; files are the default."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from billing.exports import cells

ANSWER_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Issued:
    """The platform gave it this number."""

    number: str
    issued_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Refused:
    """The platform will not issue it."""

    reason: str


class ProviderError(Exception):
    """No answer, or none that can be understood: it is asked again later."""


class Provider(Protocol):
    """Called outside of every transaction, and again after a crash: each call is repeatable by
    `request_id`. Raises ProviderError."""

    def submit(self, request: Mapping[str, Any]) -> None:
        """Hand over a blue one; the same request again is the same one."""

    def red(self, request: Mapping[str, Any]) -> None:
        """Hand over a red one, which names the number of the blue one."""

    def poll(self, operator: str, request_id: str) -> Issued | Refused | None:
        """What became of a request; None: nothing yet."""


class FileProvider:
    """Writes each request to a folder and reads its answer from another, both by operator.

    `requests/<operator>/<request id>.json`, and in `answers/` by the same name
    `{"number": "<20 digits>", "issued_at": "<RFC 3339>"}` or `{"refused": "<why>"}`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = Path(folder or settings.FAPIAO_FOLDER)

    def submit(self, request: Mapping[str, Any]) -> None:
        path = self._path("requests", request["operator"], request["request_id"])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(request, ensure_ascii=False, indent=2, sort_keys=True)
            cells.save([f"{text}\n".encode()], path)
        except OSError as error:
            raise ProviderError(f"{path}: {error.strerror}") from error

    def red(self, request: Mapping[str, Any]) -> None:
        self.submit(request)

    def poll(self, operator: str, request_id: str) -> Issued | Refused | None:
        path = self._path("answers", operator, request_id)
        try:
            with path.open("rb") as file:
                raw = file.read(ANSWER_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ProviderError(f"{path}: {error.strerror}") from error
        try:
            if len(raw) > ANSWER_BYTES:
                raise ValueError
            said = json.loads(raw)
            if "refused" in said:
                return Refused(str(said["refused"]))
            issued_at = dt.datetime.fromisoformat(said["issued_at"])
            if issued_at.tzinfo is None or not isinstance(said["number"], str):
                raise ValueError
            return Issued(said["number"], issued_at)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ProviderError(f"{path.name}: is no answer") from error

    def _path(self, folder: str, operator: str, request_id: str) -> Path:
        return self.folder / folder / operator / f"{request_id}.json"


def provider() -> Provider:
    """The one that the settings name."""
    made: Provider = import_string(settings.FAPIAO_PROVIDER)()
    return made
