"""Where spans go: in batches, by OTLP over HTTP, to one collector. Imported only while tracing is on."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from core import outages
from core.ids import new_id
from core.tracing.recorder import OtelRecorder
from core.version import VERSION

# A batch is encoded at a stretch, and nothing else of a gevent process runs meanwhile.
BATCH = 128
# How long a process that ends waits for its last spans; a collector that hangs must not hold it up.
LAST_WORDS_MS = 1500


def make_recorder(service: str, environ: Mapping[str, str]) -> OtelRecorder:
    """What makes and exports the spans of this process. Raises ValueError for variables the SDK cannot use."""
    for loud in ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal"):
        logging.getLogger(loud).setLevel(logging.CRITICAL)  # a line for each batch: the outage has its own two
    provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
    size = None if environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "").strip() else BATCH
    processor = BatchSpanProcessor(Told(OTLPSpanExporter()), max_export_batch_size=size)
    provider.add_span_processor(processor)
    # The public method waits half a minute for a collector that hangs.
    atexit.register(processor._batch_processor.shutdown, timeout_millis=LAST_WORDS_MS)
    return OtelRecorder(provider)


def _resource(service: str) -> Resource:
    """What all spans of this process have; the environment's word goes before ours."""
    given = dict(Resource.create().attributes)
    if str(given.get(SERVICE_NAME, "")).startswith("unknown_service"):
        given[SERVICE_NAME] = service
    ours = {"service.namespace": "darkroom", "service.version": VERSION, "service.instance.id": new_id("proc")}
    return Resource({**ours, **given})


class Told(SpanExporter):
    """An exporter whose collector may be away: one line when that begins, and one when it is over."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._outage = outages.of("traces_collector")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._outage.back()
        else:
            self._outage.away()
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()
