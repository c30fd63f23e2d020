"""The catalogue next to the upstreams' own lists, periodically: one worker of the fleet asks, and logs what differs.

The last result stays in the key-value table under :data:`RESULT`, for metrics and for people.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final, TypedDict

import structlog

from core import key_values
from jobs.execution.context import WorkerContext
from jobs.reads.checks import CATALOG_RESULT
from providers import model_lists
from providers.model_lists import Answer

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 300.0
TURN: Final = "catalog_check"
RESULT: Final = CATALOG_RESULT
NAMED_AT_MOST: Final = 10


class ProviderDrift(TypedDict):
    """What one upstream's list said. ``asked``: false where it was away or has no list. ``differences``: counts by
    kind; ``new``: models of theirs that are not offered here."""

    asked: bool
    differences: dict[str, int]
    new: int


class LastCheck(TypedDict):
    """The last comparison. ``checked_at``: ISO 8601, UTC."""

    checked_at: str
    providers: dict[str, ProviderDrift]


def check_in_turn(context: WorkerContext, *, every_s: float) -> LastCheck | None:
    """Compare, if no worker has in ``every_s`` seconds; None where one has. An upstream that is away is a line in the
    log and no more. Raises: DatabaseAwayError.
    """
    with context.database.transaction() as connection:
        if not key_values.take_turn(connection, TURN, every_s=every_s, value=context.owner):
            return None
    catalog = context.catalogs.current()
    answers = [model_lists.check(context.registry, catalog, name) for name in context.registry.configured()]
    for answer in answers:
        _log(answer)
    result: LastCheck = {
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "providers": {answer.provider: _drift(answer) for answer in answers},
    }
    with context.database.transaction() as connection:
        key_values.put(connection, RESULT, json.dumps(result))
    return result


def _drift(answer: Answer) -> ProviderDrift:
    drift = answer.drift
    if drift is None:
        return {"asked": False, "differences": {}, "new": 0}
    return {"asked": True, "differences": drift.counts(), "new": len(drift.new)}


def _log(answer: Answer) -> None:
    """One line for an upstream that differs, and one for an upstream that could not be asked."""
    if answer.error:
        log.warning("catalog_not_checked", provider=answer.provider, detail=answer.error)
    elif answer.drift:
        named = [f"{each.kind} {each.model}: {each.detail}" for each in answer.drift.differences]
        log.warning(
            "catalog_drift",
            provider=answer.provider,
            **answer.drift.counts(),
            differences=named[:NAMED_AT_MOST],
            hint=f"darkroom catalog check {answer.provider}",
        )
