"""Passing a cancellation on to the upstream, once per call. Only a confirmed cancel counts."""

from __future__ import annotations

import structlog

from jobs.call import Call
from jobs.execution.context import WorkerContext
from jobs.execution.outcomes import CallOutcome
from jobs.lifecycle import calls
from jobs.reads.worker import LiveJob
from jobs.states import Outcome
from providers.base import UpstreamCancel
from providers.errors import ProviderError
from providers.registry import UnknownCredentialError

log = structlog.get_logger(__name__)


def cancel_calls(context: WorkerContext, job: LiveJob) -> list[CallOutcome]:
    """Cancel each accepted call upstream once, if the caller has cancelled the job.

    Returns the outcomes of the calls that the upstream confirmed it stopped. Raises DatabaseAwayError.
    """
    if not job.cancel_requested:
        return []
    return [stopped for call in job.calls if (stopped := _cancel(context, call))]


def _cancel(context: WorkerContext, call: Call) -> CallOutcome | None:
    if call.outcome is not Outcome.ACCEPTED or call.cancel_asked:
        return None
    if cancel_upstream(context, call):
        return CallOutcome(call, Outcome.CANCELLED)
    with context.database.hot() as hot:
        calls.note_cancel_asked(hot, call.id)
    return None


def cancel_upstream(context: WorkerContext, call: Call) -> bool:
    """Ask the upstream to stop the call and return whether it confirmed. A failed request is only logged."""
    try:
        provider = context.registry.by_credential(call.credential_id)
        return provider.cancel(call) is UpstreamCancel.STOPPED
    except (ProviderError, UnknownCredentialError) as error:
        log.info("cancel_not_answered", call_id=call.id, error=str(error))
        return False
