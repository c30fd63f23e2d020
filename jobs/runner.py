"""Running a job: claim it, hold its credits, write the intent down, make the paid call, move on.

No transaction is open and no connection is held while an upstream thinks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Row
from sqlalchemy.exc import IntegrityError

from core import failpoints
from core.errors import DatabaseAwayError
from core.ids import new_id
from jobs import answers, calls, capacity, decide, lifecycle, loading, publishing, steps
from jobs.answers import Answer
from jobs.calls import Intent, Seated
from jobs.errors import StaleJobError
from jobs.loading import LiveJob, OpenCall, OrderParts
from jobs.states import JobStatus, Nudge
from jobs.workbench import Workbench, side_by_side
from providers.base import Accepted, Finished, InputImage, Order, Provider
from providers.catalog import Model, UnknownModelError
from providers.errors import NotRun, ProviderError, Uncertain
from storage.base import BlobNotFoundError, StorageUnavailableError

log = structlog.get_logger(__name__)

# A claim makes room for one; a few more catch up after a burst of endings.
PUBLISH_AT_CLAIM = 4
# The last try to keep a picture begins so long before the step's end: a silent store takes half a minute to fail.
LAST_TRY_S = 30.0


class CrashedStepError(Exception):
    """A step ended in an accident; carries what the failure hook needs."""

    def __init__(self, job_id: str, fence: int) -> None:
        super().__init__(job_id, fence)
        self.job_id = job_id
        self.fence = fence


class _NoCapacityError(Exception):
    """No credential has a seat for this provider's job now (``jobs.capacity``)."""

    def __init__(self, provider: str) -> None:
        super().__init__(provider)
        self.provider = provider


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job in our hands, its credits held and its calls on record; nothing is sent yet."""

    job: LiveJob
    seated: Seated
    parts: OrderParts
    nudges: Sequence[Nudge]
    keep_until: float  # of time.monotonic: how long bytes in hand may wait for the store


def run(bench: Workbench, job_id: str) -> list[Nudge]:
    """Move a QUEUED job as far as one step goes. Returns nudges to publish.

    Raises CrashedStepError on an accident after the claim; the job is then in the failure hook's
    hands, and in the sweep's if that fails too.
    """
    claimed = _claim(bench, job_id)
    if claimed is None:
        return []
    failpoints.hit("claim.committed")
    bench.publish(claimed.nudges)  # the account's next job does not wait for this one's upstream
    try:
        return steps.finish(bench, claimed.job, _make_calls(bench, claimed))
    except (DatabaseAwayError, StaleJobError):
        raise  # the rows are as they were; the sweep finds the job
    except Exception as accident:
        raise CrashedStepError(job_id, claimed.job.fence) from accident


def _claim(bench: Workbench, job_id: str) -> Claimed | None:
    """Claim, intend and hold in one transaction; None when there is nothing to do (now)."""
    intents: list[Intent] = []
    claimed: Claimed | None = None
    try:
        with bench.database.transaction() as connection:
            claimed = _claim_within(connection, bench, job_id, intents)
    except StaleJobError:
        return None
    except _NoCapacityError as full:
        _defer(bench, job_id, full.provider)
        return None
    except IntegrityError:
        log.exception("hold_refused", job_id=job_id)
        _fail_queued(bench, job_id, "insufficient_credits")
        return None
    except UnknownModelError:
        # Accepted with a catalogue that still knew it.
        log.exception("model_has_gone", job_id=job_id)
        _fail_queued(bench, job_id, "model_unavailable")
        return None
    except DatabaseAwayError:
        # The COMMIT may have happened although its answer was lost: look before anything is sent.
        if claimed is None or not _on_record(bench, claimed):
            raise
    return claimed


def _claim_within(connection: Connection, bench: Workbench, job_id: str, intents: list[Intent]) -> Claimed:
    row = lifecycle.claim(connection, job_id, owner=bench.owner, step_s=bench.step_s)
    job = _claimed_job(connection, row)
    intents += _plan(bench, job)
    # Read before the credential is locked: every claim of the fleet waits for that row until our COMMIT.
    parts = loading.order_parts(connection, job_id)
    spec = bench.spec(job.provider)
    seated = calls.intend(
        connection,
        job_id=job.id,
        provider=job.provider,
        model=job.model,
        credentials={provider.credential_id: provider.base_url for provider in bench.registry.of(job.provider)},
        intents=intents,
        deadline_s=spec.deadline_s,
        unit_price=job.unit_price,
    )
    if seated is None:
        raise _NoCapacityError(job.provider)
    nudges: list[Nudge] = []
    if seated.endless:  # where seats are few, accounts take turns (jobs/refill.py)
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
    keep_until = time.monotonic() + bench.step_s[job.provider] - LAST_TRY_S
    return Claimed(_with_calls(job, seated), seated, parts, nudges, keep_until)


def _claimed_job(connection: Connection, row: Row[Any]) -> LiveJob:
    """The job from the claim's own row; only a retried one has calls to read."""
    if row.attempt == 0:
        return LiveJob(
            id=row.id,
            account_id=row.account_id,
            operation=row.operation,
            model=row.model,
            provider=row.provider,
            n=row.n,
            status=JobStatus.RUNNING,
            fence=row.fence,
            cancel_requested=False,
            calls=(),
            unit_price=row.unit_price,
            fallbacks=row.fallbacks,
        )
    job = loading.load(connection, row.id)
    if job is None:
        raise StaleJobError(row.id)
    return job


def _plan(bench: Workbench, job: LiveJob) -> list[Intent]:
    groups = decide.plan(bench.facts(job), max_per_call=bench.model(job.model).max_per_call)
    return [_intent(slot, pictures, attempt) for slot, pictures, attempt in groups]


def _intent(slot: int, pictures: int, attempt: int) -> Intent:
    call_id = new_id("call")
    # The key is made before the first byte leaves and never changes: it is what makes a repeat safe.
    return Intent(call_id, slot, attempt, pictures, dedupe_key=f"dr-{call_id.removeprefix('call_').lower()}")


def _with_calls(job: LiveJob, seated: Seated) -> LiveJob:
    fresh = [
        OpenCall(
            id=intent.id,
            facts=decide.Call(intent.id, intent.slot, intent.attempt, intent.pictures, None, model=job.model),
            credential_id=seated.credential_id,
            dedupe_key=intent.dedupe_key,
            upstream_id=None,
            poll_url=None,
            overdue=False,
            age_s=0.0,
            intended_at=datetime.now(UTC),
            cancel_asked=False,
            missing=False,
            result=(),
        )
        for intent in seated.intents
    ]
    return replace(job, calls=[*job.calls, *fresh])


def _make_calls(bench: Workbench, claimed: Claimed) -> list[Answer]:
    by_id = {call.id: call for call in claimed.job.calls}
    mine = [by_id[intent.id] for intent in claimed.seated.intents]
    keys = {intent.id: intent.dedupe_key for intent in claimed.seated.intents}
    try:
        orders = {call.id: build_order(bench, claimed.job, claimed.parts, call) for call in mine}
        provider = bench.registry.by_credential(claimed.seated.credential_id)
    except (StorageUnavailableError, BlobNotFoundError) as error:
        log.warning("inputs_not_readable", job_id=claimed.job.id, error=type(error).__name__)
        return [answers.from_error(call.facts, NotRun("storage_unavailable"), may_look_up=False) for call in mine]
    except Exception:
        # A fault of ours, but surely nothing was sent: there is nothing to be uncertain about.
        log.exception("order_not_built", job_id=claimed.job.id)
        return [answers.from_error(call.facts, NotRun("internal_error"), may_look_up=False) for call in mine]
    return side_by_side(
        lambda call: _call(bench, provider, claimed, call.facts, order=orders[call.id], dedupe_key=keys[call.id]),
        mine,
    )


def _call(
    bench: Workbench, provider: Provider, claimed: Claimed, call: decide.Call, *, order: Order, dedupe_key: str
) -> Answer:
    """The one paid call, and its pictures if the answer is the pictures."""
    job = claimed.job
    may_look_up = bench.spec(job.provider).uncertain_class != "C"
    try:
        answer = provider.submit(order, dedupe_key=dedupe_key)
    except ProviderError as error:
        log.info("call_failed", job_id=job.id, call_id=call.id, kind=type(error).__name__, code=error.code)
        return answers.from_error(call, error, may_look_up=may_look_up)
    except Exception:
        # A fault of ours with a request possibly out: nobody may assume it did not run.
        log.exception("call_crashed", job_id=job.id, call_id=call.id)
        return answers.from_error(call, Uncertain("upstream_uncertain"), may_look_up=may_look_up)
    failpoints.hit("call.answered")
    if isinstance(answer, Accepted):
        return answers.accepted(call, answer, deadline_s=bench.spec(job.provider).deadline_s)
    return _keep(bench, provider, claimed, call, answer)


def _keep(bench: Workbench, provider: Provider, claimed: Claimed, call: decide.Call, answer: Finished) -> Answer:
    job, until = claimed.job, claimed.keep_until
    try:
        return answers.keep(
            bench.media, provider, job.id, call, answer.images, kind=bench.output(job.model), until=until
        )
    except (ProviderError, StorageUnavailableError):
        return answers.finished(call, answer)  # links can be fetched by a later step


def build_order(bench: Workbench, job: LiveJob, parts: OrderParts, call: OpenCall) -> Order:
    """The order of one call from its row. Raises StorageUnavailableError, BlobNotFoundError, DatabaseAwayError."""
    request = parts.request
    images: dict[str, list[InputImage]] = {"image": [], "mask": [], "face": []}
    model = bench.model(job.model)
    for row in parts.inputs:
        images[row["role"]].append(_input(bench, model, row))
    return Order(
        operation=job.operation,
        model=model,
        prompt=request.get("prompt"),
        n=call.facts.pictures,
        size=request.get("size") or {},
        params=request.get("params") or {},
        extra=request.get("extra") or {},
        images=images["image"],
        mask=next(iter(images["mask"]), None),
        face=next(iter(images["face"]), None),
        callback_url=bench.callback_url(job.provider, call.id),
    )


def _input(bench: Workbench, model: Model, row: Mapping[str, Any]) -> InputImage:
    """A kept picture for its adapter; a mask in the polarity of the model that gets it."""
    key = row["key"]
    if row["role"] == "mask" and model.inputs.mask_polarity == "white_edits":
        key = bench.media.white_mask(key).key
    return InputImage(bench.store.read(key), row["mime"], row["width_px"], row["height_px"])


def _defer(bench: Workbench, job_id: str, provider: str) -> None:
    known = [each.credential_id for each in bench.registry.of(provider)]
    with bench.database.transaction() as connection:
        seen = capacity.outlook(connection, provider, known)
        later = capacity.put_off(seen)
        lifecycle.defer(connection, job_id, after_s=later.least_s, spread_s=later.spread_s)
    if seen.closed:
        _turn_elsewhere(bench, job_id)


def _turn_elsewhere(bench: Workbench, job_id: str) -> None:
    """The provider takes nobody now; an order that names other models need not wait for it."""
    nudges: list[Nudge] = []
    with suppress(StaleJobError), bench.database.transaction() as connection:
        nudges = lifecycle.fail_over(connection, job_id, None, code="provider_closed")
    bench.publish(nudges)


def _fail_queued(bench: Workbench, job_id: str, code: str) -> None:
    with bench.database.transaction() as connection:
        nudges = lifecycle.fail(connection, job_id, None, code=code, sources={JobStatus.QUEUED})
    bench.publish(nudges)


def _on_record(bench: Workbench, claimed: Claimed) -> bool:
    with bench.database.autocommit() as connection:
        return calls.on_record(connection, [intent.id for intent in claimed.seated.intents])
