"""The language of faults: ``[sandbox:429 retry_after=3 times=2, latency=0.5]`` inside a prompt.

A marker holds faults separated by commas. A fault is a name, or ``name=value``, followed by options
``key=value`` separated by spaces. README.md lists the names; every other name is an error, for a fault that
was misspelt and silently ignored would make a test pass that tests nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

_MARKER = re.compile(r"\[sandbox:([^\]]*)\]", re.IGNORECASE)

# What replaces or spoils the answer to a call.
ANSWER_FAULTS = frozenset({
    "refuse", "quota", "hang", "drop", "cut", "garbage", "wrong_type", "huge", "slow_drip",
    "slow_header", "length_lie", "endless", "gzip_bomb", "redirect", "wrong_id", "link_host",
})  # fmt: skip
# What becomes of an accepted job: its end, its pace or its image.
OUTCOME_FAULTS = frozenset({
    "latency", "steps", "fail", "timeout", "restart", "expire", "never", "backwards", "flip", "empty",
    "fewer", "dead_link", "truncated", "bomb", "svg", "html", "polyglot", "frames", "wrong_size",
    "wrong_format", "stream_error", "early_close", "word", "unseen", "poll_host", "form",
})  # fmt: skip
CHAT_FAULTS = frozenset({
    "crlf", "comments", "split", "no_done", "stream_error", "early_close", "content_filter",
    "chat_latency",
})  # fmt: skip
PLACES = ("submit", "check", "download", "chat", "models", "upload", "moderation")
_STATUS = re.compile(r"^[45]\d\d$")
# These answers come after the work was taken on: the caller cannot know, which is their point.
_ACCEPTING = ANSWER_FAULTS - {"refuse", "quota"}


class UnknownFault(ValueError):  # noqa: N818 - reads as what it is
    """A marker or a control rule names a fault that does not exist, or gives it a senseless option."""


@dataclass(frozen=True)
class Fault:
    """One scripted fault. ``value`` and ``options`` are text, as written."""

    name: str
    value: str = ""
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def status(self) -> int | None:
        """The HTTP status this fault answers with, for names such as ``429``."""
        return int(self.name) if _STATUS.match(self.name) else None

    @property
    def answers(self) -> bool:
        """Whether it spoils an answer, rather than what becomes of the job."""
        return self.status is not None or self.name in ANSWER_FAULTS

    @property
    def accepts(self) -> bool:
        """Whether the call's work is taken on (and counted as accepted) although the answer is bad."""
        default = "1" if self.name in _ACCEPTING else "0"
        return self.options.get("accept", default) == "1"

    @property
    def place(self) -> str | None:
        """Where it was told to happen (``at=``); None for its usual place."""
        return self.options.get("at")

    @property
    def text(self) -> str:
        """The fault as it would be written."""
        head = f"{self.name}={self.value}" if self.value else self.name
        return " ".join([head, *(f"{key}={value}" for key, value in self.options.items())])

    def number(self, default: float) -> float:
        """The value as a number, ``default`` where none was given."""
        return as_number(self.value, default, f"the value of {self.name!r}")

    def option(self, key: str, default: float) -> float:
        """An option as a number."""
        return as_number(self.options.get(key, ""), default, f"option {key!r} of {self.name!r}")


def as_number(text: str, default: float, what: str) -> float:
    """``text`` as a number, ``default`` where it is empty. Raises UnknownFault."""
    if not text:
        return default
    try:
        return float(text)
    except ValueError as error:
        raise UnknownFault(f"{what} must be a number, not {text!r}") from error


def without_markers(prompt: str) -> str:
    """The prompt as a person meant it."""
    return " ".join(_MARKER.sub(" ", prompt).split())


def faults_in(prompt: str) -> tuple[Fault, ...]:
    """Every fault written into ``prompt``. Raises UnknownFault."""
    if "[" not in prompt:
        return ()
    return tuple(fault for body in _MARKER.findall(prompt) for fault in parse(body))


@lru_cache(maxsize=4096)
def parse(text: str) -> tuple[Fault, ...]:
    """Read ``"429 retry_after=3, latency=2"``. Raises UnknownFault."""
    return tuple(_one(part.split()) for part in text.split(",") if part.strip())


def _one(tokens: list[str]) -> Fault:
    name, _, value = tokens[0].partition("=")
    options: dict[str, str] = {}
    for token in tokens[1:]:
        key, equals, given = token.partition("=")
        if not equals:
            raise UnknownFault(f"sandbox: {token!r} is not an option (key=value); separate faults by commas")
        options[key] = given
    fault = Fault(name.lower(), value, MappingProxyType(options))
    _refuse_unknown(fault)
    return fault


_OPTIONS = frozenset({
    "times", "skip", "per", "at", "accept", "retry_after", "retry_after_ms", "conversation", "resume",
    "envelope",
})  # fmt: skip
_COUNTS = ("times", "skip")
_NEED_VALUES = ("link_host", "word")


def _refuse_unknown(fault: Fault) -> None:
    known = fault.answers or fault.name in OUTCOME_FAULTS or fault.name in CHAT_FAULTS
    if not known:
        raise UnknownFault(f"sandbox: there is no fault {fault.name!r}; sandbox/README.md lists them")
    if stray := set(fault.options) - _OPTIONS:
        raise UnknownFault(f"sandbox: fault {fault.name!r} takes no option {sorted(stray)[0]!r}")
    if fault.place is not None and fault.place not in PLACES:
        raise UnknownFault(f"sandbox: at={fault.place} is none of {', '.join(PLACES)}")
    if fault.place is not None and not fault.answers:
        raise UnknownFault(f"sandbox: {fault.name!r} is no answer, so at= does not apply to it")
    if fault.name in _NEED_VALUES and not fault.value:
        raise UnknownFault(f"sandbox: write {fault.name}=value")
    for key in _COUNTS:
        fault.option(key, 0)
    if fault.name in ("latency", "fewer", "steps", "chat_latency", "unseen"):
        fault.number(0)
