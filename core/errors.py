"""The base of what we tell a caller about their request.

A ServiceError is an answer, not an accident: ``code`` is stable and has a row in docs/errors.md;
``app/http/errors.py`` holds the one table from code to HTTP status.
"""

from __future__ import annotations

from typing import Any


class ServiceError(Exception):
    """``detail`` is shown to the caller; ``facts`` become members of the answer."""

    code = "internal_error"

    def __init__(self, detail: str = "", **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts


class UnavailableError(ServiceError):
    """Something we stand on is away for now; trying again is free."""

    code = "service_unavailable"

    def __init__(self, detail: str = "", *, retry_after_s: int = 5, **facts: Any) -> None:
        super().__init__(detail, **facts)
        self.retry_after_s = retry_after_s


class DatabaseAwayError(UnavailableError):
    code = "database_unavailable"


class DatabaseBusyError(DatabaseAwayError):
    """The database is there, and a lock or a time limit kept this statement from its turn: nothing of it stands."""


class DatabaseChangedError(DatabaseAwayError):
    """A migration has just run; the next try, on a new connection, finds the tables as they are now."""
