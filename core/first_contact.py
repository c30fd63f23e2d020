"""Whether a database can be ours at all, asked once when a process starts.

A server that is away for now is no reason to refuse: it comes back. A wrong password, a database that does not exist or
holds no UTF-8, or a server that is too old stay so until an operator changes something.
"""

from __future__ import annotations

import psycopg

from core.errors import ServiceError
from core.logging import redact

OLDEST_MAJOR = 14
_TIMEOUT_S = 5
# SQLSTATE classes: of the login (28), no such database (3D), no privilege to connect (42501).
_REFUSED = ("28", "3D", "42501")
# What the server says in place of a SQLSTATE, which libpq keeps to itself when a connection fails.
_WORDS = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "permission denied",
    "no pg_hba.conf entry",
)


class DatabaseRefusesError(ServiceError):
    """The database cannot be used as it is set up; ``detail`` is one sentence."""

    code = "database_refuses"


def check(url: str) -> None:
    """Connect once. Raises DatabaseRefusesError; returns for a database that is fit, and for one that is away."""
    try:
        with psycopg.connect(
            url.replace("postgresql+psycopg://", "postgresql://"), connect_timeout=_TIMEOUT_S
        ) as found:
            encoding = found.info.parameter_status("server_encoding")
            version = found.info.server_version
    except psycopg.OperationalError as error:
        if reason := _refusal(error):
            raise DatabaseRefusesError(f"PostgreSQL refuses us: {reason} (DATABASE_URL)") from None
        return
    except psycopg.Error as error:
        raise DatabaseRefusesError(f"DATABASE_URL cannot be used: {_first_line(error)}") from None
    if version // 10_000 < OLDEST_MAJOR:
        raise DatabaseRefusesError(
            f"the server of DATABASE_URL is PostgreSQL {version // 10_000}; {OLDEST_MAJOR} or newer is needed"
        )
    if encoding not in (None, "UTF8"):  # None: a pooler that does not pass it on
        raise DatabaseRefusesError(
            f"the database of DATABASE_URL is encoded in {encoding}, not in UTF8: make one by"
            " CREATE DATABASE darkroom ENCODING 'UTF8' TEMPLATE template0"
        )


def _refusal(error: psycopg.OperationalError) -> str | None:
    """The server's own reason where it does not let us in; None where it could not be reached."""
    said = _first_line(error)
    if (error.sqlstate or "").startswith(_REFUSED) or ("FATAL" in str(error) and any(w in str(error) for w in _WORDS)):
        return said.rpartition("FATAL:")[2].strip() or said
    return None


def _first_line(error: psycopg.Error) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return redact(next((line for line in lines if "FATAL" in line), lines[0] if lines else type(error).__name__))
