"""Which faults happen to a request: those written in its prompt, and those set by the control endpoint."""

import itertools
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sandbox.bounded import BoundedStore
from sandbox.markers import CHAT_FAULTS, OUTCOME_FAULTS, Fault, faults_in

OUTCOME = "outcome"


@dataclass(frozen=True)
class Occasion:
    """What the sandbox is about to do for a caller.

    ``place`` is submit (the answer to a submit), outcome (what becomes of an accepted job), check, download,
    chat or models. ``key`` is the caller's dedupe key where the contract has one.
    """

    provider: str
    place: str
    prompt: str = ""
    key: str = ""


@dataclass(frozen=True)
class Script:
    """The faults that fire on one occasion, in the order they were written."""

    faults: tuple[Fault, ...] = ()

    def get(self, *names: str) -> Fault | None:
        """The first of these faults."""
        for fault in self.faults:  # most scripts are empty, and this is asked several times for every look at a task
            if fault.name in names:
                return fault
        return None

    @property
    def refusal(self) -> Fault | None:
        """The fault that answers before anything is accepted or recorded as work."""
        return next((fault for fault in self.faults if fault.answers and not fault.accepts), None)

    @property
    def spoiler(self) -> Fault | None:
        """The fault that spoils the answer to work already accepted."""
        return next((fault for fault in self.faults if fault.answers and fault.accepts), None)


@dataclass
class Rule:
    """A fault set by the control endpoint. None matches anything; ``count`` is the most times it fires.

    The same ``seed`` makes the same requests fail in the same order.
    """

    number: int
    faults: tuple[Fault, ...]
    provider: str | None = None
    route: str | None = None
    prompt_contains: str | None = None
    probability: float = 1.0
    seed: int = 0
    count: int | None = None
    fired: int = 0
    dice: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def matches(self, occasion: Occasion) -> bool:
        """Whether the rule speaks of this occasion; says nothing of its probability."""
        place = "submit" if occasion.place == OUTCOME else occasion.place
        return (
            self.provider in (None, occasion.provider)
            and self.route in (None, place)
            and (self.prompt_contains is None or self.prompt_contains in occasion.prompt)
            and (self.count is None or self.fired < self.count)
        )

    def describe(self) -> dict[str, object]:
        """The rule as the control endpoint shows it."""
        shown = ("provider", "route", "prompt_contains", "probability", "seed", "count", "fired")
        faults = ", ".join(fault.text for fault in self.faults)
        return {"id": self.number, "faults": faults, **{name: getattr(self, name) for name in shown}}


class FaultBook:
    """Holds the rules and remembers how often each scripted fault has fired."""

    def __init__(self) -> None:
        self._rules: dict[int, Rule] = {}
        self._numbers = itertools.count(1)
        self._seen: BoundedStore[tuple[str, ...], list[int]] = BoundedStore(items_max=200_000)
        self._lock = threading.Lock()

    def add(self, faults: tuple[Fault, ...], **narrowed: Any) -> Rule:
        """Set a rule, ``narrowed`` by the other fields of ``Rule``."""
        with self._lock:
            rule = Rule(next(self._numbers), faults, **narrowed)
            self._rules[rule.number] = rule
            return rule

    def rules(self) -> list[Rule]:
        """All rules, oldest first."""
        return list(self._rules.values())

    def remove(self, number: int) -> bool:
        """Drop one rule; False if there was none."""
        return self._rules.pop(number, None) is not None

    def clear(self) -> None:
        """Drop every rule and what has fired."""
        with self._lock:
            self._rules.clear()
            self._seen.clear()

    def script(self, occasion: Occasion) -> Script:
        """The faults that fire now. Asking counts: a fault with ``times=1`` fires for the first asker only.

        Raises UnknownFault where the prompt's marker makes no sense.
        """
        written = faults_in(occasion.prompt)
        if not written and not self._rules:
            return Script()
        fired = [f for f in written if happens_at(f, occasion.place) and self._is_due(f, occasion)]
        return Script((*fired, *self._ruled(occasion)))

    def _ruled(self, occasion: Occasion) -> Iterator[Fault]:
        for rule in self.rules():
            due = [f for f in rule.faults if happens_at(f, occasion.place, route=rule.route)]
            if not due or not rule.matches(occasion):
                continue
            with self._lock:
                if rule.dice.random() < rule.probability:
                    rule.fired += 1
                    yield from due

    def _is_due(self, fault: Fault, occasion: Occasion) -> bool:
        times, skip = fault.option("times", 0), fault.option("skip", 0)
        if not times and not skip:
            return True
        counted_by = occasion.key if fault.options.get("per") == "key" else occasion.prompt
        with self._lock:
            # A list of one number, so that a hit is counted in place whatever its age in the store.
            seen, _ = self._seen.add((occasion.provider, occasion.place, fault.text, counted_by), lambda: [0])
            seen[0] += 1
            return skip < seen[0] <= (skip + times if times else float("inf"))


def happens_at(fault: Fault, place: str, *, route: str | None = None) -> bool:
    """Whether ``fault`` belongs to ``place``: told so by ``at=`` or its rule's route, else by its nature.

    What spoils an answer happens to the submit, and to a chat whose text carries the marker.
    """
    told = fault.place or route
    if fault.answers:
        return place == told if told else place in ("submit", "chat")
    if place == "chat":
        return fault.name in CHAT_FAULTS
    return place == OUTCOME and fault.name in OUTCOME_FAULTS


def can_happen_at(fault: Fault, route: str | None) -> bool:
    """Whether a rule for ``route`` with this fault could ever fire."""
    if route is None or fault.answers:
        return True
    return fault.name in (CHAT_FAULTS if route == "chat" else OUTCOME_FAULTS) and route in ("submit", "chat")
