"""The delivery log: what was sent to an account's receivers, what waits, and sending one again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict

from sqlalchemy import Connection, text

from core.ids import is_id
from webhooks.errors import DeliveryNotFoundError, EndpointDisabledError

# ``dropped``: its endpoint or its job was deleted, or the endpoint was disabled before it could be sent.
State = Literal["pending", "delivered", "failed", "dropped"]


class Attempt(TypedDict):
    """One attempt, as the column ``log`` keeps it."""

    at: str  # its end, RFC 3339
    status: int | None
    error: str | None
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message to one receiver. ``endpoint_id`` None: it went to the URL of its order."""

    id: str
    job_id: str | None
    event: str
    at: datetime
    endpoint_id: str | None
    state: State
    attempts: int  # of this series: a replay begins a new one
    next_attempt_at: datetime | None
    status: int | None
    error: str | None
    log: Sequence[Attempt]
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of a list of deliveries. ``cursor``: the last id of the previous page."""

    state: str | None = None
    event: str | None = None
    endpoint_id: str | None = None
    job_id: str | None = None
    cursor: str | None = None
    limit: int = 20


_COLUMNS = """id, job_id, event, at, endpoint_id, state, attempts,
    CASE WHEN state = 'pending' THEN due_at END AS next_attempt_at, status, error, log, ended_at"""

# 'n' sorts after every id of a message, so that the cursor always bounds the index.
_LIST = text(f"""
SELECT {_COLUMNS} FROM webhook_messages
WHERE account_id = :account_id AND id < coalesce(CAST(:cursor AS text), 'n')
    AND (CAST(:state AS text) IS NULL OR state = :state)
    AND (CAST(:event AS text) IS NULL OR event = :event)
    AND (CAST(:endpoint_id AS text) IS NULL OR endpoint_id = :endpoint_id)
    AND (CAST(:job_id AS text) IS NULL OR job_id = :job_id)
ORDER BY account_id DESC, id DESC LIMIT :limit
""")
_FIND = text(f"SELECT {_COLUMNS} FROM webhook_messages WHERE account_id = :account_id AND id = :id")
_DISABLED = text("""
SELECT 1 FROM webhook_endpoints WHERE account_id = :account_id AND id = :id AND disabled_at IS NOT NULL
""")
# Its log goes on. One that is being sent now is left alone: its lease ends in the future.
_REPLAY = text(f"""
UPDATE webhook_messages
SET state = 'pending', due_at = clock_timestamp(), attempts = 0, ended_at = NULL, error = NULL, status = NULL
WHERE account_id = :account_id AND id = :id AND (state <> 'pending' OR attempts > 0)
RETURNING {_COLUMNS}
""")


def every(connection: Connection, account_id: str, filters: Filters) -> list[Delivery]:
    """Return at most ``filters.limit`` deliveries of an account, newest first."""
    rows = connection.execute(
        _LIST,
        {
            "account_id": account_id,
            "cursor": filters.cursor,
            "state": filters.state,
            "event": filters.event,
            "endpoint_id": filters.endpoint_id,
            "job_id": filters.job_id,
            "limit": filters.limit,
        },
    )
    return [Delivery(**row._mapping) for row in rows]


def find(connection: Connection, account_id: str, message_id: str) -> Delivery:
    """Return a delivery of the account. Raises DeliveryNotFoundError."""
    return Delivery(**_found(connection, account_id, message_id)._mapping)


def replay(connection: Connection, account_id: str, message_id: str) -> Delivery:
    """Have a message sent again, now and by the whole schedule, under the same id.

    Raises DeliveryNotFoundError, EndpointDisabledError.
    """
    found = _found(connection, account_id, message_id)
    if found.endpoint_id is not None:
        disabled = connection.execute(_DISABLED, {"account_id": account_id, "id": found.endpoint_id}).one_or_none()
        if disabled is not None:
            raise EndpointDisabledError("the webhook is disabled: enable it first")
    row = connection.execute(_REPLAY, {"account_id": account_id, "id": message_id}).one_or_none()
    return Delivery(**(found if row is None else row)._mapping)


def _found(connection: Connection, account_id: str, message_id: str) -> Any:
    if is_id(message_id, "msg"):
        row = connection.execute(_FIND, {"account_id": account_id, "id": message_id}).one_or_none()
        if row is not None:
            return row
    raise DeliveryNotFoundError("no such delivery")
