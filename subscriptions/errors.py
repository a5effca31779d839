"""What a caller can cause and must be told: rendered as RFC 9457 problem+json by the doors."""

from __future__ import annotations


class DomainError(Exception):
    """A refusal with a stable `cause`; `str(error)` says what to do about it."""

    status = 422
    cause = "invalid"
    # After how many seconds it may be asked again, where that is known.
    retry_after: int | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class NotFound(DomainError):
    status = 404
    cause = "not_found"


class Conflict(DomainError):
    status = 409
    cause = "conflict"


class Invalid(DomainError):
    """A value that cannot be taken; `cause` names the rule it breaks."""

    status = 422
    cause = "invalid"
