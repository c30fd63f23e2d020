"""Class B: a call whose answer was lost is searched for at its upstream, and never sent again.

A candidate is taken only if nobody else can be meant: it is the single one that no other call of ours
has claimed, and no other call without an id asked for the same (DESIGN section 3, "Uncertain").
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import structlog

from core.db import Hot, Statement
from jobs.execution import apply, run
from jobs.execution.context import WorkerContext
from jobs.reads import worker
from jobs.reads.worker import LiveJob, OpenCall
from providers.base import Accepted, Provider

log = structlog.get_logger(__name__)

# The upstream's clock and ours may differ by so much.
CLOCKS_APART = timedelta(seconds=30)


def find(context: WorkerContext, provider: Provider, job: LiveJob, call: OpenCall) -> Accepted | None:
    """The upstream's own record of an uncertain call; None while there is none, or no telling which.

    Raises: ProviderError when the search itself failed, StorageUnavailableError, BlobNotFoundError.
    """
    with context.database.hot() as hot:
        parts = worker.order_parts(hot, job.id)
    order = run.build_order(context, job, parts, call)
    ref = apply.call_ref(call, job.model)
    candidates = provider.lookup(ref, call.intended_at - CLOCKS_APART, order)
    if not candidates:
        return None
    with context.database.hot() as hot:
        free = _unclaimed(hot, call, candidates)
        # Its own address in the record leaves no doubt; equal words might be another call's.
        alone = order.callback_url is not None or not _has_rival(hot, job, call)
    if len(free) == 1 and alone:
        log.info("uncertain_call_found", job_id=job.id, call_id=call.id)
        return free[0]
    if free:
        log.warning("uncertain_call_ambiguous", job_id=job.id, call_id=call.id, candidates=len(free))
    return None


CLAIMED = Statement("""
SELECT upstream_id FROM upstream_calls
WHERE upstream_id = ANY(CAST(:ids AS text[])) AND credential_id = :credential AND id <> :id
""")


def _unclaimed(hot: Hot, call: OpenCall, candidates: Sequence[Accepted]) -> list[Accepted]:
    rows = hot.all(
        CLAIMED,
        {"ids": [each.upstream_id for each in candidates], "credential": call.credential_id, "id": call.id},
    )
    claimed = {row.upstream_id for row in rows}
    return [each for each in candidates if each.upstream_id not in claimed]


RIVAL = Statement("""
WITH mine AS (
    SELECT coalesce((
        SELECT f -> 'request' FROM jsonb_array_elements(o.fallbacks) AS f WHERE f ->> 'model' = :model
    ), o.request) AS request
    FROM orders AS o WHERE o.job_id = :job_id
)
SELECT 1
FROM upstream_calls AS c JOIN orders AS o ON o.job_id = c.job_id CROSS JOIN mine
WHERE c.credential_id = :credential AND c.id <> :id AND c.model = :model AND c.upstream_id IS NULL
    AND (c.outcome IS NULL OR c.outcome IN ('uncertain', 'lost'))
    AND c.intended_at > CAST(:since AS timestamptz)
    AND coalesce((
        SELECT f -> 'request' FROM jsonb_array_elements(o.fallbacks) AS f WHERE f ->> 'model' = :model
    ), o.request) = mine.request
LIMIT 1
""")


def _has_rival(hot: Hot, job: LiveJob, call: OpenCall) -> bool:
    """Whether another call without an id, sent by the same credential, asked for the very same."""
    values = {
        "credential": call.credential_id,
        "id": call.id,
        "model": call.facts.model,
        "since": call.intended_at - CLOCKS_APART,
        "job_id": job.id,
    }
    return hot.one_or_none(RIVAL, values) is not None
