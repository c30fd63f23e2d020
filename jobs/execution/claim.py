"""Claiming a job: its calls on record, its permits taken and its credits held, all before anything is sent."""

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
from jobs.dispatch import publishing, put_off
from jobs.errors import StaleJobError
from jobs.execution import decide
from jobs.execution.context import WorkerContext
from jobs.lifecycle import Full, Started, calls
from jobs.reads import worker
from jobs.reads.worker import LiveJob, OrderParts
from jobs.states import JobStatus, Nudge, Signal
from providers.catalog.catalog import UnknownModelError

log = structlog.get_logger(__name__)

# A claim makes room for one; a few more catch up after a burst of endings.
PUBLISH_AT_CLAIM = 4
# The last try to keep an image begins so long before the step's end: a silent store takes half a minute to fail.
LAST_TRY_S = 30.0
# A claim that could not have its rows comes again after so long, and up to twice that.
BUSY_S = 1.0


class _NoPermitError(Exception):
    """No credential has a permit for this provider's job now (``jobs/dispatch/permits.py``)."""

    def __init__(self, provider: str) -> None:
        super().__init__(provider)
        self.provider = provider


@dataclass(slots=True)
class Claimed:
    """A job in our hands, its credits held and its calls on record; nothing is sent yet."""

    job: LiveJob
    fresh: Sequence[Call]  # the calls to make now
    parts: OrderParts
    nudges: Sequence[Nudge]
    keep_until: float  # of time.monotonic: how long bytes in hand may wait for the store
    sent: bool = False  # whether a paid call may have left


def claim(context: WorkerContext, job_id: str) -> Claimed | None:
    """Take the job, in one statement on its first attempt; None when there is nothing to do (now).

    Raises DatabaseAwayError when it cannot be known whether the claim is on record: then nothing is sent.
    """
    call_id = new_id("call")
    try:
        with context.database.hot() as hot:
            started = _start(context, hot, job_id, call_id)
            if isinstance(started, Full):
                # A free permit can be missed while others take and give back: once more, before it is put off.
                started = _start(context, hot, job_id, call_id)
    except DatabaseBusyError:
        _later(context, job_id)
        return None
    except DatabaseChangedError:
        raise
    except DatabaseAwayError:
        # The statement may have been committed although its answer was lost: look before anything is sent.
        return _recovered(context, job_id, [call_id[:-1] + "0"])
    except psycopg.IntegrityError:
        _impossible(context, job_id)
        return None
    match started:
        case Full(provider):
            _defer(context, job_id, provider)
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
    )


def _keep_until(context: WorkerContext, provider: str) -> float:
    return time.monotonic() + context.step_s[provider] - LAST_TRY_S


# ------------------------------------------------------------------ a retry


def _claim_step_by_step(context: WorkerContext, job_id: str) -> Claimed | None:
    """The longer way of a retry, or of a message that comes too late."""
    claimed: Claimed | None = None
    try:
        with context.database.transaction() as connection:
            claimed = _claim_within(connection, context, job_id)
    except StaleJobError:
        pass
    except _NoPermitError as full:
        _defer(context, job_id, full.provider)
    except (IntegrityError, psycopg.IntegrityError):
        _impossible(context, job_id)
    except UnknownModelError:
        # Accepted with a catalogue that still knew it.
        log.exception("model_has_gone", job_id=job_id)
        _fail_queued(context, job_id, "model_unavailable")
    except DatabaseBusyError:
        _later(context, job_id)
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
    intended = calls.intend(
        connection,
        job_id=job.id,
        provider=job.provider,
        attempt=row.attempt,
        credentials={provider.credential_id: provider.base_url for provider in context.registry.of(job.provider)},
        planned=_plan(context, job),
        deadline_s=context.spec(job.provider).deadline_s,
    )
    if intended is None:
        raise _NoPermitError(job.provider)
    parts = worker.order_parts(connection, job_id)
    nudges: list[Nudge] = []
    if not intended.limited:  # where permits are few, accounts take turns (jobs/dispatch/refill.py)
        nudges = publishing.fill(
            connection,
            job.account_id,
            job.provider,
            row.weight,
            window=context.publish_window,
            most=PUBLISH_AT_CLAIM,
        )
    lifecycle.hold(connection, row)
    failpoints.hit("claim.uncommitted")
    job = replace(job, calls=[*job.calls, *intended.calls])
    return Claimed(job, intended.calls, parts, nudges, _keep_until(context, job.provider))


def _plan(context: WorkerContext, job: LiveJob) -> list[Call]:
    groups = decide.plan(context.facts(job), max_per_call=context.model(job.model).max_per_call)
    return [
        planned(new_id("call"), slot=slot, attempt=attempt, image_count=image_count, model=job.model)
        for slot, image_count, attempt in groups
    ]


# ------------------------------------------------------------------ a claim that comes to nothing


def _recovered(context: WorkerContext, job_id: str, call_ids: Sequence[str]) -> Claimed | None:
    """What a claim whose COMMIT's answer was lost has written; None where it has written nothing.

    Raises DatabaseAwayError: unreadable means that nothing is sent.
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


def _later(context: WorkerContext, job_id: str) -> None:
    """Others hold the rows this claim needs: nothing has happened, and it comes again soon, not all at once."""
    log.info("claim_waits_for_rows", job_id=job_id)
    with suppress(DatabaseBusyError), context.database.hot() as hot:
        lifecycle.defer(hot, job_id, after_s=BUSY_S, spread_s=BUSY_S)


def _impossible(context: WorkerContext, job_id: str) -> None:
    """The books or the tables forbid this claim: no later one will do better, and the log says which rule it was."""
    log.exception("claim_refused_by_the_database", job_id=job_id)
    _fail_queued(context, job_id, "internal_error")


def _defer(context: WorkerContext, job_id: str, provider: str) -> None:
    known = [each.credential_id for each in context.registry.of(provider)]
    with context.database.transaction() as connection:
        outlook = put_off.outlook(connection, provider, known)
        later = put_off.put_off(outlook)
        lifecycle.defer(connection, job_id, after_s=later.least_s, spread_s=later.spread_s)
    if outlook.closed:
        _turn_elsewhere(context, job_id)


def _turn_elsewhere(context: WorkerContext, job_id: str) -> None:
    """The provider takes no one now; an order that names other models need not wait for it."""
    signals: list[Signal] = []
    with suppress(StaleJobError), context.database.transaction() as connection:
        signals = lifecycle.fail_over(
            connection, job_id, None, code="provider_closed", deadline_s=context.move_within_s
        )
    context.publish(signals)


def _fail_queued(context: WorkerContext, job_id: str, code: str) -> None:
    """End a job that no worker can start; one that has moved on meanwhile is left alone."""
    with suppress(StaleJobError), context.database.hot() as hot:
        job = worker.load(hot, job_id)
        if job is not None and job.status is JobStatus.QUEUED:
            context.publish(lifecycle.end(hot, job_id, job.version, lifecycle.fail(code)).signals)
