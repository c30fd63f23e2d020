"""Running a job: claim it, make its paid calls, move it on.

No transaction is open and no connection is held while an upstream works.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from core import failpoints
from core.db import Statement
from core.errors import DatabaseAwayError
from core.parallel import side_by_side
from jobs import counts
from jobs.call import Call
from jobs.errors import JobFailedError, StaleJobError
from jobs.execution import adjusting, collect, log_fields, outcomes, spans, upstream_time
from jobs.execution.claim import Claimed, claim
from jobs.execution.context import WorkerContext
from jobs.execution.finish import finish
from jobs.execution.outcomes import CallOutcome
from jobs.execution.upstream_order import build_order
from jobs.reads.worker import LiveJob
from jobs.states import Ended, Signal
from providers.base import Accepted, Finished, Provider, UpstreamOrder
from providers.catalog.catalog import UnknownModelError
from providers.catalog.entries import Recovery
from providers.errors import Misconfigured, NotRun, ProviderError, Uncertain
from providers.http import answers
from providers.registry import UnknownCredentialError
from providers.shared import raw_answers
from storage.base import BlobNotFoundError, StorageUnavailableError

log = structlog.get_logger(__name__)


class CrashedStepError(Exception):
    """A step crashed after its claim; holds what :func:`jobs.execution.give_up.after_crash` needs.

    ``unsent`` is the job if certainly none of its calls was sent.
    """

    def __init__(self, job_id: str, fence: int, *, unsent: LiveJob | None = None) -> None:
        super().__init__(job_id, fence)
        self.job_id = job_id
        self.fence = fence
        self.unsent = unsent


def run_job(context: WorkerContext, job_id: str) -> list[Signal]:
    """Claim a QUEUED job, make its paid calls and move it on. Returns the signals to publish.

    Raises JobFailedError when the job has failed, so that the failure hook ends it, CrashedStepError on a crash after
    the claim, and DatabaseAwayError.
    """
    began_ns = time.time_ns()
    claimed = claim(context, job_id)
    if claimed is None:
        adjusted = adjusting.adjust(context, job_id)
        return _report_unseen_cancel(context, job_id) if adjusted is None else adjusted
    failpoints.hit("claim.committed")
    context.publish(claimed.nudges)  # the account's next job need not wait for this one's upstream
    attempt = max((call.attempt for call in claimed.fresh), default=None)
    with log_fields.of(claimed.job, attempt=attempt), spans.run(claimed.job, began_ns=began_ns):
        return _perform(context, claimed)


def _perform(context: WorkerContext, claimed: Claimed) -> list[Signal]:
    """Make the calls of a claimed job and move it on. Raises what :func:`run_job` does."""
    job_id = claimed.job.id
    began = time.monotonic()
    try:
        learned = _make_calls(context, claimed)
        signals = finish(context, claimed.job, learned, in_task=True)
    except (DatabaseAwayError, StaleJobError, JobFailedError):
        raise  # the rows are unchanged, or the failure hook has all it needs
    except Exception as accident:
        unsent = None if claimed.sent else claimed.job
        raise CrashedStepError(job_id, claimed.job.fence, unsent=unsent) from accident
    else:
        upstream_time.note_own_delay(claimed.job.provider, signals, answered_at=claimed.answered_at)
        return signals
    finally:
        counts.STATE_SECONDS.of("running").observe(time.monotonic() - began)


CANCELLED_UNSEEN = Statement("SELECT 1 AS yes FROM jobs WHERE id = :id AND status = 'cancelled' AND node IS NULL")


def _report_unseen_cancel(context: WorkerContext, job_id: str) -> list[Signal]:
    """Report the cancel of a job that no worker ever had: Flower has just seen its message start."""
    with suppress(DatabaseAwayError), context.database.hot() as hot:
        if hot.one_or_none(CANCELLED_UNSEEN, {"id": job_id}):
            return [Ended(job_id, "cancelled")]
    return []


def _make_calls(context: WorkerContext, claimed: Claimed) -> list[CallOutcome]:
    """Make the paid calls of a claimed job in parallel. Returns the outcome of each."""
    mine = claimed.fresh
    try:
        orders = {call.id: build_order(context, claimed.job, claimed.parts, call) for call in mine}
        provider = context.registry.by_credential(mine[0].credential_id)
    except (StorageUnavailableError, BlobNotFoundError) as error:
        log.warning("inputs_not_readable", job_id=claimed.job.id, error=type(error).__name__)
        return _not_sent(mine, NotRun("storage_unavailable"))
    except UnknownModelError:
        # The model was in the catalogue when the order was accepted.
        log.exception("model_has_gone", job_id=claimed.job.id)
        return _not_sent(mine, Misconfigured("model_unavailable"))
    except UnknownCredentialError:
        # An account's own key: deleted since the claim, or sealed by a secret that is not set here.
        log.warning("own_key_unusable", job_id=claimed.job.id, credential=mine[0].credential_id)
        return _not_sent(mine, Misconfigured("own_key_unusable"))
    except Exception:
        # A fault of ours before anything was sent, so the calls certainly did not run.
        log.exception("order_not_built", job_id=claimed.job.id)
        return _not_sent(mine, NotRun("internal_error"))
    claimed.sent = True
    return side_by_side(lambda call: _call(context, provider, claimed, call, order=orders[call.id]), mine)


def _not_sent(mine: Sequence[Call], why: ProviderError) -> list[CallOutcome]:
    return [outcomes.from_error(call, why, may_look_up=False) for call in mine]


def _call(
    context: WorkerContext, provider: Provider, claimed: Claimed, call: Call, *, order: UpstreamOrder
) -> CallOutcome:
    """Make one paid call, and store its images if the answer holds them."""
    job = claimed.job
    with spans.call(job, call, provider) as span, answers.listening(on=context.keep_raw) as heard:
        learned, answer = _send(context, provider, job, call, order=order)
        spans.called(span, learned, status=heard.status)
        raw = raw_answers.document(heard)
    if answer is not None:
        failpoints.hit("call.answered")
        claimed.answered_at = time.monotonic()
    if isinstance(answer, Finished):
        learned = _keep(context, provider, claimed, call, answer)
    return replace(learned, raw=raw)


def _send(
    context: WorkerContext, provider: Provider, job: LiveJob, call: Call, *, order: UpstreamOrder
) -> tuple[CallOutcome, Accepted | Finished | None]:
    """Send one paid request. Returns its outcome before any image is stored, and the answer if there is one."""
    may_look_up = context.spec(job.provider).recovery is not Recovery.NEVER
    try:
        with upstream_time.measured(job.provider, "submit"):
            answer = provider.submit(order, dedupe_key=call.dedupe_key)
    except ProviderError as error:
        log.info("call_failed", job_id=job.id, call_id=call.id, kind=type(error).__name__, code=error.code)
        return outcomes.from_error(call, error, may_look_up=may_look_up), None
    except Exception:
        # A fault of ours after the request may have been sent, so the call may have run.
        log.exception("call_crashed", job_id=job.id, call_id=call.id)
        return outcomes.from_error(call, Uncertain("upstream_uncertain"), may_look_up=may_look_up), None
    if isinstance(answer, Accepted):
        return outcomes.accepted(call, answer, deadline_s=context.spec(job.provider).deadline_s), answer
    return outcomes.finished(call, answer), answer


def _keep(context: WorkerContext, provider: Provider, claimed: Claimed, call: Call, answer: Finished) -> CallOutcome:
    job, until = claimed.job, claimed.keep_until
    kind = context.output(job.model)
    try:
        return collect.keep(
            context.media, provider, job.id, call, answer.images, kind=kind, until=until, cost=answer.cost
        )
    except (ProviderError, StorageUnavailableError):
        return outcomes.finished(call, answer)  # a later step fetches the links
