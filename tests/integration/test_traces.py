"""Traces of a real web process and a real worker, as a collector gets them: one tree a job, whoever works on it."""

from __future__ import annotations

import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from otlp_collector import Collector, Got, collector
from receivers import Receiver, receiver
from worker_fleet import Fleet, running_fleet

from accounts.accounts import create_account
from accounts.keys import create_key
from core.db import Database, make_engine
from core.embedded.ports import free_ports
from quota import ledger
from sandbox.testing import Sandbox

PROMPT = "a fox that no collector hears of"
ENDED = {"succeeded", "failed", "cancelled"}
STOPS_WITHIN_S = 15


# How one may say which trace a request is a part of.
TOLD_BY = {"traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "uber-trace-id", "x-cloud-trace-context"}


def part_of(trace: str) -> dict[str, str]:
    """The headers of a request that is a part of a caller's trace."""
    return {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "tracestate": "vendor=state", "baggage": "user=1"}


@dataclass
class Traced:
    """A web process and a worker that export to a collector, a caller, and the caller's receiver of callbacks."""

    fleet: Fleet
    environ: dict[str, str]
    url: str
    token: str
    collector: Collector
    receiver: Receiver
    web: subprocess.Popen[bytes]
    web_log: Path

    def post(self, path: str, body: dict[str, Any], **headers: str) -> requests.Response:
        asked = {"Authorization": f"Bearer {self.token}", **headers}
        return requests.post(self.url + path, json=body, headers=asked, timeout=30)

    def submit(self, trace: str, prompt: str = PROMPT, **order: Any) -> str:
        """Order an image as the part of a caller's trace that ``00f067aa0ba902b7`` is a span of; return the task."""
        body = {"prompt": prompt, "model": "chatgpt2api-gpt-image-2", "size": "64x64", **order}
        answer = self.post("/api/images/generate", body, **part_of(trace))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def enhanced(self, trace: str) -> int:
        """Have a prompt written by web itself, as a part of a caller's trace; return the status."""
        return self.post("/api/prompts/enhance", {"prompt": PROMPT}, **part_of(trace)).status_code

    def status(self, task: str) -> str:
        headers = {"Authorization": f"Bearer {self.token}"}
        return str(requests.get(f"{self.url}/api/images/tasks/{task}", headers=headers, timeout=30).json()["status"])

    def ended(self, task: str, within_s: float = 45) -> str:
        self.fleet.eventually(lambda: self.status(task) in ENDED, within_s)
        return self.status(task)

    def tree(self, trace: str, *names: str) -> list[Got]:
        """The spans of a trace, once those with these names have arrived."""
        self.fleet.eventually(lambda: set(names) <= {each.name for each in self.collector.of(trace)})
        return self.collector.of(trace)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, postgres_url: str, sandbox_process: Sandbox) -> Iterator[Traced]:
    var, port = tmp_path_factory.mktemp("traces"), free_ports(1)[0]
    with running_fleet(var, postgres_url, "traces") as fleet, collector() as spans, receiver() as hears:
        database = Database(make_engine(fleet.database_url))
        with database.transaction() as connection:
            account = create_account(connection, "traced")
            ledger.grant(connection, account.id, 100_000_000)
            token = create_key(connection, account.id, name="k", scopes=("jobs:write", "jobs:read")).token
        database.dispose()
        upstreams = {
            "CHATGPT2API_BASE_URL": sandbox_process.chatgpt2api_url,
            "CHATGPT2API_API_KEY": "key-of-an-upstream",
            "OPENAI_BASE_URL": sandbox_process.openai_url,
            "OPENAI_API_KEY": "key-of-an-upstream",
        }
        environ = fleet.environ(upstreams) | {
            "DARKROOM_PORT": str(port),
            "DARKROOM_LOG_FORMAT": "json",
            "DARKROOM_ACCESS_LOG": "true",
            "DARKROOM_WEBHOOK_ALLOWED_HOSTS": "127.0.0.1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": spans.url,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        web = fleet.start(
            *("-m", "gunicorn", "-c", "python:app.gunicorn_conf", "app.wsgi:app"), environ=environ, log=var / "web.log"
        )
        found = Traced(fleet, environ, f"http://127.0.0.1:{port}", token, spans, hears, web, var / "web.log")
        try:
            fleet.ensure_worker(environ)
            _until_ready(found)
            yield found
        finally:
            web.kill()
            web.wait(20)


def _until_ready(found: Traced) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            requests.get(found.url + "/healthz", timeout=60)
        except requests.ConnectionError:
            assert time.monotonic() < until, found.web_log.read_text()[-4000:]
            time.sleep(0.1)
        else:
            return


@pytest.fixture(autouse=True)
def settings(sandbox: Sandbox) -> None:
    sandbox.settings(latency_s=0.3, prepared=True)


ASYNC = (
    "POST /api/images/<operation>",
    "jobs.submit",
    "publish chatgpt2api",
    "jobs.run chatgpt2api",
    "generate_content chatgpt2api-gpt-image-2",
    "jobs.poll chatgpt2api",
    "check chatgpt2api",
    "images.fetch",
    "jobs.settle",
)


def test_a_job_is_one_tree_from_the_callers_span_to_the_callback(traced: Traced, sandbox: Sandbox) -> None:
    trace = secrets.token_hex(16)
    task = traced.submit(trace, webhook_url=f"{traced.receiver.url}/hook?secret=of-a-url")
    assert traced.ended(task) == "succeeded"
    assert traced.enhanced(trace) == 200
    spans = traced.tree(trace, *ASYNC, "webhooks.deliver")
    by_id = {each.id: each for each in spans}
    assert set(ASYNC) <= {each.name for each in spans}
    [root] = [each for each in spans if each.parent not in by_id]
    assert (root.name, root.parent, root.kind) == ("POST /api/images/<operation>", "00f067aa0ba902b7", 2)
    above = {each.name: by_id[each.parent].name for each in spans if each is not root}
    assert above["jobs.submit"] == root.name
    assert above["jobs.run chatgpt2api"] == "publish chatgpt2api"
    assert above["generate_content chatgpt2api-gpt-image-2"] == "jobs.run chatgpt2api"
    assert above["images.fetch"] == "jobs.poll chatgpt2api"
    assert above["webhooks.deliver"] == "jobs.submit"
    assert {each.process["service.name"] for each in spans} == {"darkroom-web", "darkroom-worker"}
    assert all(each.began_ns <= each.ended_ns for each in spans)

    # No upstream is told of the trace, by the worker that orders and fetches or by web that has texts written.
    asked = sandbox.requests()
    assert {each["provider"] for each in asked} >= {"chatgpt2api", "openai"}
    assert [each["headers"] for each in asked if TOLD_BY & {name.lower() for name in each["headers"]}] == []

    # Who is called back goes on with the trace.
    told = {each.id for each in spans if each.name == "webhooks.deliver"}
    assert {each.headers["traceparent"].split("-")[1] for each in traced.receiver.got} == {trace}
    assert {each.headers["traceparent"].split("-")[2] for each in traced.receiver.got} <= told
    said = str([(each.name, each.attributes) for each in spans])
    for secret in (PROMPT, "key-of-an-upstream", "of-a-url", traced.token):
        assert secret not in said

    assert traced.collector.asked[0] == ("/v1/traces", "application/x-protobuf")
    for log in (traced.web_log, traced.fleet.log):
        assert f'"trace_id": "{trace}"' in log.read_text()


def test_the_tree_of_a_killed_workers_job_goes_on_in_the_next_worker(traced: Traced, sandbox: Sandbox) -> None:
    sandbox.settings(latency_s=2.0)
    trace = secrets.token_hex(16)
    task = traced.submit(trace)
    before = traced.tree(trace, "jobs.run chatgpt2api")
    traced.fleet.stop()
    traced.fleet.ensure_worker(traced.environ)
    assert traced.ended(task) == "succeeded"
    spans = traced.tree(trace, "jobs.settle")
    workers = {each.process["service.instance.id"] for each in spans if each.process["service.name"] != "darkroom-web"}
    assert len(workers) == 2
    by_id = {each.id: each for each in spans}
    assert [each.name for each in spans if each.parent not in by_id] == ["POST /api/images/<operation>"]
    assert {each.id for each in before} <= set(by_id)


def test_a_collector_that_hangs_delays_no_job_and_no_stop(traced: Traced) -> None:
    asked = len(traced.collector.asked)
    traced.collector.answering.clear()
    try:
        first = traced.submit(secrets.token_hex(16))
        traced.fleet.eventually(lambda: len(traced.collector.asked) >= asked + 2)  # web and worker hang
        second = traced.submit(secrets.token_hex(16))
        assert {traced.ended(first, 20), traced.ended(second, 20)} == {"succeeded"}
        worker = traced.fleet.ensure_worker(traced.environ)
        for process in (worker, traced.web):
            process.send_signal(signal.SIGTERM)
        assert (worker.wait(STOPS_WITHIN_S), traced.web.wait(STOPS_WITHIN_S)) == (0, 0)
    finally:
        traced.collector.answering.set()
