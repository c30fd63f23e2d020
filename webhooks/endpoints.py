"""An account's endpoints: URLs that are told of the events of all its jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, text

from core.ids import is_id, new_id
from webhooks.errors import EndpointDisabledError, EndpointNotFoundError, TooManyEndpointsError
from webhooks.secrets import OVERLAP_S, Secret, new_secret

MAX_ENDPOINTS = 20

# By its owner; it answered 410; or all attempts of a message failed, and nothing had succeeded for days.
Reason = Literal["owner", "gone", "failing"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as its owner may see it; the secret is shown once, when it is made or rotated."""

    id: str
    url: str = field(repr=False)
    description: str
    events: Sequence[str]
    created_at: datetime
    updated_at: datetime
    disabled_at: datetime | None
    disabled_reason: Reason | None
    failing_since: datetime | None
    previous_until: datetime | None  # until when an old secret signs, too


_COLUMNS = """id, url, description, events, created_at, updated_at, disabled_at, disabled_reason, failing_since,
    CASE WHEN previous_until > clock_timestamp() THEN previous_until END AS previous_until"""

# Two requests at once may pass the limit by one, which harms nothing.
_CREATE = text(f"""
INSERT INTO webhook_endpoints (id, account_id, url, description, events, secret)
SELECT :id, :account_id, :url, :description, CAST(:events AS jsonb), :secret
WHERE (SELECT count(*) FROM webhook_endpoints AS e WHERE e.account_id = :account_id) < :most
RETURNING {_COLUMNS}
""")
_LIST = text(f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE account_id = :account_id ORDER BY id")
_FIND = text(f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE account_id = :account_id AND id = :id")
_UPDATE = text(f"""
UPDATE webhook_endpoints
SET url = coalesce(:url, url), description = coalesce(:description, description),
    events = coalesce(CAST(:events AS jsonb), events), updated_at = clock_timestamp(),
    disabled_at = CASE WHEN CAST(:enabled AS boolean) THEN NULL
        WHEN NOT CAST(:enabled AS boolean) THEN coalesce(disabled_at, clock_timestamp()) ELSE disabled_at END,
    disabled_reason = CASE WHEN CAST(:enabled AS boolean) THEN NULL
        WHEN NOT CAST(:enabled AS boolean) THEN coalesce(disabled_reason, 'owner') ELSE disabled_reason END,
    failing_since = CASE WHEN CAST(:enabled AS boolean) THEN NULL ELSE failing_since END,
    not_before = CASE WHEN CAST(:enabled AS boolean) THEN NULL ELSE not_before END
WHERE account_id = :account_id AND id = :id
RETURNING {_COLUMNS}
""")
_DELETE = text("""
WITH gone AS (
    DELETE FROM webhook_endpoints WHERE account_id = :account_id AND id = :id RETURNING id
),
dropped AS (
    UPDATE webhook_messages SET state = 'dropped', error = 'endpoint_deleted', ended_at = clock_timestamp()
    FROM gone WHERE webhook_messages.account_id = :account_id AND endpoint_id = gone.id AND state = 'pending'
)
SELECT id FROM gone
""")
_ROTATE = text("""
UPDATE webhook_endpoints
SET previous_secret = secret, secret = :secret, updated_at = clock_timestamp(),
    previous_until = clock_timestamp() + make_interval(secs => :overlap_s)
WHERE account_id = :account_id AND id = :id
RETURNING secret, previous_until
""")
_TEST = text("""
INSERT INTO webhook_messages (account_id, event, endpoint_id, target, form)
SELECT e.account_id, 'webhook.test', e.id, e.id, 'standard' FROM webhook_endpoints AS e
WHERE e.account_id = :account_id AND e.id = :id
RETURNING id
""")


def create(
    connection: Connection, account_id: str, *, url: str, events: Sequence[str], description: str = ""
) -> tuple[Endpoint, Secret]:
    """Return a new endpoint and its secret. ``url`` has been judged before. Raises TooManyEndpointsError."""
    secret = new_secret()
    row = connection.execute(
        _CREATE,
        {
            "id": new_id("whe"),
            "account_id": account_id,
            "url": url,
            "description": description,
            "events": json.dumps(list(events)),
            "secret": secret,
            "most": MAX_ENDPOINTS,
        },
    ).one_or_none()
    if row is None:
        raise TooManyEndpointsError(f"an account has at most {MAX_ENDPOINTS} webhooks")
    return Endpoint(**row._mapping), Secret(secret)


def every(connection: Connection, account_id: str) -> list[Endpoint]:
    """Return an account's endpoints, oldest first; at most ``MAX_ENDPOINTS``."""
    return [Endpoint(**row._mapping) for row in connection.execute(_LIST, {"account_id": account_id})]


def find(connection: Connection, account_id: str, endpoint_id: str) -> Endpoint:
    """Return an endpoint of the account. Raises EndpointNotFoundError."""
    return Endpoint(**_one(connection, _FIND, account_id, endpoint_id)._mapping)


def update(
    connection: Connection,
    account_id: str,
    endpoint_id: str,
    *,
    url: str | None = None,
    events: Sequence[str] | None = None,
    description: str | None = None,
    enabled: bool | None = None,
) -> Endpoint:
    """Change what is given, and return the endpoint. What waits for it goes to the new URL.

    ``enabled`` True clears what it was disabled for. Raises EndpointNotFoundError.
    """
    changes = {
        "url": url,
        "description": description,
        "events": None if events is None else json.dumps(list(events)),
        "enabled": enabled,
    }
    return Endpoint(**_one(connection, _UPDATE, account_id, endpoint_id, **changes)._mapping)


def delete(connection: Connection, account_id: str, endpoint_id: str) -> None:
    """Delete an endpoint, and drop what waits for it. Raises EndpointNotFoundError."""
    _one(connection, _DELETE, account_id, endpoint_id)


def rotate(connection: Connection, account_id: str, endpoint_id: str, *, overlap_s: int = OVERLAP_S) -> Secret:
    """Return a new secret; the old one signs as well for ``overlap_s`` seconds. Raises EndpointNotFoundError."""
    row = _one(connection, _ROTATE, account_id, endpoint_id, secret=new_secret(), overlap_s=float(overlap_s))
    return Secret(row.secret, row.previous_until)


def send_test(connection: Connection, account_id: str, endpoint_id: str) -> str:
    """Write a test message, which is about no job, and return its id.

    Raises EndpointNotFoundError, EndpointDisabledError.
    """
    if find(connection, account_id, endpoint_id).disabled_at is not None:
        raise EndpointDisabledError("the webhook is disabled: enable it first")
    return str(_one(connection, _TEST, account_id, endpoint_id).id)


def _one(connection: Connection, statement: Any, account_id: str, endpoint_id: str, **values: Any) -> Any:
    if is_id(endpoint_id, "whe"):
        found = connection.execute(statement, {"account_id": account_id, "id": endpoint_id, **values}).one_or_none()
        if found is not None:
            return found
    raise EndpointNotFoundError("no such webhook")
