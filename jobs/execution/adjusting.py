"""Adjusting a refused prompt: a language model rewrites it once to keep to the policy.

The job is queued meanwhile and no worker holds it. Two workers may rewrite it at once; the first one stores its
wording, and the other one's is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from core import failpoints, tracing
from jobs import lifecycle
from jobs.errors import StaleJobError
from jobs.execution import decide, spans
from jobs.execution.context import WorkerContext
from jobs.reads import worker
from jobs.states import Signal
from providers.catalog.catalog import UnknownModelError
from providers.errors import ProviderError
from providers.orders.texts import clean_text
from providers.prompts import SAFE

log = structlog.get_logger(__name__)

# So many language models are asked, one after the other, until one has a wording.
MODELS_ASKED = 2
# Longer than a rewriting takes in earnest. One that takes longer may be done twice, which costs next to nothing.
LEASE_S = 60.0
MAX_CHARS = 32_000


def adjust(context: WorkerContext, job_id: str) -> list[Signal] | None:
    """Give a job whose prompt was refused another wording, or end it where there is none.

    Returns the signals to publish; None for a job that waits for no wording, or that someone else is at. Raises
    DatabaseAwayError.
    """
    with context.database.hot() as hot:
        taken = lifecycle.take_adjusting(hot, job_id, lease_s=LEASE_S)
    if taken is None:
        return None
    with tracing.span("jobs.adjust", of=taken.traceparent, attributes={"darkroom.job.id": job_id}):
        wording = _rewritten(context, taken.prompt, most_chars=_most_chars(context, taken.model))
    failpoints.hit("prompt.rewritten")
    try:
        if wording is None:
            return _end(context, job_id, taken.version)
        with context.database.hot() as hot:
            signals = lifecycle.adjusted(hot, job_id, taken.version, prompt=wording)
    except StaleJobError:
        return []  # cancelled meanwhile, or another worker was quicker
    failpoints.hit("prompt.adjusted")
    return signals


def _end(context: WorkerContext, job_id: str, version: int) -> list[Signal]:
    """End a job whose refusal stands. Raises StaleJobError."""
    with context.database.hot() as hot:
        job = worker.load(hot, job_id)
        if job is None:
            return []
        match decide.next_step(context.facts(job)):
            case decide.Succeed(_, notes):
                how = lifecycle.succeed(notes=notes)
            case decide.Fail(code, notes):
                how = lifecycle.fail(code, notes=notes)
            case step:
                raise StaleJobError(f"{job_id} goes on: {type(step).__name__}")
        return [*lifecycle.end(hot, job_id, version, how, traceparent=job.traceparent).signals]


def _most_chars(context: WorkerContext, model: str) -> int:
    try:
        return context.model(model).inputs.prompt_max_len or MAX_CHARS
    except UnknownModelError:
        return MAX_CHARS


def _rewritten(context: WorkerContext, prompt: str, *, most_chars: int) -> str | None:
    """Another wording of the prompt; None where no language model has one that fits."""
    for name in [*context.prompt_providers][:MODELS_ASKED]:
        try:
            with spans.chat(name):
                pieces = context.registry.of(name)[0].stream_text(SAFE.messages(prompt), temperature=SAFE.temperature)
                wording = clean_text(_joined(pieces, most_chars))
        except ProviderError as error:
            log.warning("prompt_not_adjusted", provider=name, kind=type(error).__name__, code=error.code)
            continue
        if wording and len(wording) <= most_chars and wording != prompt:
            return wording
        log.warning("prompt_not_adjusted", provider=name, kind="no_other_wording", characters=len(wording))
    return None


def _joined(pieces: Iterable[str], most_chars: int) -> str:
    """The whole text, or its beginning where it is longer than anyone may use. Raises ProviderError."""
    text = ""
    for piece in pieces:
        text += piece
        if len(text) > most_chars:
            break
    return text
