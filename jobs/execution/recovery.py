"""Recovering a paid call whose answer was lost, or that its upstream does not know, by its provider's ``Recovery``.

SEARCH: the call is searched for at its upstream, and never sent again. A candidate is taken only if it can belong to
no other call: it is the only one that no other call has claimed, and no other call without an upstream id asked for
the same. If the upstream's list does not show what its calls asked for, the call is given up at the first search.
RESEND: the same bytes are sent again under the call's own key, once the upstream has said twice that it
does not know the call. NEVER: nothing can be found out, and the call is given up (docs/architecture.md section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from core import failpoints
from core.db import Hot, Statement
from jobs.call import Call
from jobs.dispatch import permits
from jobs.execution import decide, outcomes, spans
from jobs.execution.cancelling import cancel_upstream
from jobs.execution.context import WorkerContext
from jobs.execution.outcomes import CallOutcome
from jobs.execution.upstream_order import build_order
from jobs.lifecycle import calls
from jobs.reads import worker
from jobs.reads.worker import LiveJob, OrderParts
from jobs.states import Outcome
from providers.base import Accepted, Provider
from providers.catalog.entries import Recovery
from providers.errors import Failed, ProviderError

log = structlog.get_logger(__name__)

# How far the upstream's clock and ours may differ.
CLOCKS_APART = timedelta(seconds=30)
MISSING_FOR_S = 5.0
RESENDS_AT_MOST = 2
# A call that this many searches over this long a time do not find was not made, or cannot be identified.
SEARCHES_AT_LEAST = 3
SEARCH_FOR_S = 120.0


def given_up(context: WorkerContext, call: Call) -> CallOutcome | None:
    """Give up a call that is past its deadline after its last status check. None: it is not past its deadline.

    An accepted call is cancelled upstream. The outcome is written off.
    """
    if not call.overdue:
        return None
    if call.outcome is Outcome.UNCERTAIN:
        return outcomes.lost(call)
    cancel_upstream(context, call)
    return outcomes.lost(call, code="upstream_timeout", outcome=Outcome.TIMED_OUT)


def arrived(call: Call) -> CallOutcome | None:
    """Return the outcome ACCEPTED for an uncertain call that the upstream knows; None for any other call."""
    if call.outcome is not Outcome.UNCERTAIN:
        return None
    return CallOutcome(call, Outcome.ACCEPTED, upstream_id=call.upstream_id or call.dedupe_key)


def missing(context: WorkerContext, job: LiveJob, call: Call) -> CallOutcome | None:
    """Return the outcome of a call that the upstream does not know, once it has been so for ``MISSING_FOR_S``.

    None: not yet, or there is nothing to do. Raises DatabaseAwayError, StorageUnavailableError, BlobNotFoundError.
    """
    with context.database.hot() as hot:
        sure = calls.note_missing(hot, call.id, after_s=MISSING_FOR_S)
    if not sure:
        return None
    recovery = context.spec(job.provider).recovery
    if call.outcome is Outcome.ACCEPTED:
        # A search finds only what the upstream still knows. What it took may be billed: a new call could buy it twice.
        bought = recovery is not Recovery.RESEND
        gone = Failed("upstream_lost", "the upstream no longer knows the call", retryable=not bought, billed=bought)
        return outcomes.from_error(call, gone, may_look_up=False)
    if recovery is not Recovery.RESEND:
        return None
    if job.cancel_requested:
        # The call never reached the upstream and the job is cancelled: nothing is sent and nothing was bought.
        return replace(outcomes.lost(call), written_off=False)
    return _resend(context, job, call)


# ------------------------------------------------------------------ sending again


def _resend(context: WorkerContext, job: LiveJob, call: Call) -> CallOutcome | None:
    """Send an uncertain call's bytes again under its own key; the upstream runs each key once.

    None: not sent, or it failed, which proves nothing until the next status check.
    """
    parts = _right_to_resend(context, job, call)
    if isinstance(parts, CallOutcome | None):
        return parts
    provider = context.registry.by_credential(call.credential_id)
    try:
        order = build_order(context, job, parts, call)
        with spans.call(job, call, provider) as span:
            answer = provider.submit(order, dedupe_key=call.dedupe_key)
            learned = (
                outcomes.accepted(call, answer) if isinstance(answer, Accepted) else outcomes.finished(call, answer)
            )
            spans.called(span, learned, status=None)
    except ProviderError as error:
        log.info("resend_failed", call_id=call.id, code=error.code)
        return None
    failpoints.hit("resend.answered")
    return learned


class _NotNowError(Exception):
    """A limit keeps a call from being sent again; the next status check tries once more."""


def _right_to_resend(context: WorkerContext, job: LiveJob, call: Call) -> OrderParts | CallOutcome | None:
    """Return what to send, None if it may not be sent now, or an outcome if it may never be sent again."""
    try:
        with context.database.transaction() as connection:
            right = calls.note_resend(
                connection,
                call.id,
                most=RESENDS_AT_MOST,
                deadline_s=context.spec(job.provider).deadline_s,
                backoff_s=decide.RETRY_AFTER_MAX_S,
            )
            if right.version is None:
                return outcomes.lost(call) if right.used_up else None
            if not permits.take_submit(connection, call.credential_id):
                raise _NotNowError
            return worker.order_parts(connection, job.id)
    except _NotNowError:
        return None


# ------------------------------------------------------------------ searching


def search(context: WorkerContext, provider: Provider, job: LiveJob, call: Call) -> Accepted | None:
    """Return the upstream's record of an uncertain call; None if it has none or it is not clear which it is.

    Raises Unidentifiable if no search can tell, ProviderError when the search itself failed, DatabaseAwayError,
    StorageUnavailableError, BlobNotFoundError.
    """
    with context.database.hot() as hot:
        parts = worker.order_parts(hot, job.id)
    order = build_order(context, job, parts, call)
    candidates = provider.lookup(call, _since(call), order)
    if not candidates:
        return None
    with context.database.hot() as hot:
        free = _unclaimed(hot, call, candidates)
        # A record with the call's own callback URL is certainly this call's; an equal prompt may be another call's.
        alone = order.callback_url is not None or not _has_rival(hot, job, call)
    if len(free) == 1 and alone:
        log.info("uncertain_call_found", job_id=job.id, call_id=call.id)
        return free[0]
    if free:
        log.warning("uncertain_call_ambiguous", job_id=job.id, call_id=call.id, candidates=len(free))
    return None


def searched_in_vain(context: WorkerContext, call: Call) -> bool:
    """Count a search that found nothing; return whether to stop (``SEARCHES_AT_LEAST``, ``SEARCH_FOR_S``)."""
    with context.database.hot() as hot:
        return calls.note_search(hot, call.id, searches=SEARCHES_AT_LEAST, over_s=SEARCH_FOR_S)


def _since(call: Call) -> datetime:
    """Return the earliest time, by the upstream's clock, at which it may have accepted the call."""
    if call.intended_at is None:
        raise ValueError(f"{call.id} is not on record")
    return call.intended_at - CLOCKS_APART


CLAIMED = Statement("""
SELECT upstream_id FROM upstream_calls
WHERE upstream_id = ANY(CAST(:ids AS text[])) AND credential_id = :credential AND id <> :id
""")


def _unclaimed(hot: Hot, call: Call, candidates: Sequence[Accepted]) -> list[Accepted]:
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


def _has_rival(hot: Hot, job: LiveJob, call: Call) -> bool:
    """Return whether another call of the same credential without an upstream id has the same request."""
    values = {
        "credential": call.credential_id,
        "id": call.id,
        "model": call.model,
        "since": _since(call),
        "job_id": job.id,
    }
    return hot.one_or_none(RIVAL, values) is not None
