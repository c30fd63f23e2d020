"""What an order asked for, in the fields of an order, so that it can be placed again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, text

from core.ids import is_id
from jobs.errors import JobNotFoundError

SIZE_FIELDS = ("size", "width", "height", "aspect_ratio", "resolution")


@dataclass(frozen=True, slots=True)
class KeptImage:
    """A reference image that the order came with."""

    role: Literal["image", "mask", "face"]
    position: int  # among all of the order
    key: str
    deleted: bool


@dataclass(frozen=True, slots=True)
class Repeatable:
    """An order as it was placed: what was really asked of its first model, under the names of an order's fields."""

    operation: str  # the catalogue's word
    fields: Mapping[str, Any]
    images: Sequence[KeptImage]


# The first model stands in the first event: the job itself names the one whose turn it is.
_FIND = text("""
SELECT j.operation, j.model, j.low_priority, j.keep_s, o.request, o.metadata,
    EXTRACT(EPOCH FROM j.start_deadline_at - j.created_at) AS deadline_s,
    (SELECT e.data ->> 'model' FROM job_events AS e WHERE e.job_id = j.id AND e.type = 'queued' ORDER BY e.id LIMIT 1)
        AS first_model,
    coalesce(jsonb_path_query_array(o.fallbacks, '$[*].model'), '[]') AS fallback_models,
    coalesce((
        SELECT jsonb_agg(jsonb_build_object('role', i.role, 'position', i.position, 'key', i.key,
            'deleted', i.deleted_at IS NOT NULL) ORDER BY i.position)
        FROM inputs AS i WHERE i.job_id = j.id
    ), '[]') AS images
FROM jobs AS j JOIN orders AS o ON o.job_id = j.id
WHERE j.id = :id AND j.account_id = :account_id
""")


def find_order(connection: Connection, account_id: str, job_id: str) -> Repeatable:
    """Return the order of a job. Raises JobNotFoundError: unknown, malformed, or another account's."""
    row = None
    if is_id(job_id, "job"):
        row = connection.execute(_FIND, {"id": job_id, "account_id": account_id}).one_or_none()
    if row is None:
        raise JobNotFoundError("no such task")
    return Repeatable(row.operation, _fields(row), [KeptImage(**each) for each in row.images])


def _fields(row: Any) -> dict[str, Any]:
    asked = row.request
    fields: dict[str, Any] = {
        "prompt": asked["prompt"],
        "n": asked["n"],
        **_size(asked["size"]),
        **asked["params"],
        "extra": asked.get("extra"),
        "model": row.first_model or row.model,
        # An empty list, too: it keeps the operator's own chain from being added.
        "fallback_models": row.fallback_models,
        "priority": "low" if row.low_priority else "normal",
        "deadline_s": None if row.deadline_s is None else max(1, round(row.deadline_s)),
        "metadata": row.metadata or None,
        "store": False if row.keep_s is not None else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _size(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A size as an order may say it: next to width and height, a model's own word for the ratio says nothing more."""
    exact = "width" in stored
    return {name: value for name, value in stored.items() if not (exact and name == "aspect_ratio")}
