"""What tripped: written once a window, listed, acknowledged, deleted. Every function runs in the caller's
transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from core.errors import ServiceError
from core.ids import is_id, new_id
from core.wire import rfc3339
from jobs.abuse.judging import Trip

PREFIX = "abuse"


class EventNotFoundError(ServiceError):
    """No rule has tripped under this id, or it is not kept any more."""

    code = "event_not_found"


@dataclass(frozen=True, slots=True)
class Event:
    """What tripped. ``key_id`` None: the account as a whole, or an address. ``spared_keys``: why the rule did not pause
    them, by id."""

    id: str
    at: datetime
    rule: str
    kind: str
    action: str
    account_id: str | None
    key_id: str | None
    address: str | None
    figures: Mapping[str, Any]
    paused_keys: Sequence[str]
    spared_keys: Mapping[str, str]
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    note: str


@dataclass(frozen=True, slots=True)
class Filters:
    """All that is given must hold. ``acknowledged`` None: either; ``cursor``: the last id of the page before."""

    account_id: str | None = None
    rule: str | None = None
    acknowledged: bool | None = None
    cursor: str | None = None
    limit: int = 50


_COLUMNS = """id, at, rule, kind, action, account_id, key_id, address, figures, paused_keys, spared_keys,
    acknowledged_at, acknowledged_by, note"""

# Of a day or month the start of the window says that the rule has tripped in it. A window that goes with the time is
# over when the last trip is as long ago.
_WRITE = text(f"""
INSERT INTO abuse_events (id, at, rule, kind, action, account_id, key_id, address, subject, window_at, figures)
SELECT :id, :at, :rule, :kind, :action, :account_id, :key_id, :address, :subject, :window_at, CAST(:figures AS jsonb)
WHERE NOT EXISTS (
    SELECT 1 FROM abuse_events AS e WHERE e.rule = :rule AND e.subject = :subject AND e.at > :since
)
ON CONFLICT (rule, subject, window_at) DO NOTHING
RETURNING {_COLUMNS}
""")
_NOTE_KEYS = text(f"""
UPDATE abuse_events SET paused_keys = CAST(:paused AS jsonb), spared_keys = CAST(:spared AS jsonb)
WHERE id = :id RETURNING {_COLUMNS}
""")
# 'b' sorts after every id of an event, so that the cursor always bounds the index.
_LIST = text(f"""
SELECT {_COLUMNS} FROM abuse_events
WHERE id < coalesce(CAST(:cursor AS text), 'b')
    AND (CAST(:account_id AS text) IS NULL OR account_id = :account_id)
    AND (CAST(:rule AS text) IS NULL OR rule = :rule)
    AND (CAST(:acknowledged AS boolean) IS NULL OR (acknowledged_at IS NOT NULL) = :acknowledged)
ORDER BY id DESC LIMIT :limit
""")
_FIND = text(f"SELECT {_COLUMNS} FROM abuse_events WHERE id = :id")
_ACKNOWLEDGE = text(f"""
UPDATE abuse_events SET acknowledged_at = clock_timestamp(), acknowledged_by = :by, note = :note
WHERE id = :id AND acknowledged_at IS NULL RETURNING {_COLUMNS}
""")
_DELETE_OLD = text("""
WITH old AS MATERIALIZED (
    SELECT id FROM abuse_events WHERE at < statement_timestamp() - make_interval(secs => :keep_s)
    ORDER BY at LIMIT :page FOR UPDATE SKIP LOCKED
)
DELETE FROM abuse_events WHERE id = ANY(ARRAY(SELECT id FROM old)) RETURNING 1
""")


def write(connection: Connection, trip: Trip, now: datetime) -> Event | None:
    """Write down what tripped; None where the rule has tripped for the same subject in this window."""
    rule, figure = trip.rule, trip.figure
    row = connection.execute(
        _WRITE,
        {
            "id": new_id(PREFIX),
            "at": now,
            "rule": rule.name,
            "kind": rule.kind,
            "action": rule.action,
            "account_id": figure.account_id,
            "key_id": figure.key_id or None,
            "address": figure.address,
            "subject": figure.subject,
            "window_at": rule.window_at(now),
            "since": rule.since(now),
            "figures": json.dumps(trip.figures),
        },
    ).one_or_none()
    return None if row is None else Event(**row._mapping)


def note_keys(connection: Connection, event_id: str, paused: Sequence[str], spared: Mapping[str, str]) -> Event:
    """Note which keys an event has paused, and which it has not."""
    values = {"id": event_id, "paused": json.dumps(list(paused)), "spared": json.dumps(dict(spared))}
    return Event(**connection.execute(_NOTE_KEYS, values).one()._mapping)


def events(connection: Connection, filters: Filters) -> list[Event]:
    """Events, newest first."""
    values = {name: getattr(filters, name) for name in Filters.__slots__}
    return [Event(**row._mapping) for row in connection.execute(_LIST, values)]


def find_event(connection: Connection, event_id: str) -> Event:
    """The event of an id. Raises EventNotFoundError."""
    row = connection.execute(_FIND, {"id": event_id}).one_or_none() if is_id(event_id, PREFIX) else None
    if row is None:
        raise EventNotFoundError("no such event")
    return Event(**row._mapping)


def acknowledge(connection: Connection, event_id: str, *, by: str, note: str) -> tuple[Event, bool]:
    """Note that someone has seen to an event; and whether that is new: a second time changes nothing.

    Raises EventNotFoundError.
    """
    before = find_event(connection, event_id)
    row = connection.execute(_ACKNOWLEDGE, {"id": event_id, "by": by, "note": note}).one_or_none()
    return (before, False) if row is None else (Event(**row._mapping), True)


def delete_old(connection: Connection, *, keep_s: float, size: int) -> int:
    """Delete at most ``size`` events that are older than that; how many."""
    return len(connection.execute(_DELETE_OLD, {"keep_s": keep_s, "page": size}).all())


def document(event: Event) -> dict[str, Any]:
    """An event as the API shows it and a webhook tells it."""
    return {
        "id": event.id,
        "object": "abuse.event",
        "at": rfc3339(event.at),
        "rule": event.rule,
        "kind": event.kind,
        "action": event.action,
        "account_id": event.account_id,
        "key_id": event.key_id,
        "address": event.address,
        "figures": dict(event.figures),
        "paused_keys": list(event.paused_keys),
        "spared_keys": dict(event.spared_keys),
        "acknowledged_at": rfc3339(event.acknowledged_at),
        "acknowledged_by": event.acknowledged_by,
        "note": event.note,
    }


def told_of(connection: Connection, event_id: str) -> dict[str, Any] | None:
    """What the operator's webhook is told of an event; None once it is gone."""
    try:
        return document(find_event(connection, event_id))
    except EventNotFoundError:
        return None
