"""The contract between Darkroom and an upstream: one form of order in, one of a few results out.

An adapter implements :class:`Provider`. It never sleeps, never retries a paid call and never decides about
money; it translates. Everything it needs is in the order and in the configuration it was built with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from providers.catalog.entries import Model
from providers.errors import ProviderError
from providers.reported_cost import ReportedCost


@dataclass(frozen=True, slots=True)
class InputImage:
    """A verified reference image; ``data`` are its bytes as storage keeps them."""

    data: bytes = field(repr=False)
    mime: str
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class UpstreamOrder:
    """What one paid call is asked to make. Values are already validated and normalised.

    ``params`` holds only what the caller set (canonical names: quality, seed, ...): a
    setting that is left out here is left out on the wire. ``size`` holds the catalogue's canonical size
    fields (``size``, or ``width`` + ``height``, or ``aspect_ratio``, ``resolution``), as strings or
    whole numbers. ``n`` is the number of images of this call, never above the model's
    ``max_per_call``.
    """

    operation: str
    model: Model
    prompt: str | None
    n: int = 1
    size: Mapping[str, str | int] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    images: Sequence[InputImage] = ()
    # In the model's own polarity (catalogue, mask_polarity): a PNG whose alpha 0 marks what to change
    # (transparent_edits), or an 8-bit grey PNG whose white does (white_edits). jobs converts.
    mask: InputImage | None = None
    face: InputImage | None = None
    # Where the upstream may report the end of the call; contains a token of this call. None: webhooks are off.
    callback_url: str | None = None
    # X-Request-Id of the caller's submit, for upstreams that take one: printable ASCII, at most 100 characters.
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class CallRef:
    """A call that was sent, or was about to be, as its row in the database says.

    ``age_s``: seconds since the intent, by the database's clock when the row was read; None where it is
    not known. An adapter never compares ``intended_at`` with the clock of its own machine.
    """

    id: str
    dedupe_key: str
    model: str  # the model's public id
    upstream_id: str | None = None
    poll_url: str | None = None
    intended_at: datetime | None = None
    age_s: float | None = None

    def is_older_than(self, seconds: float) -> bool:
        """Whether the call is older than that; False where its age is not known."""
        return self.age_s is not None and self.age_s > seconds


@dataclass(frozen=True, slots=True)
class ResultImage:
    """One result: its bytes, or a link to fetch at once (links expire within minutes).

    What the bytes are follows from the model's ``output``: an image, a 3D file, or a text in UTF-8.
    """

    data: bytes | None = field(default=None, repr=False)
    url: str | None = None
    seed: int | None = None
    revised_prompt: str | None = None


# The upstream's own answer, fit to be kept: providers.shared.raw_answers.document.
RawAnswer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finished:
    """The upstream is done; ``images`` in the upstream's order, at least one. ``cost`` replaces that of Accepted."""

    images: Sequence[ResultImage]
    cost: ReportedCost | None = field(default=None, compare=False)  # not part of what a result is
    raw: RawAnswer | None = field(default=None, compare=False, repr=False)  # of a look, where someone listens


@dataclass(frozen=True, slots=True)
class Accepted:
    """The upstream accepted the order and works on it; ``cost`` where it names the price in advance."""

    upstream_id: str
    poll_url: str | None = None
    cost: ReportedCost | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Running:
    """Still in progress. ``progress`` is 0 to 1 where the upstream reports it, ``step`` the upstream's own word.

    A progress outside 0 to 1 becomes None, or the nearer end if it is off by a rounding error.
    """

    progress: float | None = None
    step: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "progress", _as_share(self.progress))


PROGRESS_SLACK = 0.01


def _as_share(found: float | None) -> float | None:
    if found is None or not math.isfinite(found) or not -PROGRESS_SLACK <= found <= 1 + PROGRESS_SLACK:
        return None
    return min(1.0, max(0.0, float(found)))


@dataclass(frozen=True, slots=True)
class Missing:
    """The upstream does not know the call: it never arrived, has expired, or is not visible yet."""


class UpstreamCancel(StrEnum):
    """What an upstream did about a call that it was asked to cancel."""

    STOPPED = "stopped"  # confirmed: no image will be made
    UNSUPPORTED = "unsupported"  # this upstream cannot stop a call
    TOO_LATE = "too_late"  # already over


CheckResult = Finished | Running | Missing | ProviderError


class Provider(Protocol):
    """One upstream with one credential."""

    name: str
    credential_id: str  # "<provider>/<label>", stored with every call
    base_url: str
    submit_timeout_s: float  # the longest time a submit takes

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:
        """Make the one paid call, without HTTP retries.

        Raises: every class of :mod:`providers.errors`.
        """

    def check(self, call: CallRef) -> Finished | Running | Missing:
        """Look once at a call; never sleeps, never loops.

        Raises: ``Failed``, ``Refused``, ``Misconfigured``, which end the call; ``NotRun``, ``Uncertain``, which
            mean only that the look itself failed: the call goes on.
        """

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        """Look at many calls; the results by the calls' ids. Batched where the upstream can; raises nothing."""

    def cancel(self, call: CallRef) -> UpstreamCancel:
        """Ask the upstream to stop. Raises :class:`ProviderError` when the request failed."""

    def lookup(self, call: CallRef, since: datetime, order: UpstreamOrder) -> list[Accepted]:
        """Find calls made since then that may be this one, where recovery is search; empty where the API cannot.

        By our token in the callback URL if the order has one, else by model and identical input.
        ``since`` is the database's time, and is compared only with the upstream's own times. Every candidate
        is returned: which of them is claimed is the caller's decision.

        Raises: ``Unidentifiable`` where what is listed does not show whose it is; ProviderError if the search failed.
        """

    def download(self, url: str) -> bytes:
        """The bytes at a result link, by the rules for URLs from outside.

        Raises: ``NotRun``, ``Uncertain`` (try again); ``Failed`` (the result is gone).
        """

    def stream_text(
        self, messages: Sequence[Mapping[str, str]], *, temperature: float | None, max_tokens: int | None = None
    ) -> Iterator[str]:
        """The text of a chat completion, piece by piece; the model's own settings where none is given.

        Raises: :class:`ProviderError`, also between pieces.
        """
