"""Spans of what this process does, exported by OpenTelemetry where tracing is on, and nothing at all where it is off.

Nothing here imports OpenTelemetry: ``core/tracing/switch.py`` does, once the operator has turned tracing on, and hands
over a recorder. A span is named by where it belongs: ``of`` is the traceparent (W3C) that lies with the work, so that
every process that takes part adds to one tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Value = str | int | float | bool
Attributes = Mapping[str, Value | None]  # None is left out


class Span(Protocol):
    """A span that is going on, or none; then nothing happens."""

    @property
    def traceparent(self) -> str | None:
        """What those have to be given who go on with it; None where there is no span."""

    def name(self, name: str) -> None:
        """Give it another name, which is known only now."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def fail(self, code: str) -> None:
        """Say that it has failed, and why: ``error.type``. A code and no text, which may hold anything."""


class Request(Span, Protocol):
    """The span of a request, which others end than began it."""

    def active(self) -> AbstractContextManager[object]:
        """What is done inside is done in this span."""

    def end(self) -> None:
        """End it."""


class Recorder(Protocol):
    """What makes spans while tracing is on."""

    def span(
        self, name: str, kind: Kind, of: str | None, attributes: Attributes, began_ns: int | None
    ) -> AbstractContextManager[Span]: ...

    def past(
        self, name: str, kind: Kind, of: str | None, attributes: Attributes, times_ns: tuple[int, int]
    ) -> None: ...

    def request(self, traceparent: str | None, attributes: Attributes) -> Request: ...

    def arrived(self, traceparent: str) -> AbstractContextManager[object]: ...

    def current(self) -> tuple[str, str] | None: ...


class _NoSpan:
    traceparent = None

    def name(self, name: str) -> None: ...

    def set(self, attributes: Attributes) -> None: ...

    def fail(self, code: str) -> None: ...


NO_SPAN: Span = _NoSpan()
NOTHING: AbstractContextManager[Span] = nullcontext(NO_SPAN)

_recorder: Recorder | None = None


def record_with(recorder: Recorder | None) -> None:
    """Turn tracing on in this process, or off with None."""
    global _recorder  # noqa: PLW0603 (a process traces or does not)
    _recorder = recorder


def recording() -> Recorder | None:
    """What makes this process's spans; None while tracing is off."""
    return _recorder


def span(
    name: str,
    kind: Kind = "internal",
    *,
    of: str | None = None,
    attributes: Attributes | None = None,
    began_ns: int | None = None,
) -> AbstractContextManager[Span]:
    """A span around what is done inside. An exception that leaves it fails it, with its code or its class.

    ``of``: the traceparent of what it belongs to. It is a child of the span around it if that is of the same trace, and
    else of ``of`` itself. Without ``of`` it is a child of the span around it; without both there is no span.
    ``began_ns``: when it began (``time.time_ns``), if before now.
    """
    if _recorder is None:
        return NOTHING
    return _recorder.span(name, kind, of, attributes or {}, began_ns)


def past(
    name: str,
    kind: Kind = "internal",
    *,
    of: str | None = None,
    attributes: Attributes | None = None,
    times_ns: tuple[int, int],
) -> None:
    """A span that is over, with its beginning and end (``time.time_ns``); else like :func:`span`."""
    if _recorder is not None:
        _recorder.past(name, kind, of, attributes or {}, times_ns)


def arrived(traceparent: str | None) -> AbstractContextManager[object]:
    """What is done inside follows from a message that came with this traceparent, if it has one that can be read."""
    if _recorder is None or traceparent is None:
        return NOTHING
    return _recorder.arrived(traceparent)


def trace_id(traceparent: str | None) -> str | None:
    """The id of the trace in a traceparent of ours; None without one, and while tracing is off."""
    return traceparent[3:35] if traceparent and _recorder is not None else None


def current() -> tuple[str, str] | None:
    """The ids of trace and span that this is done in, as hex digits; None where there is no span."""
    return None if _recorder is None else _recorder.current()
