"""What the control endpoint may change while the sandbox runs."""

import os
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError


class BadSetting(ValueError):  # noqa: N818 - reads as what it is
    """A setting that does not exist, or a value it cannot take."""


class Settings(BaseModel):
    """Pace and bounds. Times are in seconds.

    ``latency_s`` is how long an image takes, spread by ``latency_jitter`` (0.2 is +-20 %) by a hash of the
    prompt, so that the same prompt always takes the same time. ``prepared`` serves a few prepared images
    of each size instead of drawing (for benchmarks). ``edge_max_px`` bounds the sides of what is drawn (0: as
    asked), for tests that order the largest there is. ``retention_s`` is how long finished work can be read.
    ``tasks_max`` bounds the jobs remembered per provider: the oldest go first. ``hold_webhooks`` keeps
    webhooks back for as long as it is on. ``history_shows_input``: an account's list of calls has what each
    asked for, where the vendor's documents do not say so (WaveSpeed).
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    latency_s: NonNegativeFloat = 1.0
    latency_jitter: NonNegativeFloat = 0.2
    chat_delta_s: NonNegativeFloat = 0.02
    prepared: bool = False
    edge_max_px: NonNegativeInt = 0
    retention_s: NonNegativeFloat = 15 * 86400.0
    tasks_max: NonNegativeInt = 200_000
    requests_kept: NonNegativeInt = 500
    hold_webhooks: bool = False
    history_shows_input: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Each setting may be given as ``SANDBOX_<NAME>``, for example ``SANDBOX_LATENCY_S=0``. Raises BadSetting."""
        settings = cls()
        settings.change({name: text for name in cls.model_fields if (text := environ.get(f"SANDBOX_{name.upper()}"))})
        return settings

    def change(self, wanted: Mapping[str, object]) -> None:
        """Take over some settings, all or none. Raises BadSetting."""
        try:
            changed = Settings.model_validate({**self.model_dump(), **wanted})
        except ValidationError as error:
            raise BadSetting(str(error)) from error
        for name in wanted:
            setattr(self, name, getattr(changed, name))
