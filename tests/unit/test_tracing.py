"""Spans: which tree each belongs to, when there are none, and what a collector that is away may cost."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import structlog
from app_doubles import MINE, Edge, done_task, job_id, make_edge
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from core import log_streams, outages, tracing
from core.logging import configure
from core.outages import Outage
from core.settings import SettingsError
from core.tracing import switch
from core.tracing.export import Told
from core.tracing.recorder import OtelRecorder
from tests.logs import log_to_stderr
from tests.span_memory import SpanMemory, remembered

TRACE, OTHER = "4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"
COLLECTOR = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def memory() -> Iterator[SpanMemory]:
    with remembered() as found:
        yield found


# ------------------------------------------------------------------ on and off


@pytest.mark.parametrize(
    ("environ", "wanted", "on"),
    [
        ({}, None, False),
        ({}, True, True),
        ({COLLECTOR: "http://c:4318"}, None, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, None, True),
        ({COLLECTOR: " "}, None, False),
        ({COLLECTOR: "http://c:4318"}, False, False),
        ({COLLECTOR: "http://c:4318", "OTEL_SDK_DISABLED": "true"}, True, False),
        ({COLLECTOR: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None, False),
    ],
)
def test_tracing_is_on_where_the_environment_says_where_to(
    environ: dict[str, str], wanted: bool | None, on: bool
) -> None:
    assert switch.is_on(environ, wanted=wanted) is on


def test_what_would_export_nothing_is_refused_by_name_and_without_its_value() -> None:
    wrong = {
        COLLECTOR: "collector:4317?key=secret",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_TRACES_EXPORTER": "jaeger",
    }
    with pytest.raises(SettingsError) as refused:
        switch.start("darkroom-web", wrong, wanted=None)
    assert all(name in str(refused.value) for name in wrong)
    assert "secret" not in str(refused.value)
    assert tracing.recording() is None


def test_nothing_of_opentelemetry_is_imported_while_it_is_off() -> None:
    code = (
        "import sys; from core import tracing; from core.tracing import switch;"
        " assert not switch.start('darkroom-web', {}, wanted=None);"
        " tracing.span('x', of='y').__enter__().set({}); tracing.arrived('y');"
        " print([name for name in sys.modules if 'opentelemetry' in name])"
    )
    root = Path(__file__).resolve().parents[2]
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_without_a_trace_there_is_no_span(memory: SpanMemory) -> None:
    with tracing.span("alone") as alone, tracing.span("of nothing readable", of="00-xyz") as lost:
        assert (alone.traceparent, lost.traceparent, tracing.current()) == (None, None, None)
    assert memory.spans == ()


# ------------------------------------------------------------------ trees


def test_a_span_is_a_child_of_the_one_around_it_only_within_its_own_trace(memory: SpanMemory) -> None:
    inner, other = f"00-{TRACE}-00f067aa0ba902b8-01", f"00-{OTHER}-00f067aa0ba902b7-01"
    with tracing.span("step", of=CALLER), tracing.span("inner", of=inner), tracing.span("of another job", of=other):
        pass
    assert memory.parents() == {"step": None, "inner": "step", "of another job": None}
    [found] = memory.named("of another job")
    assert f"{found.context.trace_id:032x}" == OTHER


def test_a_message_of_another_trace_does_not_adopt_the_job(memory: SpanMemory) -> None:
    with tracing.arrived(f"00-{OTHER}-00f067aa0ba902b9-01"), tracing.span("stray", of=CALLER):
        pass
    with tracing.arrived(f"00-{TRACE}-00f067aa0ba902b9-01"), tracing.span("sent", of=CALLER):
        pass
    stray, sent = memory.spans
    assert stray.parent is not None
    assert sent.parent is not None
    assert (stray.parent.span_id, sent.parent.span_id) == (0x00F067AA0BA902B7, 0x00F067AA0BA902B9)


def test_what_leaves_a_span_fails_it_by_its_code_and_says_nothing_else(memory: SpanMemory) -> None:
    class CodedError(Exception):
        code = "rate_limited"

    for error in (CodedError("sk-secret"), KeyError("sk-secret")):
        with pytest.raises(type(error)), tracing.span("step", of=CALLER):
            raise error
    assert [dict(each.attributes or {}) for each in memory.spans] == [
        {"error.type": "rate_limited"},
        {"error.type": "KeyError"},
    ]
    assert all(not each.status.is_ok and not each.events for each in memory.spans)
    assert "sk-secret" not in str([each.to_json() for each in memory.spans])


def test_what_the_caller_does_not_want_sampled_is_not_and_is_passed_on_as_such(memory: SpanMemory) -> None:
    with tracing.span("step", of=f"00-{TRACE}-00f067aa0ba902b7-00") as span:
        assert span.traceparent is not None
        assert (span.traceparent[3:35], span.traceparent[-2:]) == (TRACE, "00")
    assert memory.spans == ()


# ------------------------------------------------------------------ requests


def ask(edge: Edge, path: str, **headers: str) -> None:
    """Ask as a server does, which closes the answer at its end."""
    edge.client.get(path, headers=headers).close()


def test_a_request_is_a_span_of_its_route_below_the_callers(memory: SpanMemory) -> None:
    edge = make_edge()
    edge.rows.add(done_task())
    path = f"/api/images/tasks/{job_id(1)}"
    ask(edge, path, **MINE, **{"traceparent": CALLER, "X-Request-Id": "order-7"})
    [span] = memory.spans
    assert span.name == "GET /api/images/tasks/<job_id>"
    assert (f"{span.context.trace_id:032x}", span.parent and f"{span.parent.span_id:016x}") == (
        TRACE,
        "00f067aa0ba902b7",
    )
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "http.route": "/api/images/tasks/<job_id>",
        "http.response.status_code": 200,
        "darkroom.request.id": "order-7",
        "darkroom.account.id": "acct_a",
    }


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "rubbish",
        f"00-{TRACE}-00f067aa0ba902b7",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"{CALLER},{CALLER}",
        CALLER + "-more",
    ],
)
def test_a_traceparent_that_cannot_be_read_is_ignored(memory: SpanMemory, bad: str) -> None:
    ask(make_edge(), "/api/quota", **MINE, traceparent=bad)
    [span] = memory.spans
    assert span.parent is None
    assert span.context.trace_id not in (0, int(TRACE, 16))


def test_probes_are_no_spans_an_unknown_path_is_not_told_and_a_fault_of_ours_fails_it(memory: SpanMemory) -> None:
    edge = make_edge()
    ask(edge, "/healthz")
    ask(edge, "/api/nothing/of-a-secret", **MINE)
    edge.rows.away = RuntimeError("sk-secret")
    ask(edge, f"/api/images/tasks/{job_id(1)}", **MINE)
    unknown, broken = memory.spans
    assert (unknown.name, unknown.status.is_ok) == ("GET", True)
    assert "of-a-secret" not in unknown.to_json()
    assert (broken.attributes or {})["http.response.status_code"] == 500
    assert (broken.status.is_ok, "sk-secret" in broken.to_json()) == (False, False)


# ------------------------------------------------------------------ logs


def test_a_line_of_the_log_names_its_span_and_no_foreign_one(memory: SpanMemory) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    structlog.contextvars.clear_contextvars()
    configure(level="INFO", log_format="json")
    out = io.StringIO()
    root.handlers[0].stream = out  # type: ignore[attr-defined]
    try:
        with tracing.span("step", of=CALLER):
            logging.getLogger("ours").info("within")
            structlog.get_logger("ours").info("of another job", trace_id=OTHER)
        logging.getLogger("ours").info("after")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        log_streams.release()
        log_to_stderr()
    within, other, after = [json.loads(line) for line in out.getvalue().splitlines()]
    [span] = memory.spans
    assert (within["trace_id"], within["span_id"]) == (TRACE, f"{span.context.span_id:016x}")
    assert (other["trace_id"], "span_id" in other) == (OTHER, False)
    assert "trace_id" not in after


# ------------------------------------------------------------------ a collector that is away


class Hanging(SpanExporter):
    """Takes one batch and never comes back."""

    def __init__(self) -> None:
        self.asked, self.over = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.over.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.over.set()


def test_spans_end_at_once_while_the_collector_hangs_and_the_queue_is_full() -> None:
    exporter, provider = Hanging(), TracerProvider(shutdown_on_exit=False)
    processor = BatchSpanProcessor(exporter, max_queue_size=50, max_export_batch_size=10)
    provider.add_span_processor(processor)
    tracing.record_with(OtelRecorder(provider))
    try:
        for _ in range(200):
            with tracing.span("step", of=CALLER):
                pass
        assert exporter.asked.wait(30)
        assert not exporter.over.is_set()
    finally:
        tracing.record_with(None)
        exporter.over.set()
        processor.shutdown()


class Failing(SpanExporter):
    result = SpanExportResult.FAILURE

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self.result


def test_an_outage_of_the_collector_is_told_once_and_its_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(Outage, "away", lambda _self: told.append("away"))
    monkeypatch.setattr(Outage, "back", lambda _self: told.append("back"))
    inner = Failing()
    exporter = Told(inner)
    assert exporter.export([]) is SpanExportResult.FAILURE
    inner.result = SpanExportResult.SUCCESS
    assert exporter.export([]) is SpanExportResult.SUCCESS
    assert told == ["away", "back"]
    assert outages.of("traces_collector") is outages.of("traces_collector")
