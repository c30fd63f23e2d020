"""Regular expressions that take time in proportion to the text, whatever the pattern and whatever the text.

Python's own matcher goes back and forth: a pattern such as ``(a+)+b`` takes hours for 40 letters, and nothing can stop
it. Here all patterns are one automaton whose states are made as texts need them, so each character costs one look into
a table. That leaves out what no automaton can do: back-references, and looking ahead and behind.

Syntax: characters, ``.``, classes (``[a-z]``, ``[^0-9]``), the escapes d, w, s, b and their capitals, groups ``(...)``
and ``(?:...)``, ``|``, ``*``, ``+``, ``?``, ``{m}``, ``{m,n}``, ``{m,}``, ``^`` and ``$``. Case does not count.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from jobs.screening.folding import folded

MAX_CHARS = 500
MAX_REPEATS = 200
# Places of all patterns together, and what is remembered of them before it is forgotten.
MAX_PLACES = 20_000
MAX_STEPS_KEPT = 50_000
# The matcher looks at the clock, and lets other greenlets have their turn, after so many characters or new steps.
CHECK_EVERY, CHECK_EVERY_NEW = 4096, 64

_TOKEN = re.compile(
    r"(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<repeat>\{\d+(?:,\d*)?\}|[*+?])|(?P<escape>\\.)|(?P<group>\(\?:)|(?P<one>.)",
    re.DOTALL,
)
_START, _WORD, _OTHER, _END = range(4)

Test = Callable[[str], object]


class PatternError(ValueError):
    """A pattern that is not understood; the message says why."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of a pattern. ``kind``: test, edge, all, any, repeat."""

    kind: str
    parts: Sequence[_Node] = ()
    test: Test | None = None
    edge: str = ""
    least: int = 0
    most: int | None = None


class _Parser:
    """Reads one pattern by recursive descent."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_CHARS:
            raise PatternError(f"has more than {MAX_CHARS} characters")
        self._tokens = [(str(found.lastgroup), found[0]) for found in _TOKEN.finditer(pattern)]
        self._at = 0

    def whole(self) -> _Node:
        node = self._any()
        if self._at < len(self._tokens):
            raise PatternError("has a ) too many")
        return node

    def _next(self) -> tuple[str, str] | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _any(self) -> _Node:
        branches = [self._all()]
        while self._next() == ("one", "|"):
            self._at += 1
            branches.append(self._all())
        return branches[0] if len(branches) == 1 else _Node("any", branches)

    def _all(self) -> _Node:
        parts: list[_Node] = []
        while (token := self._next()) is not None and token not in {("one", "|"), ("one", ")")}:
            self._at += 1
            parts.append(self._repeated(self._atom(*token)))
        return parts[0] if len(parts) == 1 else _Node("all", parts)

    def _atom(self, kind: str, written: str) -> _Node:
        if kind == "repeat":
            raise PatternError(f"has {written} with nothing to repeat")
        if kind == "group" or written == "(":
            if kind == "one" and self._next() == ("repeat", "?"):
                raise PatternError(
                    "looks ahead or behind, names a group or sets flags: only (...) and (?:...) are known"
                )
            inner = self._any()
            if self._next() != ("one", ")"):
                raise PatternError("has a ( that is not closed")
            self._at += 1
            return inner
        if kind == "set":
            return _test(written)
        if kind == "escape":
            return _escape(written[1])
        if written in "^$":
            return _Node("edge", edge=written)
        if written in "[\\":
            raise PatternError(f"has a {written} that is not closed")
        if written == ".":
            return _test(".")
        return _Node("all", [_test(re.escape(each)) for each in folded(written)] or [_test(re.escape(written))])

    def _repeated(self, node: _Node) -> _Node:
        token = self._next()
        if token is None or token[0] != "repeat":
            return node
        self._at += 1
        least, most = _bounds(token[1])
        follows = self._next()
        if follows == ("repeat", "?"):  # lazy: the same texts match
            self._at += 1
        elif follows is not None and follows[0] == "repeat":
            raise PatternError(f"repeats twice: {token[1]}{follows[1]}")
        return _Node("repeat", [node], least=least, most=most)


def _bounds(written: str) -> tuple[int, int | None]:
    if written in "*+?":
        return (1 if written == "+" else 0), (1 if written == "?" else None)
    least, comma, most = written[1:-1].partition(",")
    low, high = int(least[:9]), (int(most[:9]) if most else None) if comma else int(least[:9])
    if max(low, high or 0) > MAX_REPEATS or (high is not None and high < low):
        raise PatternError(f"has {written}: at most {MAX_REPEATS}, the least first")
    return low, high


def _escape(letter: str) -> _Node:
    if letter in "bB":
        return _Node("edge", edge=letter)
    if letter in "dDwWsSnt" or not (letter.isalnum() and letter.isascii()):
        return _test(f"\\{letter}")
    raise PatternError(f"has \\{letter}, which is not known here")


def _test(source: str) -> _Node:
    try:
        return _Node("test", test=re.compile(source, re.IGNORECASE | re.DOTALL).fullmatch)
    except re.error as error:
        raise PatternError(f"has {source}: {error.msg}") from None


@dataclass(slots=True)
class _Place:
    """One place of the automaton: a test and what follows it, an edge, a fork, or the end of pattern ``accepts``."""

    test: Test | None = None
    edge: str = ""
    onward: list[int] = field(default_factory=list)
    accepts: int | None = None


class Patterns:
    """Several patterns as one automaton. Thread-safe; several texts may be searched at once."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises PatternError for one that is not understood, matches everything, or is too large with the others."""
        self._places: list[_Place] = []
        self._starts: list[int] = []
        for number, pattern in enumerate(patterns):
            end = self._add(_Place(accepts=number))
            self._starts.append(self._before(_Parser(pattern).whole(), end))
        self._lock = threading.Lock()
        self._table = _Table()
        if self._starts and (self.search("") is not None or self.search("\x00") is not None):
            raise PatternError("matches every text")

    def search(self, text: str, *, ends_at: float | None = None) -> int | None:
        """Return the number of the first pattern that is found in a folded text; None where none is.

        Raises TimeoutError once time.monotonic() is past ``ends_at``.
        """
        if not self._starts:
            return None
        table, state, new = self._table, 0, 0
        for at, character in enumerate(text):
            step = table.steps[state].get(character)
            if step is None:
                step = self._step(table, state, character)
                new += 1
            if step < 0:
                return -step - 1
            state = step
            if at % CHECK_EVERY == CHECK_EVERY - 1 or new >= CHECK_EVERY_NEW:
                new = 0
                time.sleep(0)
                if ends_at is not None and time.monotonic() > ends_at:
                    raise TimeoutError
        return self._accepted(self._closure(table, state, _END))

    # ------------------------------------------------------------ making the automaton

    def _add(self, place: _Place) -> int:
        if len(self._places) >= MAX_PLACES:
            raise PatternError("is too large, by itself or together with the others")
        self._places.append(place)
        return len(self._places) - 1

    def _before(self, node: _Node, end: int) -> int:
        """The place from which a text that the node matches leads to ``end``."""
        match node.kind:
            case "test":
                return self._add(_Place(test=node.test, onward=[end]))
            case "edge":
                return self._add(_Place(edge=node.edge, onward=[end]))
            case "any":
                return self._add(_Place(onward=[self._before(part, end) for part in node.parts]))
            case "all":
                for part in reversed(node.parts):
                    end = self._before(part, end)
                return end
            case _:
                return self._before_repeat(node, end)

    def _before_repeat(self, node: _Node, end: int) -> int:
        [part] = node.parts
        if node.most is None:
            loop = self._add(_Place(onward=[end]))
            self._places[loop].onward.append(self._before(part, loop))
            end = loop
        else:
            last = end
            for _ in range(node.most - node.least):
                end = self._add(_Place(onward=[self._before(part, end), last]))
        for _ in range(node.least):
            end = self._before(part, end)
        return end

    # ------------------------------------------------------------ running it

    def _step(self, table: _Table, state: int, character: str) -> int:
        """The next state, or minus one less the number of the pattern that is found before the character."""
        is_word = character == "_" or character.isalnum()
        reached = self._closure(table, state, _WORD if is_word else _OTHER)
        accepted = self._accepted(reached)
        if accepted is not None:
            step = -accepted - 1
        else:
            onward: set[int] = set()
            for number in reached:
                place = self._places[number]
                if place.test is not None and place.test(character):
                    onward.update(place.onward)
            with self._lock:
                step = table.state_of(frozenset(onward), _WORD if is_word else _OTHER)
        with self._lock:
            table.steps[state][character] = step
            table.kept += 1
            if table.kept > MAX_STEPS_KEPT and table is self._table:
                self._table = _Table()  # searches that have begun keep theirs
        return step

    def _closure(self, table: _Table, state: int, follows: int) -> set[int]:
        """Every place that is reached without a character, before one of the kind ``follows``."""
        places, before = table.states[state]
        open_, reached = [*places, *self._starts], set[int]()
        while open_:
            number = open_.pop()
            if number in reached:
                continue
            reached.add(number)
            place = self._places[number]
            if place.test is None and (not place.edge or _holds(place.edge, before, follows)):
                open_.extend(place.onward)
        return reached

    def _accepted(self, reached: Iterable[int]) -> int | None:
        found = [number for each in reached if (number := self._places[each].accepts) is not None]
        return min(found, default=None)


class _Table:
    """The states that texts have led to: places, and the kind of the character before; and their steps."""

    def __init__(self) -> None:
        self.states: list[tuple[frozenset[int], int]] = []
        self.steps: list[dict[str, int]] = []
        self.kept = 0
        self._known: dict[tuple[frozenset[int], int], int] = {}
        self.state_of(frozenset(), _START)

    def state_of(self, places: frozenset[int], before: int) -> int:
        known = self._known.get((places, before))
        if known is None:
            known = self._known[places, before] = len(self.states)
            self.states.append((places, before))
            self.steps.append({})
        return known


def _holds(edge: str, before: int, follows: int) -> bool:
    match edge:
        case "^":
            return before == _START
        case "$":
            return follows == _END
        case _:
            return ((before == _WORD) != (follows == _WORD)) is (edge == "b")
