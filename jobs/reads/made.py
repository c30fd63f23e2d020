"""What upstreams said of the images they made: how they reworded the prompt, and what they counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from jobs.errors import JobNotFoundError

# Calls that kept nothing count where they were counted: the upstream bills them.
_MADE = text("""
SELECT (
    SELECT jsonb_object_agg(i.index, i.revised_prompt) FROM images AS i
    WHERE i.job_id = j.id AND i.revised_prompt IS NOT NULL
) AS prompts, (
    SELECT jsonb_agg(c.usage ORDER BY c.intended_at, c.id) FROM upstream_calls AS c
    WHERE c.job_id = j.id AND (c.pictures_kept > 0 OR c.usage IS NOT NULL)
) AS usages
FROM jobs AS j WHERE j.id = :id AND j.account_id = :account_id
""")


@dataclass(frozen=True, slots=True)
class Made:
    """``revised_prompts`` by the image's index, where an upstream gave one. ``usages``: providers.base.Cost.usage of
    each call that made images, None where its upstream counted nothing."""

    revised_prompts: Mapping[int, str]
    usages: Sequence[Mapping[str, Any] | None]


def find_made(connection: Connection, account_id: str, job_id: str) -> Made:
    """Return what upstreams said of a job's images. Raises JobNotFoundError."""
    row = connection.execute(_MADE, {"id": job_id, "account_id": account_id}).one_or_none()
    if row is None:
        raise JobNotFoundError("no such task")
    prompts = {int(index): words for index, words in (row.prompts or {}).items()}
    return Made(prompts, row.usages or [])
