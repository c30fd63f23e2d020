"""Apps whose routes are compiled once a process, for each test makes an app of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from werkzeug.routing.rules import Rule

Builder = Callable[..., tuple[str, str]]
_builders: dict[tuple[object, ...], Builder] = {}
_compile: Callable[[Rule, bool], Builder] = Rule._compile_builder


def _known_builder(rule: Rule, append_unknown: bool = True) -> Builder:
    """Werkzeug's own function that writes the rule's URLs, the same one for equal rules: it takes the rule as its
    argument, and has nothing of the app. Compiling those of one app takes 30 ms, most of what making it takes."""
    key = (rule.rule, tuple(rule._trace), repr(rule.defaults), append_unknown)
    if key not in _builders:
        _builders[key] = _compile(rule, append_unknown)
    return _builders[key]


def pytest_configure(config: Any) -> None:
    Rule._compile_builder = _known_builder  # type: ignore[method-assign]
