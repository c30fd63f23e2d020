"""The base of the errors that a caller sees.

A ServiceError is an answer, not a failure of ours: ``code`` is stable and has a row in docs/errors.md;
``app/http/errors.py`` holds the one table from code to HTTP status.
"""

from __future__ import annotations

from typing import Any


class ServiceError(Exception):
    """``detail`` is shown to the caller; ``facts`` become members of the response."""

    code = "internal_error"

    def __init__(self, detail: str = "", **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts


class UnavailableError(ServiceError):
    """Something we depend on is unreachable for now; trying again costs nothing."""

    code = "service_unavailable"

    def __init__(self, detail: str = "", *, retry_after_s: int = 5, **facts: Any) -> None:
        super().__init__(detail, **facts)
        self.retry_after_s = retry_after_s


class DatabaseAwayError(UnavailableError):
    """The database cannot be reached, or has no connection left for us."""

    code = "database_unavailable"


class DatabaseBusyError(DatabaseAwayError):
    """The database is reachable, but a lock or a time limit stopped the statement, which had no effect."""


class DatabaseChangedError(DatabaseAwayError):
    """A migration has just run; the next try, on a new connection, sees the tables as they are now."""
