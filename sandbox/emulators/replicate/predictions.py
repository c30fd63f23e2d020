"""Predictions of the Replicate twin: their life by the clock (section 3 of the contract sheet) and how they look."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sandbox.drawing.images import CONTENT_TYPES, Recipe
from sandbox.emulators.replicate.errors import FAILURES, FLAGGED, INTERRUPTED, invalid
from sandbox.emulators.replicate.models import Model
from sandbox.faults import Script
from sandbox.markers import Fault

BOOT_SHARE = 0.2  # of the whole time a prediction is starting
RUN_MAX_S = 1800.0
RETENTION_S = 3600.0
STEPS = 4
TERMINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})
EVENTS = ("start", "output", "logs", "completed")
_DURATION = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s?)?")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

Draw = Callable[[Recipe], bytes]


@dataclass(frozen=True)
class Ending:
    """What a prediction comes to: a terminal status, or ``never``; ``backwards`` and ``flip`` on the way."""

    status: str = "succeeded"
    error: str = ""
    detour: str = ""


@dataclass(frozen=True)
class Asked:
    """The body of a create, checked."""

    model: Model
    input: Mapping[str, Any]
    version: str  # as the prediction shows it
    webhook: str | None = None
    events: tuple[str, ...] | None = None

    @property
    def prompt(self) -> str:
        """Where the markers stand."""
        return str(self.input.get("prompt") or "")


@dataclass
class Prediction:
    """One accepted create. Moments are seconds since 1970, on the sandbox's clock."""

    number: str
    owner: str
    asked: Asked
    base_url: str  # of the API, for the links it shows
    ending: Ending
    created_s: float
    lasts_s: float
    seed: int
    files: Sequence[tuple[str, Recipe]] = ()  # link and what lies there
    form: str = ""
    word: str = ""  # another word for starting and processing
    deadline_s: float | None = None
    retention_s: float = RETENTION_S
    cut: tuple[float, str, str] | None = None  # broken off: when, with which status and error

    def timeline(self) -> list[tuple[float, str]]:
        """(moment, status) in order, the last one terminal."""
        starts_s = self.created_s + self.lasts_s * BOOT_SHARE
        done_s = self.created_s + (RUN_MAX_S if self.ending.status == "never" else self.lasts_s)
        final = "failed" if self.ending.status == "never" else self.ending.status
        steps = [(self.created_s, "starting"), (starts_s, "processing"), (done_s, final)]
        if self.ending.detour == "backwards":
            back = [
                (self.created_s + 0.6 * self.lasts_s, "starting"),
                (self.created_s + 0.8 * self.lasts_s, "processing"),
            ]
            steps[2:2] = back
        if self.ending.detour == "flip":
            steps.append((done_s + 1, "failed"))
        cuts = [self.cut[:2]] if self.cut else []
        if self.deadline_s is not None and self.deadline_s < done_s:
            cuts.append((self.deadline_s, "aborted" if self.deadline_s < starts_s else "canceled"))
        if cuts:
            first = min(cuts)
            steps = [*(step for step in steps if step[0] < first[0]), first]
        return steps

    def standing(self, now: float) -> tuple[str, float]:
        """The status at ``now``, and since when."""
        steps = self.timeline()
        moment, status = next((step for step in reversed(steps) if step[0] <= now), steps[0])
        return status, moment

    @property
    def ends_s(self) -> float:
        """When it first reaches a terminal status."""
        return next(moment for moment, status in self.timeline() if status in TERMINAL)

    @property
    def starts_s(self) -> float | None:
        """When it began to run; None where it never does."""
        return next((moment for moment, status in self.timeline() if status == "processing"), None)


def ending_for(fate: Script) -> Ending:
    """What the faults of an accepted prediction make of it."""
    if fate.get("refuse"):
        return Ending("failed", FLAGGED)
    if fault := fate.get("fail"):
        return Ending("failed", FAILURES.get(fault.value, fault.value.replace("_", " ")))
    if fate.get("timeout"):
        return Ending("failed", FAILURES["start"])
    if fate.get("restart"):
        return Ending("failed", INTERRUPTED)
    if fate.get("never"):
        return Ending("never", "Prediction exceeded the longest run of 30 minutes")
    detour = fate.get("backwards", "flip")
    return Ending(error=FAILURES["upstream"], detour=detour.name) if detour else Ending()


def new_number(salt: str) -> str:
    """26 lower-case letters and digits."""
    value = int.from_bytes(hashlib.sha256(salt.encode()).digest()[:20], "big")
    return "".join(_DIGITS[value // 36**place % 36] for place in range(26))


def seconds_in(duration: str) -> float:
    """``Cancel-After``: ``30s``, ``5m``, ``1h30m45s`` or seconds; at least five. Raises Problem."""
    found = _DURATION.fullmatch(duration.strip())
    seconds = (
        sum(int(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    )
    if seconds < 5:
        raise invalid([("Cancel-After", "must be a duration of at least 5 seconds")])
    return float(seconds)


def describe(made: Prediction, now: float, *, inline: Draw | None = None) -> dict[str, Any]:
    """The prediction object. ``inline`` draws: then the output holds data URLs, as in an answer waited for."""
    status, since_s = made.standing(now)
    is_over, ended_s = status in TERMINAL, made.ends_s
    removed = is_over and now >= ended_s + made.retention_s
    shown: dict[str, Any] = {
        "id": made.number,
        "model": made.asked.model.path,
        "version": made.asked.version,
        "input": {} if removed else dict(made.asked.input),
        "logs": None if status == "canceled" else "" if removed else _logs(made, status, now),
        "data_removed": removed,
        "error": _error(made, status),
        "source": "api",
        "status": status if is_over else made.word or status,
        "created_at": iso(made.created_s),
        "urls": _urls(made),
    }
    if status != "starting":  # section 2: absent while it starts, not null
        shown["started_at"] = iso(made.starts_s) if made.starts_s is not None and made.starts_s <= now else None
        shown["output"] = None if removed or status != "succeeded" else output_of(made, inline)
    if is_over:
        shown["completed_at"] = iso(since_s)
        shown["metrics"] = _metrics(made, status)
    if made.deadline_s is not None:
        shown["deadline"] = iso(made.deadline_s)
    if made.asked.webhook is not None:
        shown["webhook"] = made.asked.webhook
        shown |= {"webhook_events_filter": list(made.asked.events)} if made.asked.events else {}
    return shown


def output_of(made: Prediction, inline: Draw | None = None) -> Any:
    """The output in the form of the model, or in the scripted one."""
    links = [_data_url(recipe, inline) if inline else link for link, recipe in made.files]
    form = made.form or made.asked.model.output
    if form == "object":
        return {f"image_{number}": link for number, link in enumerate(links)}
    if form == "one" and len(links) == 1:
        return links[0]
    return links


def _data_url(recipe: Recipe, draw: Draw) -> str:
    return f"data:{CONTENT_TYPES[recipe.file_format]};base64,{base64.b64encode(draw(recipe)).decode()}"


def _urls(made: Prediction) -> dict[str, str]:
    own = f"{made.base_url}/predictions/{made.number}"
    return {"get": own, "cancel": f"{own}/cancel", "web": f"https://replicate.com/p/{made.number}"}


def _error(made: Prediction, status: str) -> str | None:
    if status != "failed":
        return None
    return made.cut[2] if made.cut and made.cut[1] == "failed" else made.ending.error


def _metrics(made: Prediction, status: str) -> dict[str, float]:
    began_s, ended_s = made.starts_s, made.ends_s
    spent = {"total_time": round(ended_s - made.created_s, 6)}
    if began_s is not None:
        spent["predict_time"] = round(max(0.0, ended_s - began_s), 6)
    return spent | ({"image_count": len(made.files)} if status == "succeeded" else {})


def _logs(made: Prediction, status: str, now: float) -> str:
    """The seed, then tqdm's lines so far."""
    if status in ("starting", "aborted"):
        return ""
    share = 1.0 if status == "succeeded" or not made.lasts_s else (now - made.created_s) / made.lasts_s
    done = STEPS if status == "succeeded" else max(0, min(STEPS - 1, int(STEPS * share)))
    bars = (f"{100 * step // STEPS}%|{'#' * step:<{STEPS}}| {step}/{STEPS} [00:00<00:00]" for step in range(done + 1))
    return "\n".join([f"Using seed: {made.seed}", *bars, ""])


def iso(moment_s: float) -> str:
    """As the API writes moments."""
    return datetime.fromtimestamp(moment_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def broken_link(fault: Fault | None, link: str, host_url: str) -> str:
    """A link to nothing; ``dead_link=relative`` one without a host, ``dead_link=host`` one nobody serves."""
    if fault is None:
        return link
    if fault.value == "relative":
        return link.removeprefix(host_url)
    if fault.value == "host":
        return link.replace(host_url, "http://127.0.0.1:1")
    folder, _, name = link.rpartition("/")
    return f"{folder.rpartition('/')[0]}/{'0' * 32}/{name}"
