"""Tracing that is on in a test, with its spans kept in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from core import tracing
from core.tracing.recorder import OtelRecorder


@dataclass(frozen=True)
class SpanMemory:
    """What has ended so far."""

    exporter: InMemorySpanExporter
    recorder: OtelRecorder

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [each for each in self.spans if each.name == name]

    def parents(self) -> dict[str, str | None]:
        """The name of each span's parent, by its own name; None where that has not ended here."""
        names = {each.context.span_id: each.name for each in self.spans}
        return {each.name: names.get(each.parent.span_id) if each.parent else None for each in self.spans}


@contextmanager
def remembered() -> Iterator[SpanMemory]:
    """Tracing is on inside."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    found = SpanMemory(exporter, OtelRecorder(provider))
    tracing.record_with(found.recorder)
    try:
        yield found
    finally:
        tracing.record_with(None)
