"""What follows when a rule trips: its event, the keys it pauses with their entries in the trail, and the message to the
operator, in one transaction; then a line in the log."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import structlog
from sqlalchemy import Connection, text

from accounts import pauses, trail
from accounts.key_changes import KeyEndedError, KeyNotFoundError
from accounts.pauses import LastAdminKeyError
from accounts.trail import Actor
from core.db import Database
from core.wire import rfc3339
from jobs.abuse import counts, events
from jobs.abuse.events import Event
from jobs.abuse.judging import Trip
from webhooks import operator

log = structlog.get_logger(__name__)

# Trips are written one after the other: of two workers with the same one the second finds that of the first.
_LOCK = 7_216_050_025
_TAKE_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_KEYS_OF = text("SELECT id FROM api_keys WHERE account_id = :account_id AND revoked_at IS NULL ORDER BY id")
RULE = Actor("rule")


def trip(database: Database, tripped: Trip, now: datetime, *, targets: Collection[str]) -> Event | None:
    """Do what a rule that has tripped says; None where it has tripped in this window. Raises DatabaseAwayError.

    ``targets``: the operator's receivers (webhooks.operator).
    """
    with database.transaction() as connection:
        connection.execute(_TAKE_LOCK, {"lock": _LOCK})
        event = events.write(connection, tripped, now)
        if event is None:
            return None
        if event.action == "pause_key":
            event = _pause(connection, event)
        if event.action != "log":
            operator.tell(connection, targets, operator.RULE_TRIPPED, event.id)
    counts.EVENTS.of(event.rule, event.action).inc()
    if event.paused_keys:
        counts.PAUSED.of(event.rule).inc(len(event.paused_keys))
    _tell(event)
    return event


def _pause(connection: Connection, event: Event) -> Event:
    """Pause the key of an event, or every key of its account."""
    keys = [event.key_id] if event.key_id else _keys_of(connection, event.account_id)
    paused: list[str] = []
    spared: dict[str, str] = {}
    for key_id in keys:
        try:
            before, after = pauses.pause_key(connection, key_id, f"rule {event.rule}")
        except LastAdminKeyError:
            spared[key_id] = "last_admin_key"
        except KeyNotFoundError:
            spared[key_id] = "not_a_key"  # a token of an issuer: its end is the issuer's to say
        except KeyEndedError:
            spared[key_id] = "key_ended"
        else:
            if before.paused_at is None:
                paused.append(key_id)
                told = {"paused_at": rfc3339(after.paused_at), "pause_reason": after.pause_reason, "event": event.id}
                was = {"paused_at": None, "pause_reason": None}
                trail.record(connection, RULE, "key.pause", key_id, account_id=after.account_id, before=was, after=told)
    return events.note_keys(connection, event.id, paused, spared)


def _keys_of(connection: Connection, account_id: str | None) -> list[str]:
    return [row.id for row in connection.execute(_KEYS_OF, {"account_id": account_id})]


def _tell(event: Event) -> None:
    facts = {
        "event_id": event.id,
        "rule": event.rule,
        "kind": event.kind,
        "action": event.action,
        "account_id": event.account_id,
        "key_id": event.key_id,
        "address": event.address,
        "paused_keys": list(event.paused_keys) or None,
        "spared_keys": dict(event.spared_keys) or None,
        **event.figures,
    }
    log.warning("abuse_rule_tripped", **{name: value for name, value in facts.items() if value is not None})
