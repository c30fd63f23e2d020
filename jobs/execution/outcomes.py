"""From an upstream's answer to a call's row: what is recorded, and keeping the images made."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
import tenacity
from sqlalchemy import Connection

from core import failpoints
from jobs.execution.decide import Call
from jobs.lifecycle import calls
from jobs.lifecycle.calls import CallRow, KeptImage
from jobs.states import OPEN_OUTCOMES, Outcome
from providers.base import Accepted, Finished, Provider, ResultImage
from providers.errors import (
    ContentRefused,
    Failed,
    Misconfigured,
    NotRun,
    ProviderError,
    Refused,
    Uncertain,
)
from providers.reported_cost import ReportedCost
from storage.base import Kind, MediaError, StorageUnavailableError
from storage.media import Media

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a call after a step, ready to be recorded."""

    call: Call
    outcome: Outcome
    upstream_id: str | None = None
    poll_url: str | None = None
    result: Sequence[Mapping[str, Any]] | None = None
    images: Sequence[KeptImage] = field(default=())
    detail: str | None = None
    written_off: bool = False
    deadline_s: float | None = None  # from the intent on, for a call that can be followed after all
    cost: ReportedCost | None = None  # as the upstream reports it

    @property
    def facts(self) -> Call:
        """The call as decisions will see it once this is recorded."""
        return replace(self.call, outcome=self.outcome, kept=len(self.images))


# What an outcome may replace, beside none: a call only goes forward, whoever comes late.
_REPLACES: Mapping[Outcome, tuple[Outcome, ...]] = {
    Outcome.UNCERTAIN: (),
    Outcome.ACCEPTED: (Outcome.UNCERTAIN,),
    Outcome.FINISHED: tuple(OPEN_OUTCOMES),
}
_ENDS_REPLACE = (*OPEN_OUTCOMES, Outcome.FINISHED)


def may_replace(answer: Answer, before: Outcome | None) -> bool:
    """Whether an answer is news where ``before`` is on record."""
    return before is None or before in _REPLACES.get(answer.outcome, _ENDS_REPLACE)


def row_of(answer: Answer) -> CallRow:
    """The answer as the statements of ``jobs.lifecycle`` take it."""
    return calls.call_row(
        answer.call.id,
        answer.outcome,
        upstream_id=answer.upstream_id,
        poll_url=answer.poll_url,
        result=answer.result,
        error_code=answer.call.code,
        error_detail=answer.detail,
        retryable=answer.call.retryable,
        retry_after_s=answer.call.retry_after_s,
        kept=len(answer.images),
        written_off=answer.written_off,
        deadline_s=answer.deadline_s,
        reported_cost=answer.cost.microusd if answer.cost else None,
        usage=dict(answer.cost.usage) if answer.cost else None,
    )


def record(connection: Connection, answer: Answer) -> bool:
    """Write an answer, whatever has become of its job; False when it is no news."""
    replaces = _REPLACES.get(answer.outcome, _ENDS_REPLACE)
    return calls.record(connection, row_of(answer), replaces=replaces, images=answer.images)


def accepted(call: Call, answer: Accepted, *, deadline_s: float | None = None) -> Answer:
    """``deadline_s``: the provider's own, which holds again where an unanswered call had been given less."""
    return Answer(
        call,
        Outcome.ACCEPTED,
        upstream_id=answer.upstream_id,
        poll_url=answer.poll_url,
        deadline_s=deadline_s,
        cost=answer.cost,
    )


def finished(call: Call, answer: Finished) -> Answer:
    """The links of a finished call, for whoever keeps the images. Only links fit in a row."""
    return Answer(call, Outcome.FINISHED, result=[_link(image) for image in answer.images], cost=answer.cost)


def _link(image: ResultImage) -> dict[str, Any]:
    return {"url": image.url, "seed": image.seed, "revised_prompt": image.revised_prompt}


def from_error(call: Call, error: ProviderError, *, may_look_up: bool) -> Answer:
    """Sort a fault by its type (providers/errors.py). ``may_look_up``: the upstream can be asked later."""
    outcome, retryable, written_off = _sorted_error(error, may_look_up=may_look_up)
    facts = replace(call, code=error.code, retryable=retryable, retry_after_s=error.retry_after_s)
    cost = error.cost if isinstance(error, Failed | ContentRefused) else None
    return Answer(facts, outcome, detail=error.detail, written_off=written_off, cost=cost)


def _sorted_error(error: ProviderError, *, may_look_up: bool) -> tuple[Outcome, bool, bool]:
    match error:
        case NotRun():
            return Outcome.NOT_RUN, True, False
        case Failed():
            return Outcome.FAILED, error.retryable, error.billed
        case ContentRefused():
            return Outcome.REFUSED, False, error.charged
        case Refused() | Misconfigured():
            return Outcome.REFUSED if isinstance(error, Refused) else Outcome.MISCONFIGURED, False, False
        case Uncertain() if may_look_up:
            return Outcome.UNCERTAIN, False, False
        case _:
            # Nobody can tell, and nothing is ever sent again: the caller's credits go back and the
            # upstream's bill, if there is one, is ours.
            return Outcome.LOST, False, True


def lost(call: Call, *, code: str = "upstream_uncertain", outcome: Outcome = Outcome.LOST) -> Answer:
    """A call given up without an image that the upstream may yet have made."""
    return Answer(replace(call, code=code, retryable=False), outcome, written_off=True)


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
) -> Answer:
    """Fetch and keep what a finished call made; ``kind`` is the ``output`` of its model.

    Images that are none are left out; when none is left the call has failed. Raises ProviderError
    (NotRun, Uncertain) and StorageUnavailableError when trying again later may help: of links. Bytes in
    hand are nowhere else, so keeping them is tried until ``until`` (of ``time.monotonic``); then they are lost.
    """
    in_hand = any(image.data is not None for image in images)
    kept: list[KeptImage] = []
    fault: Failed | None = None
    for offset, image in enumerate(images[: call.image_count]):
        try:
            index = call.slot + offset
            kept.append(_keep_one(media, provider, f"jobs/{job_id}", index, image=image, kind=kind, until=until))
        except MediaError as error:
            log.warning("result_is_no_picture", job_id=job_id, call_id=call.id, code=error.code)
            fault = Failed("bad_result", error.code, retryable=False, billed=True)
        except Failed as error:
            log.warning("result_cannot_be_fetched", job_id=job_id, call_id=call.id, code=error.code)
            fault = error
        except (NotRun, Uncertain, StorageUnavailableError) as error:
            if not in_hand:
                raise
            # Of a store's trouble the text is ours; an upstream's may be anything.
            reason = str(error) if isinstance(error, StorageUnavailableError) else type(error).__name__
            log.warning("result_not_kept", job_id=job_id, call_id=call.id, reason=reason)
            fault = Failed("storage_unavailable", retryable=False, billed=True)
    if kept:
        return Answer(replace(call, code=fault.code if fault else None), Outcome.KEPT, images=kept, cost=cost)
    failed = from_error(call, fault or Failed("empty_result", retryable=True), may_look_up=False)
    return replace(failed, cost=cost)


def _enough(state: tenacity.RetryCallState) -> bool:
    """Three tries; more while an image is in our hands alone and its step may go on."""
    in_hand = state.kwargs["image"].data is not None
    return state.attempt_number >= 3 and not (in_hand and time.monotonic() < state.kwargs["until"])


_PATIENT = tenacity.retry(
    retry=tenacity.retry_if_exception_type((NotRun, Uncertain, StorageUnavailableError)),
    stop=_enough,
    wait=tenacity.wait_random_exponential(multiplier=0.5, max=15),
    reraise=True,
)


@_PATIENT
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
