"""The key-value table: single facts that all processes share, such as the Redis epoch last seen.

The table is called ``marks`` in the database. Every function runs in the caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Column, Connection, DateTime, Table, Text, func, text

from core.tables import metadata

key_values = Table(
    "marks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),  # last written
)


@dataclass(frozen=True, slots=True)
class KeyValue:
    """``age_s``: seconds since it was written, by the database's clock."""

    value: str
    age_s: float


def find(connection: Connection, name: str) -> KeyValue | None:
    """What is stored under ``name``; None when nothing is."""
    row = connection.execute(_FIND, {"name": name}).one_or_none()
    return KeyValue(row.value, float(row.age_s)) if row else None


_FIND = text("SELECT value, extract(epoch FROM clock_timestamp() - at) AS age_s FROM marks WHERE name = :name")


def put(connection: Connection, name: str, value: str) -> None:
    """Store ``value`` under ``name``, over what was there."""
    connection.execute(_PUT, {"name": name, "value": value})


_PUT = text("""
INSERT INTO marks (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = :value, at = clock_timestamp()
""")


def put_if_absent(connection: Connection, name: str, value: str) -> str:
    """Store ``value`` unless there is one already; the value that is there now."""
    connection.execute(_PUT_IF_ABSENT, {"name": name, "value": value})
    return str(connection.execute(_FIND, {"name": name}).one().value)


_PUT_IF_ABSENT = text("INSERT INTO marks (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING")


def take_turn(connection: Connection, name: str, *, every_s: float, value: str = "") -> bool:
    """Whether it is the caller's turn: true for one caller of all processes in ``every_s`` seconds.

    ``value`` is stored with the turn, for people who look.
    """
    turn = {"name": name, "value": value, "every_s": every_s}
    return connection.execute(_TAKE_TURN, turn).one_or_none() is not None


_TAKE_TURN = text("""
INSERT INTO marks (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = :value, at = clock_timestamp()
WHERE marks.at < clock_timestamp() - make_interval(secs => :every_s)
RETURNING 1
""")
