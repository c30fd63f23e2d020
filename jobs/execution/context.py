"""What a worker needs to move jobs on, built once per process (``workers/wiring.py``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from core.db import Database
from core.fair_pool import FairPool
from jobs.dispatch.due import Turns
from jobs.dispatch.publishing import ShareBy
from jobs.execution.callbacks import Callbacks
from jobs.execution.decide import RETRY_AFTER_MAX_S, Adjustment, Facts
from jobs.reads.worker import LiveJob
from jobs.states import SafePrompt, Signal
from providers.catalog.catalog import Catalog, CatalogSource, Model, ProviderSpec, UnknownModelError
from providers.catalog.entries import Recovery
from providers.registry import Registry
from storage.base import Kind, Store
from storage.media import Media

# How long a step may take in addition to its upstream call: storing images, writing rows.
STEP_MARGIN_S = 60.0
# A call that cannot be looked up is given up this long after its owner is known to be dead.
GIVE_UP_UNANSWERED_S = 60.0


@dataclass(frozen=True)
class WorkerContext:
    """What one worker process works with.

    ``owner`` is this worker's boot id. ``publish`` sends signals, never raises, and returns whether it could.
    """

    owner: str
    database: Database
    catalogs: CatalogSource
    registry: Registry
    media: Media
    store: Store
    publish: Callable[[Sequence[Signal]], bool]
    max_attempts: int
    cancel_charge: Literal["full", "none"]
    publish_window: int
    share_by: ShareBy = "jobs"  # what a job counts in its account's share of a provider
    max_wait_s: float = 3600.0  # how long a job waits for an upstream that only asks to come back later
    callbacks: Callbacks | None = None
    keep_raw: bool = True  # whether the upstreams' own answers are kept with their calls
    prompt_providers: Sequence[str] = ()  # those with a language model, the preferred one first
    node: str = ""  # the name by which Celery and Flower know this worker
    collecting: FairPool = field(default_factory=FairPool)  # fetches finished images, account by account in turns
    turns: Turns = field(default_factory=Turns)

    @property
    def catalog(self) -> Catalog:
        """The current catalogue. Its providers never change while the process runs."""
        return self.catalogs.current()

    def model(self, model_id: str) -> Model:
        """Return the model of an accepted job. Raises UnknownModelError."""
        try:
            return self.catalog.entry(model_id)
        except UnknownModelError:
            # The web process may have read a newer version of the operator's file.
            return self.catalogs.renewed().entry(model_id)

    def callback_url(self, provider: str, call_id: str) -> str | None:
        """Return the URL at which the provider may report on the call.

        None if the provider does not call back or callbacks are off. Raises DatabaseAwayError.
        """
        if self.callbacks is None or not self.spec(provider).webhooks:
            return None
        return self.callbacks.url(provider, call_id)

    @cached_property
    def step_s(self) -> dict[str, float]:
        """Return how long one step may take, in seconds by provider."""
        return {name: spec.call_timeout_s + STEP_MARGIN_S for name, spec in self.catalog.providers.items()}

    @cached_property
    def move_within_s(self) -> dict[str, float]:
        """Return how long after a call's start its job must have moved on, in seconds by provider.

        That is the call's deadline and the longest pause after it.
        """
        return {name: spec.deadline_s + RETRY_AFTER_MAX_S for name, spec in self.catalog.providers.items()}

    @cached_property
    def usable(self) -> str:
        """Providers and credentials that this worker can use, as the JSON that ``lifecycle.start`` takes."""
        return json.dumps(
            {
                name: {
                    "step_s": self.step_s[name],
                    "deadline_s": self.spec(name).deadline_s,
                    "choice": len(self.registry.of(name)) > 1,
                    "credentials": {each.credential_id: each.base_url for each in self.registry.of(name)},
                    "own": self.own_base_url(name),
                }
                for name in self.registry.configured()
            }
        )

    def own_base_url(self, provider: str) -> str | None:
        """Return where accounts' own keys of a provider are used, which is where the operator's first one is.

        None if the provider takes none, or this worker cannot read them.
        """
        known = self.registry.of(provider)
        return known[0].base_url if known and self.registry.takes_own_keys(provider) else None

    @cached_property
    def give_up_s(self) -> dict[str, float]:
        """Return :func:`give_up_s` of the catalogue."""
        return give_up_s(self.catalog)

    def deadline_s(self, provider: str) -> float:
        """Return after how many seconds a call is given up; the longest of all for a provider that is not known."""
        known = self.catalog.providers
        return known[provider].deadline_s if provider in known else max(spec.deadline_s for spec in known.values())

    def spec(self, provider: str) -> ProviderSpec:
        """Return the catalogue's entry of a provider. Raises KeyError if it has none."""
        return self.catalog.providers[provider]

    def output(self, model: str) -> Kind:
        """Return what the model makes; images if the catalogue no longer has it."""
        try:
            return self.model(model).output
        except UnknownModelError:
            return "image"

    def facts(self, job: LiveJob) -> Facts:
        """Return what ``decide.next_step`` needs to know of the job."""
        return Facts(
            n=job.n,
            calls=job.calls,
            max_attempts=self.max_attempts,
            cancel_requested=job.cancel_requested,
            cancel_charge=self.cancel_charge,
            model=job.model,
            fallbacks=job.fallbacks,
            max_wait_s=self.max_wait_s,
            adjustment=self._adjustment(job),
            adjusted_at=job.prompt_adjusted_at,
        )

    def _adjustment(self, job: LiveJob) -> Adjustment:
        match job.safe_prompt:
            case None:
                return Adjustment.NOT_WANTED
            case SafePrompt.WANTED:
                return Adjustment.POSSIBLE if self.prompt_providers else Adjustment.IMPOSSIBLE
            case SafePrompt.ADJUSTING:
                return Adjustment.FAILED
            case SafePrompt.ADJUSTED:
                return Adjustment.DONE


def give_up_s(catalog: Catalog) -> dict[str, float]:
    """Return after how many seconds an unanswered call is given up, by provider.

    It has only the providers whose calls cannot be recovered (``Recovery.NEVER``).
    """
    return {name: GIVE_UP_UNANSWERED_S for name, spec in catalog.providers.items() if spec.recovery is Recovery.NEVER}
