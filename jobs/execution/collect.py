"""Collecting: the images of finished calls are fetched and stored at once, because their links die in minutes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog
import tenacity

from core import failpoints
from core.errors import DatabaseAwayError
from jobs.call import Call, KeptImage, ResultLink
from jobs.execution import outcomes, spans
from jobs.execution.context import WorkerContext
from jobs.execution.outcomes import CallOutcome
from jobs.reads.worker import LiveJob
from jobs.states import Outcome
from providers.base import Finished, Provider, ResultImage
from providers.errors import Failed, NotRun, ProviderError, Uncertain
from providers.registry import UnknownCredentialError
from providers.reported_cost import ReportedCost
from storage.base import Kind, MediaError, StorageUnavailableError
from storage.media import Media

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """A call whose images are to be fetched. ``fresh``: the answer of the upstream, if it has just come."""

    call: Call
    images: Sequence[ResultImage]
    fresh: Finished | None = None


def on_record(job: LiveJob) -> list[Made]:
    """Return the calls that an earlier step found finished and whose images are not stored yet."""
    return [
        Made(call, [_result(link) for link in call.result]) for call in job.calls if call.outcome is Outcome.FINISHED
    ]


def collect(context: WorkerContext, job: LiveJob, made: Sequence[Made]) -> list[CallOutcome]:
    """Fetch and store the images of a job's finished calls. Returns the outcome of each call.

    A call whose images cannot be fetched now gets the outcome FINISHED with its links, or is left out if that is
    recorded already; a later status check tries again. Raises DatabaseAwayError.
    """
    failpoints.hit("found.unkept")
    return [learned for each in made if (learned := _collect(context, job, each))]


def _collect(context: WorkerContext, job: LiveJob, made: Made) -> CallOutcome | None:
    call = made.call
    try:
        learned = keep(
            context.media,
            context.registry.for_download(call.credential_id),
            job.id,
            call,
            made.images,
            kind=context.output(call.model),
            cost=made.fresh.cost if made.fresh else None,
        )
        return replace(learned, raw=made.fresh.raw) if made.fresh else learned
    except DatabaseAwayError:
        raise
    except (ProviderError, StorageUnavailableError, UnknownCredentialError) as error:
        log.warning("result_not_fetched_yet", job_id=job.id, call_id=call.id, error=type(error).__name__)
    except Exception:
        # This would fail again at once, so it is left to later steps, until the call's deadline.
        log.exception("keeping_crashed", job_id=job.id, call_id=call.id)
    if call.overdue:
        gone = Failed("result_unavailable", retryable=False, billed=True)
        return outcomes.from_error(call, gone, may_look_up=False)
    return outcomes.finished(call, made.fresh) if made.fresh else None


# Codes of storage for a file that may be good and exceeds our limits. It was billed, so it is not made again.
_TOO_LARGE = frozenset({"image_too_large_bytes", "image_too_many_pixels", "image_too_many_frames"})


def _result(link: ResultLink) -> ResultImage:
    return ResultImage(url=link["url"], seed=link["seed"], revised_prompt=link["revised_prompt"])


def keep(
    media: Media,
    provider: Provider,
    job_id: str,
    call: Call,
    images: Sequence[ResultImage],
    *,
    kind: Kind = "image",
    until: float = 0.0,
    cost: ReportedCost | None = None,
) -> CallOutcome:
    """Fetch and store what a finished call made, and return its outcome. ``kind`` is the ``output`` of its model.

    Files that are not valid are left out; if none is left, the call has failed. Images that came as bytes exist
    nowhere else, so storing them is retried until ``until`` (of ``time.monotonic``); after that they are lost.
    Raises ProviderError (NotRun, Uncertain) and StorageUnavailableError when links may be fetched by a later try.
    """
    in_hand = any(image.data is not None for image in images)
    kept: list[KeptImage] = []
    fault: Failed | None = None
    for offset, image in enumerate(images[: call.image_count]):
        try:
            index = call.slot + offset
            with spans.image(job_id, index, url=image.url if image.data is None else None, kind=kind):
                kept.append(_keep_one(media, provider, f"jobs/{job_id}", index, image=image, kind=kind, until=until))
        except MediaError as error:
            log.warning("result_is_no_picture", job_id=job_id, call_id=call.id, code=error.code)
            code = "result_too_large" if error.code in _TOO_LARGE else "bad_result"
            fault = Failed(code, error.code, retryable=False, billed=True)
        except Failed as error:
            log.warning("result_cannot_be_fetched", job_id=job_id, call_id=call.id, code=error.code)
            fault = error
        except (NotRun, Uncertain, StorageUnavailableError) as error:
            if not in_hand:
                raise
            # Only the store's own text is recorded: an upstream's may contain anything.
            reason = str(error) if isinstance(error, StorageUnavailableError) else type(error).__name__
            log.warning("result_not_kept", job_id=job_id, call_id=call.id, reason=reason)
            fault = Failed("storage_unavailable", retryable=False, billed=True)
    if kept:
        coded = replace(call, code=fault.code if fault else None)
        return CallOutcome(coded, Outcome.KEPT, images=kept, cost=cost)
    failed = outcomes.from_error(call, fault or Failed("empty_result", retryable=True), may_look_up=False)
    return replace(failed, cost=cost)


def _enough(state: tenacity.RetryCallState) -> bool:
    """Return whether to stop: after three tries, or at ``until`` for an image that only this process has."""
    in_hand = state.kwargs["image"].data is not None
    return state.attempt_number >= 3 and not (in_hand and time.monotonic() < state.kwargs["until"])


@tenacity.retry(
    retry=tenacity.retry_if_exception_type((NotRun, Uncertain, StorageUnavailableError)),
    stop=_enough,
    wait=tenacity.wait_random_exponential(multiplier=0.5, max=15),
    reraise=True,
)
def _keep_one(
    media: Media,
    provider: Provider,
    folder: str,
    index: int,
    *,
    image: ResultImage,
    kind: Kind,
    until: float,  # noqa: ARG001 - _enough reads it
) -> KeptImage:
    data = image.data if image.data is not None else provider.download(image.url or "")
    stored = media.keep_result(data, prefix=f"{folder}/{index}", kind=kind)
    failpoints.hit("blob.kept")
    return KeptImage(
        index=index,
        key=stored.key,
        mime=stored.mime,
        width_px=stored.width_px or None,
        height_px=stored.height_px or None,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256,
        seed=image.seed,
        revised_prompt=image.revised_prompt,
        text=data.decode() if kind == "text" else None,
    )
