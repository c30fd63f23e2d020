"""Predictions of the Replicate emulator: their life by the clock (section 3 of the contract) and how they look."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sandbox.drawing.images import CONTENT_TYPES, Recipe
from sandbox.emulators.replicate.errors import FAILURES, invalid
from sandbox.emulators.replicate.models import Model
from sandbox.faults import Script
from sandbox.plumbing.tasks import Ending, Standing, Task

RUN_MAX_S = 1800.0
RETENTION_S = 3600.0
STEPS = 4
UPSTREAM_TROUBLE = Ending("failed", FAILURES["upstream"])
_DURATION = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s?)?")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

Draw = Callable[[Recipe], bytes]


@dataclass(frozen=True)
class Asked:
    """A create that passed every rule."""

    model: Model
    input: Mapping[str, Any]
    webhook: str | None = None
    events: tuple[str, ...] = ()
    cancel_after_s: float | None = None

    @property
    def prompt(self) -> str:
        """Where the markers are."""
        return str(self.input.get("prompt") or "")


@dataclass(kw_only=True)
class Prediction(Task[Ending]):
    """One accepted create. Its data are removed when it has been kept for its time; the rest stays."""

    stages = ((0.0, "starting"), (0.2, "processing"))
    never_s = RUN_MAX_S

    asked: Asked
    base_url: str  # of the API, for the links it shows
    seed: int
    files: Sequence[tuple[str, Recipe]] = ()  # link and what is behind it

    def __post_init__(self) -> None:
        """A deadline is a cancel known beforehand; before the start it aborts."""
        if self.deadline_s is not None and self.deadline_s < self.done_s:
            begins_s = self.starts_s or self.done_s
            self.broken_off = self.deadline_s, Ending("aborted" if self.deadline_s < begins_s else "canceled")

    @property
    def deadline_s(self) -> float | None:
        """When it is to be cancelled, as ``Cancel-After`` said."""
        after_s = self.asked.cancel_after_s
        return None if after_s is None else self.created_s + after_s

    @property
    def starts_s(self) -> float | None:
        """When it begins to run; None where it never does."""
        return self.began_s("processing")

    @property
    def size_bytes(self) -> int:
        """The inputs of all its images are the same."""
        return sum(recipe.size_bytes for _, recipe in self.files[:1])

    def is_gone(self, now: float) -> bool:
        """Never: only its data go."""
        del now
        return False

    def is_removed(self, now: float) -> bool:
        """Whether its data are gone."""
        return super().is_gone(now)


def ending_for(fate: Script) -> Ending:
    """What the faults of an accepted prediction make of it."""
    fault = fate.get("refuse", "fail", "timeout", "restart", "never")
    if fault is None:
        return Ending("succeeded")
    errors = {
        "refuse": FAILURES["policy"],
        "fail": FAILURES.get(fault.value, fault.value.replace("_", " ")),
        "timeout": FAILURES["start"],
        "restart": FAILURES["interrupted"],
        "never": FAILURES["longest_run"],
    }
    return Ending("failed", errors[fault.name])


def new_number(salt: str) -> str:
    """26 lower-case letters and digits."""
    value = int.from_bytes(hashlib.sha256(salt.encode()).digest()[:20], "big")
    return "".join(_DIGITS[value // 36**place % 36] for place in range(26))


def seconds_in(duration: str) -> float:
    """``Cancel-After``: ``30s``, ``5m``, ``1h30m45s`` or seconds; at least five. Raises Problem."""
    found = _DURATION.fullmatch(duration.strip())
    parts = found.groups() if found else ()
    seconds = sum(int(part or 0) * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if seconds < 5:
        raise invalid([("Cancel-After", "must be a duration of at least 5 seconds")])
    return float(seconds)


def describe(made: Prediction, now: float, *, inline: Draw | None = None) -> dict[str, Any]:
    """The prediction object. ``inline`` draws: then the output holds data URLs, as in an answer waited for."""
    at = made.standing(now)
    removed = at.is_over and made.is_removed(now)
    shown: dict[str, Any] = {
        "id": made.number,
        "model": made.asked.model.path,
        "version": made.asked.model.version or "hidden",
        "input": {} if removed else dict(made.asked.input),
        "logs": None if at.status == "canceled" else "" if removed else _logs(made, at),
        "data_removed": removed,
        "error": at.ending.error if at.ending and at.status == "failed" else None,
        "source": "api",
        "status": at.shown,
        "created_at": iso(made.created_s),
        "urls": _urls(made),
    }
    if at.status != "starting":  # section 2: absent while it starts, not null
        shown["started_at"] = iso(made.starts_s) if made.starts_s is not None and made.starts_s <= now else None
        shown["output"] = None if removed or at.status != "succeeded" else output_of(made, inline)
    if at.is_over:
        shown |= {"completed_at": iso(at.since_s), "metrics": _metrics(made, at.status)}
    if made.deadline_s is not None:
        shown["deadline"] = iso(made.deadline_s)
    if made.asked.webhook is not None:
        shown["webhook"] = made.asked.webhook
        shown |= {"webhook_events_filter": list(made.asked.events)} if made.asked.events else {}
    return shown


def output_of(made: Prediction, inline: Draw | None = None) -> Any:
    """The output in the form of the model, or in the scripted one."""
    links = [_data_url(recipe, inline) if inline else link for link, recipe in made.files]
    scripted = made.fate.get("form")
    form = scripted.value if scripted else made.asked.model.output
    if form == "object":
        return {f"image_{number}": link for number, link in enumerate(links)}
    return links[0] if form == "one" and len(links) == 1 else links


def _data_url(recipe: Recipe, draw: Draw) -> str:
    return f"data:{CONTENT_TYPES[recipe.file_format]};base64,{base64.b64encode(draw(recipe)).decode()}"


def _urls(made: Prediction) -> dict[str, str]:
    own = f"{made.base_url}/predictions/{made.number}"
    return {"get": own, "cancel": f"{own}/cancel", "web": f"https://replicate.com/p/{made.number}"}


def _metrics(made: Prediction, status: str) -> dict[str, float]:
    spent = {"total_time": round(made.done_s - made.created_s, 6)}
    if made.starts_s is not None:
        spent["predict_time"] = round(max(0.0, made.done_s - made.starts_s), 6)
    return spent | ({"image_count": len(made.files)} if status == "succeeded" else {})


def _logs(made: Prediction, at: Standing[Ending]) -> str:
    """The seed, then tqdm's lines so far."""
    if at.status in ("starting", "aborted"):
        return ""
    done = STEPS if at.status == "succeeded" else min(STEPS - 1, int(STEPS * at.share))
    bars = (f"{100 * step // STEPS}%|{'#' * step:<{STEPS}}| {step}/{STEPS} [00:00<00:00]" for step in range(done + 1))
    return "\n".join([f"Using seed: {made.seed}", *bars, ""])


def iso(moment_s: float) -> str:
    """As the API writes moments."""
    return datetime.fromtimestamp(moment_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
