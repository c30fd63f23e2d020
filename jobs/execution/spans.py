"""The spans of a job's steps: what each is called and what it says. Neither prompts nor addresses are told.

They hang on the trace that lies with the job (``orders.traceparent``), so the steps of all workers are in one tree.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from core import tracing
from core.tracing import Attributes, Span
from jobs.call import Call
from jobs.execution.outcomes import CallOutcome
from jobs.reads.worker import LiveJob
from jobs.states import Outcome
from providers.base import Provider

# Where the semantic conventions of OpenTelemetry have a name of their own for a provider.
_PROVIDERS = {"gemini": "gcp.gemini", "xai": "x_ai"}
_MADE = frozenset({Outcome.ACCEPTED, Outcome.FINISHED, Outcome.KEPT})


def run(job: LiveJob, *, began_ns: int) -> AbstractContextManager[Span]:
    """A span from a message's arrival, through the claim, to the end of the step."""
    told = {
        "messaging.destination.name": job.provider,
        "messaging.operation.name": "jobs.run",
        "messaging.operation.type": "process",
        "messaging.message.id": job.id,
    }
    return tracing.span(
        f"jobs.run {job.provider}",
        "consumer",
        of=job.traceparent,
        attributes={**_of_job(job), **told},
        began_ns=began_ns,
    )


def poll(job: LiveJob, *, began_ns: int) -> AbstractContextManager[Span]:
    """A span of what a batch of status checks does for one job for which it found something."""
    return tracing.span(f"jobs.poll {job.provider}", of=job.traceparent, attributes=_of_job(job), began_ns=began_ns)


def looked(job: LiveJob, times_ns: tuple[int, int]) -> None:
    """Record how long a batch of status checks took; its requests are about many jobs."""
    told = {"gen_ai.provider.name": _provider(job.provider)}
    tracing.past(f"check {job.provider}", "client", of=job.traceparent, attributes=told, times_ns=times_ns)


def finish(job: LiveJob, decision: str) -> AbstractContextManager[Span]:
    """A span of recording a step and moving the job on; ``decision`` is the class of what was decided."""
    told = {"darkroom.job.id": job.id, "darkroom.decision": decision}
    return tracing.span("jobs.finish", of=job.traceparent, attributes=told)


def call(job: LiveJob, call: Call, provider: Provider) -> AbstractContextManager[Span]:
    """A span of one paid request."""
    return tracing.span(
        f"generate_content {call.model}",
        "client",
        of=job.traceparent,
        attributes={
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": _provider(job.provider),
            "gen_ai.request.model": call.model,
            "gen_ai.request.choice.count": call.image_count,
            "server.address": urlsplit(provider.base_url).hostname,
            "darkroom.call.id": call.id,
            "darkroom.attempt": call.attempt,
            "darkroom.operation": job.operation,
        },
    )


def called(span: Span, learned: CallOutcome, *, status: int | None) -> None:
    """Say how a paid request ended; ``status`` is that of HTTP, where it is known."""
    span.set(
        {
            "darkroom.outcome": learned.outcome.value,
            "gen_ai.response.id": learned.upstream_id,
            "http.response.status_code": status,
        }
    )
    if learned.outcome not in _MADE:
        span.fail(learned.call.code or learned.outcome.value)


def chat(provider: str) -> AbstractContextManager[Span]:
    """A span of asking a language model."""
    told = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": _provider(provider)}
    return tracing.span(f"chat {provider}", "client", attributes=told)


def image(job_id: str, index: int, *, url: str | None, kind: str) -> AbstractContextManager[Span]:
    """A span of fetching an image and storing it, with what is tried again; only the host of its link is told."""
    told: Attributes = {
        "darkroom.job.id": job_id,
        "darkroom.image.index": index,
        "gen_ai.output.type": kind,
        "server.address": urlsplit(url).hostname if url else None,
    }
    return tracing.span("images.fetch" if url else "images.store", "client" if url else "internal", attributes=told)


def _of_job(job: LiveJob) -> dict[str, str | None]:
    return {
        "darkroom.job.id": job.id,
        "darkroom.account.id": job.account_id,
        "darkroom.operation": job.operation,
        "gen_ai.provider.name": _provider(job.provider),
        "gen_ai.request.model": job.model,
        "darkroom.request.id": job.request_id or None,
    }


def _provider(name: str) -> str:
    return _PROVIDERS.get(name, name)
