"""The message that a caller gets when a job fails or is cancelled: one plain sentence per code.

The upstream's own text goes to the log and to the call's row, never to the caller, because it may contain other
people's keys, addresses or prompts. docs/errors.md lists the same codes with what to do.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, get_args

# How far a failed job came: it waited for its start; an upstream was asked; an upstream had taken it on; its result was
# fetched and checked; its result, or what it came with, was to be kept or read here.
Stage = Literal["queued", "submit", "running", "download", "store"]
STAGES: tuple[Stage, ...] = get_args(Stage)
# Codes that stand for one stage whatever the calls say. app/shapes/status_json.py has the same lists in SQL.
_STAGE_OF: dict[str, Stage] = {
    "deadline_expired": "queued",
    "insufficient_credits": "queued",
    "model_unavailable": "queued",
    "own_key_deleted": "queued",
    "provider_closed": "queued",
    "bad_result": "download",
    "result_gone": "download",
    "result_too_large": "download",
    "result_unavailable": "download",
    "result_url_refused": "download",
    "storage_unavailable": "store",
}

SENTENCES = {
    "bad_result": "the upstream sent something that is not an acceptable image",
    "content_refused": "the upstream's content policy refused the prompt or the image",
    "deadline_expired": "the job could not be started before its deadline",
    "empty_result": "the upstream reported success without an image",
    "extra_not_allowed": "extra holds a field that decides what is bought; use the order's own fields",
    "insufficient_credits": "the balance no longer covered the price when the job was to start",
    "internal_error": "a fault of this service; the operator can see what it was",
    "mask_not_png": "this model takes a mask only as PNG",
    "model_unavailable": "the model is no longer offered here",
    "own_key_deleted": "your own key of the provider was deleted before the job could be started",
    "own_key_unusable": "your own key of the provider cannot be used here; store it again",
    "provider_closed": "the provider is paused or not in order",
    "result_gone": "the image was made, but its link had died before it could be fetched",
    "result_too_large": "the image the upstream made is larger than is accepted here",
    "result_unavailable": "the image was made, but could not be fetched from the upstream",
    "result_url_refused": "the upstream answered with a link that we do not follow",
    "storage_unavailable": "the image store was away",
    "upstream_account_trouble": "the upstream's own account could not draw",
    "upstream_bad_credentials": "the upstream refused the key that it was called with",
    "upstream_cancelled": "the upstream stopped the job",
    "upstream_empty_result": "the upstream reported success without an image",
    "upstream_failed": "the upstream failed to make the image",
    "upstream_forbidden": "the upstream does not allow this with the key that it was called with",
    "upstream_lost": "the upstream forgot the job",
    "upstream_misconfigured": "the upstream is not set up for this",
    "upstream_model_unknown": "the upstream does not know the model",
    "upstream_connection_lost": "the connection to the upstream broke before its answer was complete",
    "upstream_no_answer": "the upstream did not answer in time",
    "upstream_not_found": "the upstream has no such route; its address may be wrong",
    "upstream_out_of_credit": "the account at the upstream is empty",
    "upstream_overloaded": "the upstream was overloaded",
    "upstream_pool_empty": "the upstream has no account free to draw with",
    "upstream_rate_limited": "the upstream kept asking us to slow down",
    "upstream_redirects": "the upstream's address answers with a redirect, which is not followed",
    "upstream_rejected": "the upstream did not accept the order",
    "upstream_restarted": "the upstream restarted and dropped the job",
    "upstream_said_no": "the upstream answered with words instead of an image",
    "upstream_timeout": "the upstream did not finish within its own deadline",
    "upstream_too_large": "the upstream found the order too large",
    "upstream_uncertain": "the upstream's answer was lost; it cannot be known whether it made an image",
    "upstream_unreachable": "the upstream could not be reached",
    "upstream_broken_answer": "the upstream answered with something unreadable",
    "upstream_answer_too_large": "the upstream's answer was larger than we accept",
    "upstream_error": "the upstream ended with an error of no known kind",
}


# These only ask for a later try and show no fault of the order: the job waits for the upstream, for a bounded time.
PATIENT_CODES = frozenset({"upstream_rate_limited", "upstream_pool_empty", "upstream_overloaded"})


class CancelOutcome(StrEnum):
    """How the cancel of a job ended."""

    FREED_IN_QUEUE = "freed_in_queue"  # before any call: free
    STOPPED_UPSTREAM = "stopped_upstream"  # the upstream confirmed the stop, or had made nothing: free
    TOO_LATE = "too_late"  # images were made, and are kept
    UPSTREAM_UNCERTAIN = "upstream_uncertain"  # no image came, and it is unknown whether one was made: free


def sentence(code: str) -> str:
    """Return the sentence for a code, or the code with spaces if it has none."""
    return SENTENCES.get(code, code.replace("_", " "))


def stage_of(code: str, accepted: bool | None) -> Stage:
    """Return where a job of this failure code failed.

    ``accepted`` says of its decisive call whether the upstream had taken it on; None: it made no call.
    """
    if accepted is None:
        return _STAGE_OF.get(code, "queued")
    return _STAGE_OF.get(code, "running" if accepted else "submit")
