"""Collecting: fetch and keep the images of finished calls at once, for their links die in minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from core import failpoints
from core.errors import DatabaseAwayError
from jobs.execution import outcomes
from jobs.execution.context import WorkerContext
from jobs.execution.outcomes import Answer
from jobs.reads.worker import LiveJob, OpenCall
from jobs.states import Outcome
from providers.base import Finished, ResultImage
from providers.errors import Failed, ProviderError
from providers.registry import UnknownCredentialError
from storage.base import StorageUnavailableError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """A call whose images wait to be fetched. ``fresh``: the upstream has said so just now."""

    call: OpenCall
    images: Sequence[ResultImage]
    fresh: Finished | None = None


def on_record(job: LiveJob) -> list[Made]:
    """Calls that an earlier step found finished and could not keep."""
    return [
        Made(call, [_result(link) for link in call.result]) for call in job.calls if call.outcome is Outcome.FINISHED
    ]


def keep(context: WorkerContext, job: LiveJob, made: Sequence[Made]) -> list[Answer]:
    """Fetch and keep the images of a job's finished calls: what became of each call.

    A call whose images cannot be had now is left out if that is on record already, else it is finished,
    with its links; the job is looked at again.
    """
    failpoints.hit("found.unkept")
    return [answer for each in made if (answer := _keep(context, job, each))]


def _keep(context: WorkerContext, job: LiveJob, made: Made) -> Answer | None:
    call = made.call
    try:
        provider = context.registry.by_credential(call.credential_id)
        return outcomes.keep(
            context.media,
            provider,
            job.id,
            call.facts,
            made.images,
            kind=context.output(call.facts.model),
            cost=made.fresh.cost if made.fresh else None,
        )
    except DatabaseAwayError:
        raise
    except (ProviderError, StorageUnavailableError, UnknownCredentialError) as error:
        log.warning("result_not_fetched_yet", job_id=job.id, call_id=call.id, error=type(error).__name__)
    except Exception:
        # Whatever breaks here would break again at once: the call's own deadline bounds the trying.
        log.exception("keeping_crashed", job_id=job.id, call_id=call.id)
    if call.overdue:
        gone = Failed("result_unavailable", retryable=False, billed=True)
        return outcomes.from_error(call.facts, gone, may_look_up=False)
    return outcomes.finished(call.facts, made.fresh) if made.fresh else None


def _result(link: Mapping[str, Any]) -> ResultImage:
    return ResultImage(url=link["url"], seed=link["seed"], revised_prompt=link["revised_prompt"])
