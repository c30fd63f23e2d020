"""Running a job: take it, with its credits held and its calls written down, make the paid call, move on.

No transaction is open and no connection is held while an upstream thinks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import psycopg
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from core import failpoints
from core.db import Hot, Statement
from core.errors import DatabaseAwayError, DatabaseBusyError, DatabaseChangedError
from core.ids import new_id
from jobs import lifecycle, states
from jobs.dispatch import permits, publishing
from jobs.errors import JobFailedError, StaleJobError
from jobs.execution import apply, decide, outcomes
from jobs.execution.context import Workbench, side_by_side
from jobs.execution.outcomes import Answer
from jobs.lifecycle import Full, Started, calls
from jobs.lifecycle.calls import Intent
from jobs.reads import worker
from jobs.reads.worker import LiveJob, OpenCall, OrderParts
from jobs.states import Ended, JobStatus, Nudge, Signal
from providers.base import Accepted, Finished, InputImage, Provider, UpstreamOrder
from providers.catalog.catalog import Model, UnknownModelError
from providers.catalog.entries import Recovery
from providers.errors import Misconfigured, NotRun, ProviderError, Uncertain
from storage.base import BlobNotFoundError, StorageUnavailableError

log = structlog.get_logger(__name__)

# A claim makes room for one; a few more catch up after a burst of endings.
PUBLISH_AT_CLAIM = 4
# The last try to keep an image begins so long before the step's end: a silent store takes half a minute to fail.
LAST_TRY_S = 30.0
# A claim that could not have its rows comes again after so long, and up to twice that.
BUSY_S = 1.0


class CrashedStepError(Exception):
    """A step ended in an accident; carries what :func:`jobs.execution.apply.crashed` needs.

    ``unsent`` is the job when surely none of its calls has left.
    """

    def __init__(self, job_id: str, fence: int, *, unsent: LiveJob | None = None) -> None:
        super().__init__(job_id, fence)
        self.job_id = job_id
        self.fence = fence
        self.unsent = unsent


class _NoCapacityError(Exception):
    """No credential has a permit for this provider's job now (``jobs.dispatch.permits``)."""

    def __init__(self, provider: str) -> None:
        super().__init__(provider)
        self.provider = provider


@dataclass(slots=True)
class Claimed:
    """A job in our hands, its credits held and its calls on record; nothing is sent yet."""

    job: LiveJob
    fresh: Sequence[OpenCall]  # the calls to make now
    parts: OrderParts
    nudges: Sequence[Nudge]
    keep_until: float  # of time.monotonic: how long bytes in hand may wait for the store
    sent: bool = field(default=False)  # whether a paid call may have left


def run(bench: Workbench, job_id: str) -> list[Signal]:
    """Move a QUEUED job as far as one step goes. Returns what to publish.

    Raises JobFailedError when the job has failed and its end is the failure hook's, CrashedStepError on
    an accident after the claim (the sweep's, if the hook fails too).
    """
    claimed = _claim(bench, job_id)
    if claimed is None:
        return _too_late(bench, job_id)
    failpoints.hit("claim.committed")
    bench.publish(claimed.nudges)  # the account's next job does not wait for this one's upstream
    try:
        return apply.finish(bench, claimed.job, _make_calls(bench, claimed), in_task=True)
    except (DatabaseAwayError, StaleJobError, JobFailedError):
        raise  # the rows are as they were, or the hook has all it needs
    except Exception as accident:
        unsent = None if claimed.sent else claimed.job
        raise CrashedStepError(job_id, claimed.job.fence, unsent=unsent) from accident


CANCELLED_UNSEEN = Statement("SELECT 1 AS yes FROM jobs WHERE id = :id AND status = 'cancelled' AND node IS NULL")


def _too_late(bench: Workbench, job_id: str) -> list[Signal]:
    """Of a job cancelled before any worker had it no one has told Flower, which has just seen its message begin."""
    with suppress(DatabaseAwayError), bench.database.hot() as hot:
        if hot.one_or_none(CANCELLED_UNSEEN, {"id": job_id}):
            return [Ended(job_id, "cancelled")]
    return []


# ------------------------------------------------------------------ the claim


def _claim(bench: Workbench, job_id: str) -> Claimed | None:
    """Take the job, in one statement on its first attempt; None when there is nothing to do (now)."""
    call_id = new_id("call")
    try:
        with bench.database.hot() as hot:
            started = _start(bench, hot, job_id, call_id)
            if isinstance(started, Full):
                # A free permit can be missed while others take and give back: once more, before it is put off.
                started = _start(bench, hot, job_id, call_id)
    except DatabaseBusyError:
        _later(bench, job_id)
        return None
    except DatabaseChangedError:
        raise
    except DatabaseAwayError:
        # The statement may have been committed although its answer was lost: look before anything is sent.
        return _recovered(bench, job_id, [call_id[:-1] + "0"])
    except psycopg.IntegrityError:
        _impossible(bench, job_id)
        return None
    if isinstance(started, Full):
        _defer(bench, job_id, started.provider)
        return None
    return _in_hand(bench, started) if started else _claim_step_by_step(bench, job_id)


def _start(bench: Workbench, hot: Hot, job_id: str, call_id: str) -> Started | Full | None:
    return lifecycle.start(
        hot,
        job_id,
        owner=bench.owner,
        node=bench.node,
        providers=bench.usable,
        call_id=call_id,
        backoff_s=decide.RETRY_AFTER_MAX_S,
        window=bench.publish_window,
        most=PUBLISH_AT_CLAIM,
    )


def _in_hand(bench: Workbench, started: Started) -> Claimed:
    fresh = [
        _fresh_call(call_id, slot, 1, images, started.model, started.credential_id, started.intended_at)
        for call_id, slot, images in started.calls
    ]
    job = LiveJob(
        id=started.id,
        account_id=started.account_id,
        operation=started.operation,
        model=started.model,
        provider=started.provider,
        n=started.n,
        status=JobStatus.RUNNING,
        fence=started.fence,
        cancel_requested=False,
        calls=fresh,
        unit_price=started.unit_price,
        fallbacks=started.fallbacks,
        version=started.version,
    )
    nudges = [states.run(started.provider, each) for each in started.published]
    return Claimed(job, fresh, OrderParts(started.request, started.inputs), nudges, _keep_until(bench, job.provider))


def _keep_until(bench: Workbench, provider: str) -> float:
    return time.monotonic() + bench.step_s[provider] - LAST_TRY_S


def _claim_step_by_step(bench: Workbench, job_id: str) -> Claimed | None:
    """The longer way of a retry, or of a message that comes too late."""
    claimed: Claimed | None = None
    try:
        with bench.database.transaction() as connection:
            claimed = _claim_within(connection, bench, job_id)
    except StaleJobError:
        pass
    except _NoCapacityError as full:
        _defer(bench, job_id, full.provider)
    except (IntegrityError, psycopg.IntegrityError):
        _impossible(bench, job_id)
    except UnknownModelError:
        # Accepted with a catalogue that still knew it.
        log.exception("model_has_gone", job_id=job_id)
        _fail_queued(bench, job_id, "model_unavailable")
    except DatabaseBusyError:
        _later(bench, job_id)
    except DatabaseChangedError:
        raise
    except DatabaseAwayError:
        if claimed is None:
            raise
        return _recovered(bench, job_id, [call.id for call in claimed.fresh])
    else:
        return claimed
    return None


def _claim_within(connection: Connection, bench: Workbench, job_id: str) -> Claimed:
    row = lifecycle.claim(
        connection,
        job_id,
        owner=bench.owner,
        node=bench.node,
        step_s=bench.step_s,
        deadline_s=bench.move_within_s,
    )
    job = worker.load(connection, job_id)
    if job is None:
        raise StaleJobError(job_id)
    intents = _plan(bench, job)
    parts = worker.order_parts(connection, job_id)
    permitted = calls.intend(
        connection,
        job_id=job.id,
        provider=job.provider,
        attempt=row.attempt,
        credentials={provider.credential_id: provider.base_url for provider in bench.registry.of(job.provider)},
        intents=intents,
        deadline_s=bench.spec(job.provider).deadline_s,
    )
    if permitted is None:
        raise _NoCapacityError(job.provider)
    nudges: list[Nudge] = []
    if not permitted.limited:  # where permits are few, accounts take turns (jobs/dispatch/refill.py)
        nudges = publishing.fill(
            connection,
            job.account_id,
            job.provider,
            row.weight,
            window=bench.publish_window,
            most=PUBLISH_AT_CLAIM,
        )
    lifecycle.hold(connection, row)
    failpoints.hit("claim.uncommitted")
    fresh = [
        _fresh_call(
            each.id, each.slot, each.attempt, each.image_count, job.model, permitted.credential_id, permitted.at
        )
        for each in permitted.intents
    ]
    return Claimed(replace(job, calls=[*job.calls, *fresh]), fresh, parts, nudges, _keep_until(bench, job.provider))


def _plan(bench: Workbench, job: LiveJob) -> list[Intent]:
    groups = decide.plan(bench.facts(job), max_per_call=bench.model(job.model).max_per_call)
    return [Intent(new_id("call"), slot, attempt, images) for slot, images, attempt in groups]


def _fresh_call(  # noqa: PLR0917 - a row's columns, in their order
    call_id: str, slot: int, attempt: int, images: int, model: str, credential_id: str, intended_at: datetime
) -> OpenCall:
    return OpenCall(
        id=call_id,
        facts=decide.Call(call_id, slot, attempt, images, None, model=model),
        credential_id=credential_id,
        dedupe_key=calls.dedupe_key(call_id),
        upstream_id=None,
        poll_url=None,
        overdue=False,
        age_s=0.0,
        intended_at=intended_at,
        cancel_asked=False,
        missing=False,
        result=(),
    )


def _recovered(bench: Workbench, job_id: str, call_ids: Sequence[str]) -> Claimed | None:
    """What a claim whose COMMIT's answer was lost has written; None where it has written nothing.

    Raises DatabaseAwayError: unreadable means that nothing is sent.
    """
    with bench.database.hot() as hot:
        if not calls.on_record(hot, call_ids):
            return None
        job = worker.load(hot, job_id)
        if job is None or job.status is not JobStatus.RUNNING:
            return None
        parts = worker.order_parts(hot, job_id)
    fresh = [call for call in job.calls if call.outcome is None]
    return Claimed(job, fresh, parts, [], _keep_until(bench, job.provider))


def _later(bench: Workbench, job_id: str) -> None:
    """Others hold the rows this claim needs: nothing has happened, and it comes again soon, not all at once."""
    log.info("claim_waits_for_rows", job_id=job_id)
    with suppress(DatabaseBusyError), bench.database.hot() as hot:
        lifecycle.defer(hot, job_id, after_s=BUSY_S, spread_s=BUSY_S)


def _impossible(bench: Workbench, job_id: str) -> None:
    """The books or the tables forbid this claim: no later one will do better, and the log says which rule it was."""
    log.exception("claim_refused_by_the_database", job_id=job_id)
    _fail_queued(bench, job_id, "internal_error")


def _defer(bench: Workbench, job_id: str, provider: str) -> None:
    known = [each.credential_id for each in bench.registry.of(provider)]
    with bench.database.transaction() as connection:
        seen = permits.outlook(connection, provider, known)
        later = permits.put_off(seen)
        lifecycle.defer(connection, job_id, after_s=later.least_s, spread_s=later.spread_s)
    if seen.closed:
        _turn_elsewhere(bench, job_id)


def _turn_elsewhere(bench: Workbench, job_id: str) -> None:
    """The provider takes no one now; an order that names other models need not wait for it."""
    signals: list[Signal] = []
    with suppress(StaleJobError), bench.database.transaction() as connection:
        signals = lifecycle.fail_over(connection, job_id, None, code="provider_closed", deadline_s=bench.move_within_s)
    bench.publish(signals)


def _fail_queued(bench: Workbench, job_id: str, code: str) -> None:
    """End a job that no worker can start; one that has moved on meanwhile is left alone."""
    with suppress(StaleJobError), bench.database.hot() as hot:
        job = worker.load(hot, job_id)
        if job is not None and job.status is JobStatus.QUEUED:
            bench.publish(lifecycle.end(hot, job_id, job.version, lifecycle.fail(code)).signals)


# ------------------------------------------------------------------ the paid calls


def _make_calls(bench: Workbench, claimed: Claimed) -> list[Answer]:
    mine = claimed.fresh
    try:
        orders = {call.id: build_order(bench, claimed.job, claimed.parts, call) for call in mine}
        provider = bench.registry.by_credential(mine[0].credential_id)
    except (StorageUnavailableError, BlobNotFoundError) as error:
        log.warning("inputs_not_readable", job_id=claimed.job.id, error=type(error).__name__)
        return _not_sent(mine, NotRun("storage_unavailable"))
    except UnknownModelError:
        # Accepted with a catalogue that still knew it.
        log.exception("model_has_gone", job_id=claimed.job.id)
        return _not_sent(mine, Misconfigured("model_unavailable"))
    except Exception:
        # A fault of ours, but surely nothing was sent: there is nothing to be uncertain about.
        log.exception("order_not_built", job_id=claimed.job.id)
        return _not_sent(mine, NotRun("internal_error"))
    claimed.sent = True
    return side_by_side(lambda call: _call(bench, provider, claimed, call, order=orders[call.id]), mine)


def _not_sent(mine: Sequence[OpenCall], why: ProviderError) -> list[Answer]:
    return [outcomes.from_error(call.facts, why, may_look_up=False) for call in mine]


def _call(bench: Workbench, provider: Provider, claimed: Claimed, call: OpenCall, *, order: UpstreamOrder) -> Answer:
    """The one paid call, and its images if the answer is the images."""
    job = claimed.job
    may_look_up = bench.spec(job.provider).recovery is not Recovery.NEVER
    try:
        answer = provider.submit(order, dedupe_key=call.dedupe_key)
    except ProviderError as error:
        log.info("call_failed", job_id=job.id, call_id=call.id, kind=type(error).__name__, code=error.code)
        return outcomes.from_error(call.facts, error, may_look_up=may_look_up)
    except Exception:
        # A fault of ours with a request possibly out: no one may assume it did not run.
        log.exception("call_crashed", job_id=job.id, call_id=call.id)
        return outcomes.from_error(call.facts, Uncertain("upstream_uncertain"), may_look_up=may_look_up)
    failpoints.hit("call.answered")
    if isinstance(answer, Accepted):
        return outcomes.accepted(call.facts, answer, deadline_s=bench.spec(job.provider).deadline_s)
    return _keep(bench, provider, claimed, call.facts, answer)


def _keep(bench: Workbench, provider: Provider, claimed: Claimed, call: decide.Call, answer: Finished) -> Answer:
    job, until = claimed.job, claimed.keep_until
    kind = bench.output(job.model)
    try:
        return outcomes.keep(
            bench.media, provider, job.id, call, answer.images, kind=kind, until=until, cost=answer.cost
        )
    except (ProviderError, StorageUnavailableError):
        return outcomes.finished(call, answer)  # links can be fetched by a later step


def build_order(bench: Workbench, job: LiveJob, parts: OrderParts, call: OpenCall) -> UpstreamOrder:
    """The order of one call from its row. Raises StorageUnavailableError, BlobNotFoundError, DatabaseAwayError."""
    request = parts.request
    images: dict[str, list[InputImage]] = {"image": [], "mask": [], "face": []}
    model = bench.model(job.model)
    for row in parts.inputs:
        images[row["role"]].append(_input(bench, model, row))
    return UpstreamOrder(
        operation=job.operation,
        model=model,
        prompt=request.get("prompt"),
        n=call.facts.image_count,
        size=request.get("size") or {},
        params=request.get("params") or {},
        extra=request.get("extra") or {},
        images=images["image"],
        mask=next(iter(images["mask"]), None),
        face=next(iter(images["face"]), None),
        callback_url=bench.callback_url(job.provider, call.id),
    )


def _input(bench: Workbench, model: Model, row: Mapping[str, Any]) -> InputImage:
    """A kept image for its adapter; a mask in the polarity of the model that gets it."""
    key = row["key"]
    if row["role"] == "mask" and model.inputs.mask_polarity == "white_edits":
        key = bench.media.white_mask(key).key
    return InputImage(bench.store.read(key), row["mime"], row["width_px"], row["height_px"])
