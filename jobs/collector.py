"""Collecting: fetch and keep the pictures of finished calls at once, for their links die in minutes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog

from core import failpoints
from core.errors import DatabaseAwayError
from jobs import answers, lifecycle, loading, steps
from jobs.answers import Answer
from jobs.errors import StaleJobError
from jobs.loading import LiveJob, OpenCall
from jobs.runner import CrashedStepError
from jobs.states import JobStatus, Nudge, Outcome
from jobs.workbench import Workbench
from providers.base import ResultImage
from providers.errors import Failed, ProviderError
from providers.registry import UnknownCredentialError
from storage.base import StorageUnavailableError

log = structlog.get_logger(__name__)


def collect(bench: Workbench, job_id: str) -> list[Nudge]:
    """Take a WAITING job with finished calls and keep their pictures. Returns nudges to publish."""
    try:
        with bench.database.transaction() as connection:
            job = loading.load(connection, job_id)
            if job is None or job.status is not JobStatus.WAITING or not _finished(job):
                return []
            fence = lifecycle.found(connection, job.id, job.fence, owner=bench.owner, step_s=bench.step_s)
    except StaleJobError:
        return []
    return keep_found(bench, job, fence)


def keep_found(bench: Workbench, job: LiveJob, fence: int) -> list[Nudge]:
    """Keep the pictures of a job already in our hands, and move it on. Raises CrashedStepError."""
    failpoints.hit("found.committed")
    mine = _in_our_hands(job, fence)
    try:
        news = [answer for call in _finished(mine) if (answer := _keep(bench, mine, call))]
        return steps.finish(bench, mine, news)
    except (DatabaseAwayError, StaleJobError):
        raise
    except Exception as accident:
        raise CrashedStepError(job.id, fence) from accident


def _in_our_hands(job: LiveJob, fence: int) -> LiveJob:
    return replace(job, status=JobStatus.RUNNING, fence=fence)


def _finished(job: LiveJob) -> list[OpenCall]:
    return [call for call in job.calls if call.outcome is Outcome.FINISHED]


def _keep(bench: Workbench, job: LiveJob, call: OpenCall) -> Answer | None:
    """None: not now; the call stays finished and is looked at again."""
    try:
        provider = bench.registry.by_credential(call.credential_id)
        links = [_result(link) for link in call.result]
        kind = bench.output(call.facts.model)
        return answers.keep(bench.media, provider, job.id, call.facts, links, kind=kind)
    except DatabaseAwayError:
        raise
    except (ProviderError, StorageUnavailableError, UnknownCredentialError) as error:
        log.warning("result_not_fetched_yet", job_id=job.id, call_id=call.id, error=type(error).__name__)
    except Exception:
        # Whatever breaks here would break again at once: the call's own deadline bounds the trying.
        log.exception("keeping_crashed", job_id=job.id, call_id=call.id)
    if not call.overdue:
        return None
    gone = Failed("result_unavailable", retryable=False, billed=True)
    return answers.from_error(call.facts, gone, may_look_up=False)


def _result(link: Mapping[str, Any]) -> ResultImage:
    return ResultImage(url=link["url"], seed=link["seed"], revised_prompt=link["revised_prompt"])
