"""The audit, periodically: one worker of the fleet runs it and logs what it found. Metrics show the last result."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import structlog
from sqlalchemy import Connection

from core import key_values
from core.db import Database
from jobs.maintenance import audit
from jobs.maintenance.audit import INVARIANTS, Finding
from jobs.reads.checks import AUDIT_RESULT, LastAudit

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 60.0
TURN: Final = "audit_check"
NAMED_AT_MOST: Final = 10


def check_in_turn(database: Database, *, owner: str, every_s: float) -> Sequence[Finding] | None:
    """Run the audit, if no worker has in ``every_s`` seconds; None where one has. Raises DatabaseAwayError."""
    with database.transaction() as connection:
        if not key_values.take_turn(connection, TURN, every_s=every_s, value=owner):
            return None
    findings = check_now(database, facts_at_most=audit.FACTS_AT_MOST)
    if findings:
        named = [f"{each.invariant} {each.subject}: {each.detail}" for each in findings[:NAMED_AT_MOST]]
        log.error("audit_found", findings=len(findings), named=named, hint="darkroom doctor")
    return findings


def check_now(database: Database, *, facts_at_most: int | None = None) -> Sequence[Finding]:
    """Run the audit (``facts_at_most`` as there) and store its result. Raises DatabaseAwayError."""
    with database.transaction() as connection:
        findings = audit.check(connection, facts_at_most=facts_at_most)
    with database.transaction() as connection:
        remember(connection, findings)
    return findings


def remember(connection: Connection, findings: Sequence[Finding]) -> None:
    """Store the result of an audit of now, for metrics."""
    found = Counter(each.invariant for each in findings)
    result: LastAudit = {
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "findings": {name: found[name] for name in INVARIANTS},
    }
    key_values.put(connection, AUDIT_RESULT, json.dumps(result))
