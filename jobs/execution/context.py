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
from jobs.execution.callbacks import Callbacks
from jobs.execution.decide import RETRY_AFTER_MAX_S, Facts
from jobs.reads.worker import LiveJob
from jobs.states import Signal
from providers.catalog.catalog import Catalog, CatalogSource, Model, ProviderSpec, UnknownModelError
from providers.catalog.entries import Recovery
from providers.registry import Registry
from storage.base import Kind, Store
from storage.media import Media

# How long a step may take beyond the upstream call it makes: keeping images, writing rows.
STEP_MARGIN_S = 60.0
# A call that cannot be asked about is given up this long after its owner is known dead.
GIVE_UP_UNANSWERED_S = 60.0


@dataclass(frozen=True)
class WorkerContext:
    """``owner`` is this worker's boot id; ``publish`` sends nudges, never raises, and says whether it could."""

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
    callbacks: Callbacks | None = None
    node: str = ""  # the name by which Celery and Flower know this worker
    collecting: FairPool = field(default_factory=FairPool)  # where finished images are fetched, accounts in turns
    turns: Turns = field(default_factory=Turns)

    @property
    def catalog(self) -> Catalog:
        """As it holds now. Of providers it always says the same."""
        return self.catalogs.current()

    def model(self, model_id: str) -> Model:
        """The model of an accepted job. Raises UnknownModelError."""
        try:
            return self.catalog.entry(model_id)
        except UnknownModelError:
            # The web may have read the operator's file a moment before us.
            return self.catalogs.renewed().entry(model_id)

    def callback_url(self, provider: str, call_id: str) -> str | None:
        """Where the provider may report on the call: None unless it calls back and that is switched on."""
        if self.callbacks is None or not self.spec(provider).webhooks:
            return None
        return self.callbacks.url(provider, call_id)

    @cached_property
    def step_s(self) -> dict[str, float]:
        """How long one step may take, by provider."""
        return {name: spec.call_timeout_s + STEP_MARGIN_S for name, spec in self.catalog.providers.items()}

    @cached_property
    def move_within_s(self) -> dict[str, float]:
        """By when a job must have moved on after a call was begun, by provider: to its end, and a longest pause."""
        return {name: spec.deadline_s + RETRY_AFTER_MAX_S for name, spec in self.catalog.providers.items()}

    @cached_property
    def usable(self) -> str:
        """What this worker can use, as ``lifecycle.start`` takes it."""
        return json.dumps(
            {
                name: {
                    "step_s": self.step_s[name],
                    "deadline_s": self.spec(name).deadline_s,
                    "choice": len(self.registry.of(name)) > 1,
                    "credentials": {each.credential_id: each.base_url for each in self.registry.of(name)},
                }
                for name in self.registry.configured()
            }
        )

    @cached_property
    def give_up_s(self) -> dict[str, float]:
        return give_up_s(self.catalog)

    def deadline_s(self, provider: str) -> float:
        """After how long a call to the provider is given up; the longest of all where the catalogue has lost it."""
        known = self.catalog.providers
        return known[provider].deadline_s if provider in known else max(spec.deadline_s for spec in known.values())

    def spec(self, provider: str) -> ProviderSpec:
        return self.catalog.providers[provider]

    def output(self, model: str) -> Kind:
        """What the model makes; images, for one the catalogue has lost since."""
        try:
            return self.model(model).output
        except UnknownModelError:
            return "image"

    def facts(self, job: LiveJob) -> Facts:
        return Facts(
            n=job.n,
            calls=job.calls,
            max_attempts=self.max_attempts,
            cancel_requested=job.cancel_requested,
            cancel_charge=self.cancel_charge,
            model=job.model,
            fallbacks=job.fallbacks,
        )


def give_up_s(catalog: Catalog) -> dict[str, float]:
    """By provider, of those that cannot recover a call: after how many seconds an unanswered call is given up."""
    return {name: GIVE_UP_UNANSWERED_S for name, spec in catalog.providers.items() if spec.recovery is Recovery.NEVER}
