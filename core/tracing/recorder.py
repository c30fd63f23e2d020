"""Spans by OpenTelemetry's own SDK. Imported only while tracing is on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from core import tracing
from core.tracing import NO_SPAN, Attributes, Kind, Value
from core.version import VERSION

_KINDS: dict[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_NOWHERE = Context()
_W3C = TraceContextTextMapPropagator()


class OtelSpan:
    """A span of ``core.tracing`` that is one of OpenTelemetry's."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        found = self._span.get_span_context()
        return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"

    def name(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(_known(attributes))

    def fail(self, code: str) -> None:
        self._span.set_attribute("error.type", code)
        self._span.set_status(StatusCode.ERROR)

    def active(self) -> AbstractContextManager[object]:
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def end(self) -> None:
        self._span.end()


class OtelRecorder:
    """Makes spans by a provider of OpenTelemetry's; nothing of it is global."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("darkroom", VERSION)

    @contextmanager
    def span(
        self, name: str, kind: Kind, of: str | None, attributes: Attributes, began_ns: int | None
    ) -> Iterator[tracing.Span]:
        parent = _parent(of)
        if parent is None:
            yield NO_SPAN
            return
        with self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=_KINDS[kind],
            attributes=_known(attributes),
            start_time=began_ns,
            record_exception=False,  # its text may hold anything
            set_status_on_exception=False,
        ) as found:
            span = OtelSpan(found)
            try:
                yield span
            except BaseException as error:
                span.fail(str(getattr(error, "code", None) or type(error).__name__))
                raise

    def past(self, name: str, kind: Kind, of: str | None, attributes: Attributes, times_ns: tuple[int, int]) -> None:
        if (parent := _parent(of)) is not None:
            began_ns, ended_ns = times_ns
            found = self._tracer.start_span(
                name, context=parent, kind=_KINDS[kind], attributes=_known(attributes), start_time=began_ns
            )
            found.end(ended_ns)

    def request(self, traceparent: str | None, attributes: Attributes) -> OtelSpan:
        parent = _read(traceparent) if traceparent else _NOWHERE
        started = self._tracer.start_span("HTTP", context=parent, kind=SpanKind.SERVER, attributes=_known(attributes))
        return OtelSpan(started)

    @contextmanager
    def arrived(self, traceparent: str) -> Iterator[None]:
        token = contexts.attach(_read(traceparent))
        try:
            yield
        finally:
            contexts.detach(token)

    def current(self) -> tuple[str, str] | None:
        found = trace.get_current_span().get_span_context()
        return (f"{found.trace_id:032x}", f"{found.span_id:016x}") if found.is_valid else None


def _parent(of: str | None) -> Context | None:
    """The context to be a child of; None: there is nothing."""
    around = trace.get_current_span().get_span_context()
    if of is None:
        return contexts.get_current() if around.is_valid else None
    # A thread may have inherited the span of other work, which must not get what belongs elsewhere.
    if around.is_valid and of[3:35] == f"{around.trace_id:032x}":
        return contexts.get_current()
    found = _read(of)
    return found if trace.get_current_span(found).get_span_context().is_valid else None


def _read(traceparent: str) -> Context:
    """The context of a traceparent; an empty one where it cannot be read, as the specification asks."""
    return _W3C.extract({"traceparent": traceparent}, context=_NOWHERE)


def _known(attributes: Attributes) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if value is not None}
