"""Claiming a job: calls recorded, permits taken and credits held before anything is sent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import psycopg
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from core import failpoints
from core.db import Hot
from core.errors import DatabaseAwayError, DatabaseBusyError, DatabaseChangedError
from core.ids import new_id
from jobs import lifecycle, states
from jobs.call import Call, planned
from jobs.dispatch import own_keys, publishing, put_off
from jobs.errors import StaleJobError
from jobs.execution import decide, keyless
from jobs.execution.context import WorkerContext
from jobs.lifecycle import Full, Started, calls
from jobs.reads import worker
from jobs.reads.worker import LiveJob, OrderParts
from jobs.states import JobStatus, Nudge, Signal
from providers.catalog.catalog import UnknownModelError

log = structlog.get_logger(__name__)

# A claim frees one place in its account's window; publishing a few more catches up after many jobs end at once.
PUBLISH_AT_CLAIM = 4
# The last try to store an image begins this long before the step's end: a hung store takes half a minute to fail.
LAST_TRY_S = 30.0
# A claim that found its rows locked is repeated after this long, and up to twice that.
BUSY_S = 1.0


class _NoPermitError(Exception):
    """No credential of the provider has a free permit (``jobs/dispatch/permits.py``)."""

    def __init__(self, provider: str, own: str | None) -> None:
        super().__init__(provider)
        self.provider = provider
        self.own = own  # as of Full


@dataclass(slots=True)
class Claimed:
    """A claimed job: its credits are held, its calls are recorded and nothing is sent yet."""

    job: LiveJob
    fresh: Sequence[Call]  # the calls to make now
    parts: OrderParts
    nudges: Sequence[Nudge]
    keep_until: float  # time.monotonic(): until when to retry storing images that only this process has
    sent: bool = False  # whether a paid call may have left
    answered_at: float | None = None  # time.monotonic(): the latest answer of an upstream


def claim(context: WorkerContext, job_id: str) -> Claimed | None:
    """Claim the job, in one statement on its first attempt. None: there is nothing to do for now.

    Raises DatabaseAwayError when it is unknown whether the claim was committed; nothing may be sent then.
    """
    call_id = new_id("call")
    try:
        with context.database.hot() as hot:
            started = _start(context, hot, job_id, call_id)
            if isinstance(started, Full):
                # A free permit can be missed while others take and release permits, so one more try is made.
                started = _start(context, hot, job_id, call_id)
    except DatabaseBusyError:
        _put_off_locked(context, job_id)
        return None
    except DatabaseChangedError:
        raise
    except DatabaseAwayError:
        # The statement may have been committed although its answer was lost, so the rows are read back.
        return _recovered(context, job_id, [call_id[:-1] + "0"])
    except psycopg.IntegrityError:
        _impossible(context, job_id)
        return None
    match started:
        case Full(provider, own):
            _put_off_full(context, job_id, provider, own)
            return None
        case Started(job, parts, published):
            nudges = [states.run(job.provider, each) for each in published]
            return Claimed(job, job.calls, parts, nudges, _keep_until(context, job.provider))
        case None:
            return _claim_step_by_step(context, job_id)


def _start(context: WorkerContext, hot: Hot, job_id: str, call_id: str) -> Started | Full | None:
    return lifecycle.start(
        hot,
        job_id,
        owner=context.owner,
        node=context.node,
        providers=context.usable,
        call_id=call_id,
        backoff_s=decide.RETRY_AFTER_MAX_S,
        window=context.publish_window,
        most=PUBLISH_AT_CLAIM,
        share_by=context.share_by,
    )


def _keep_until(context: WorkerContext, provider: str) -> float:
    return time.monotonic() + context.step_s[provider] - LAST_TRY_S


# ------------------------------------------------------------------ a retry


def _claim_step_by_step(context: WorkerContext, job_id: str) -> Claimed | None:
    """Claim in a transaction of several statements: for a retry, or a job that ``start`` did not take."""
    claimed: Claimed | None = None
    try:
        with context.database.transaction() as connection:
            claimed = _claim_within(connection, context, job_id)
    except StaleJobError:
        pass
    except _NoPermitError as full:
        _put_off_full(context, job_id, full.provider, full.own)
    except (IntegrityError, psycopg.IntegrityError):
        _impossible(context, job_id)
    except UnknownModelError:
        # The model was in the catalogue when the order was accepted.
        log.exception("model_has_gone", job_id=job_id)
        _fail_queued(context, job_id, "model_unavailable")
    except DatabaseBusyError:
        _put_off_locked(context, job_id)
    except DatabaseChangedError:
        raise
    except DatabaseAwayError:
        if claimed is None:
            raise
        return _recovered(context, job_id, [call.id for call in claimed.fresh])
    else:
        return claimed
    return None


def _claim_within(connection: Connection, context: WorkerContext, job_id: str) -> Claimed:
    row = lifecycle.claim(
        connection,
        job_id,
        owner=context.owner,
        node=context.node,
        step_s=context.step_s,
        deadline_s=context.move_within_s,
    )
    job = worker.load(connection, job_id)
    if job is None:
        raise StaleJobError(job_id)
    own = (own_keys.current(connection, job.account_id, job.provider) or "") if row.own_key else None
    intended = calls.intend(
        connection,
        job_id=job.id,
        provider=job.provider,
        attempt=row.attempt,
        credentials=_usable(context, job.provider, own),
        planned=_plan(context, job),
        deadline_s=context.spec(job.provider).deadline_s,
    )
    if intended is None:
        raise _NoPermitError(job.provider, own)
    parts = worker.order_parts(connection, job_id)
    nudges: list[Nudge] = []
    if own is not None or not intended.limited:  # where permits are few, accounts take turns (jobs/dispatch/refill.py)
        nudges = publishing.fill(
            connection,
            job.account_id,
            job.provider,
            row.weight,
            window=context.publish_window,
            most=PUBLISH_AT_CLAIM,
            share_by=context.share_by,
        )
    lifecycle.hold(connection, row)
    failpoints.hit("claim.uncommitted")
    job = replace(job, calls=[*job.calls, *intended.calls])
    return Claimed(job, intended.calls, parts, nudges, _keep_until(context, job.provider))


def _usable(context: WorkerContext, provider: str, own: str | None) -> dict[str, str]:
    """The credentials a job may be called with, and their base URLs. ``own``: as of Full."""
    if own is None:
        return {each.credential_id: each.base_url for each in context.registry.of(provider)}
    base_url = context.own_base_url(provider)
    return {own: base_url} if own and base_url else {}


def _plan(context: WorkerContext, job: LiveJob) -> list[Call]:
    groups = decide.plan(context.facts(job), max_per_call=context.model(job.model).max_per_call)
    return [
        planned(new_id("call"), slot=slot, attempt=attempt, image_count=image_count, model=job.model)
        for slot, image_count, attempt in groups
    ]


# ------------------------------------------------------------------ a claim that fails


def _recovered(context: WorkerContext, job_id: str, call_ids: Sequence[str]) -> Claimed | None:
    """Read back a claim whose COMMIT got no answer; None if it was not committed.

    Raises DatabaseAwayError when it cannot be read; nothing may be sent then.
    """
    with context.database.hot() as hot:
        if not calls.on_record(hot, call_ids):
            return None
        job = worker.load(hot, job_id)
        if job is None or job.status is not JobStatus.RUNNING:
            return None
        parts = worker.order_parts(hot, job_id)
    fresh = [call for call in job.calls if call.outcome is None]
    return Claimed(job, fresh, parts, [], _keep_until(context, job.provider))


def _put_off_locked(context: WorkerContext, job_id: str) -> None:
    """Put a claim off because its rows were locked. The delay is random, so that such claims do not come together."""
    log.info("claim_waits_for_rows", job_id=job_id)
    with suppress(DatabaseBusyError), context.database.hot() as hot:
        lifecycle.defer(hot, job_id, after_s=BUSY_S, spread_s=BUSY_S)


def _impossible(context: WorkerContext, job_id: str) -> None:
    """End a job whose claim broke a rule of the ledger or the tables, as any later one would. The log names it."""
    log.exception("claim_refused_by_the_database", job_id=job_id)
    _fail_queued(context, job_id, "internal_error")


def _put_off_full(context: WorkerContext, job_id: str, provider: str, own: str | None) -> None:
    if own == "":
        context.publish(keyless.without_key(context, job_id))
        return
    known = [each.credential_id for each in context.registry.of(provider)] if own is None else [own]
    with context.database.transaction() as connection:
        outlook = put_off.outlook(connection, provider, known)
        later = put_off.put_off(outlook)
        lifecycle.defer(connection, job_id, after_s=later.least_s, spread_s=later.spread_s)
    if outlook.closed:
        _try_next_model(context, job_id)


def _try_next_model(context: WorkerContext, job_id: str) -> None:
    """Fail over to the order's next model, because the provider takes no jobs at present."""
    signals: list[Signal] = []
    with suppress(StaleJobError), context.database.transaction() as connection:
        signals = lifecycle.fail_over(
            connection, job_id, None, code="provider_closed", deadline_s=context.move_within_s
        )
    context.publish(signals)


def _fail_queued(context: WorkerContext, job_id: str, code: str) -> None:
    """End a job that no worker can start. A job that has changed meanwhile is left alone."""
    with suppress(StaleJobError), context.database.hot() as hot:
        job = worker.load(hot, job_id)
        if job is not None and job.status is JobStatus.QUEUED:
            done = lifecycle.end(hot, job_id, job.version, lifecycle.fail(code), traceparent=job.traceparent)
            context.publish(done.signals)
