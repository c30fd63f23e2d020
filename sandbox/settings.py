"""What the control endpoint may change while the sandbox runs."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields


class BadSetting(ValueError):  # noqa: N818 - reads as what it is
    """A setting that does not exist, or a value it cannot take."""


@dataclass
class Settings:
    """Pace and bounds. Times are in seconds.

    ``latency_s`` is how long an image takes, spread by ``latency_jitter`` (0.2 is +-20 %) by a hash of the
    prompt, so that the same prompt always takes the same time. ``prepared`` serves a few prepared images
    of each size instead of drawing (for benchmarks). ``edge_max_px`` bounds the sides of what is drawn (0: as
    asked), for tests that order the largest there is. ``retention_s`` is how long finished work can be read.
    ``tasks_max`` bounds the jobs remembered per provider: the oldest go first. ``hold_webhooks`` keeps
    webhooks back for as long as it is on.
    """

    latency_s: float = 1.0
    latency_jitter: float = 0.2
    chat_delta_s: float = 0.02
    prepared: bool = False
    edge_max_px: int = 0
    retention_s: float = 15 * 86400.0
    tasks_max: int = 200_000
    requests_kept: int = 500
    hold_webhooks: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Each setting may be given as ``SANDBOX_<NAME>``, for example ``SANDBOX_LATENCY_S=0``."""
        settings = cls()
        given = {
            f.name: environ[f"SANDBOX_{f.name.upper()}"]
            for f in fields(cls)
            if environ.get(f"SANDBOX_{f.name.upper()}")
        }
        settings.change(given)
        return settings

    def change(self, wanted: Mapping[str, object]) -> None:
        """Take over some settings, all or none. Raises BadSetting."""
        known = {f.name for f in fields(self)}
        if stray := set(wanted) - known:
            raise BadSetting(f"no setting {sorted(stray)[0]!r}; there are {', '.join(sorted(known))}")
        taken = {name: _like(getattr(self, name), name, value) for name, value in wanted.items()}
        for name, value in taken.items():
            setattr(self, name, value)

    def as_dict(self) -> dict[str, object]:
        """Every setting by name."""
        return asdict(self)


def _like(current: object, name: str, value: object) -> object:
    """``value`` as the type of ``current``, from JSON or from an environment variable."""
    if isinstance(current, bool):
        if str(value).lower() not in {"1", "0", "true", "false"}:
            raise BadSetting(f"{name} must be true or false, not {value!r}")
        return str(value).lower() in {"1", "true"}
    try:
        number = float(str(value))
    except ValueError as error:
        raise BadSetting(f"{name} must be a number, not {value!r}") from error
    if not 0 <= number < float("inf"):
        raise BadSetting(f"{name} must be zero or more, not {value!r}")
    return int(number) if isinstance(current, int) else number
