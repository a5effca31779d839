"""What can go wrong, as a caller can tell it apart."""

from __future__ import annotations


class ClientError(Exception):
    """Whatever this package raises; the message says what to do about it."""


class BadUrl(ClientError):
    """The platform's address is none."""


class Unavailable(ClientError):
    """The platform did not answer, or asked to come again later. Nothing is lost by asking again.

    `retry_after` is how many seconds it asked to wait at least.
    """

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(ClientError):
    """The platform answered that it will not have this; asking again does not help.

    `cause` is stable and for machines, `detail` for people.
    """

    def __init__(self, message: str, *, status: int, cause: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.cause = cause
        self.detail = detail


class SpoolError(ClientError):
    """The spool's folder cannot be used: not writable, disk full, broken. The record that was
    being written is not stored."""


class SpoolFull(SpoolError):
    """The spool holds as much as it may: the platform has been away for too long."""


class SpoolInUse(SpoolError):
    """Another client has this folder open."""
