"""A real Prometheus scrapes the running service while faults are injected: every panel and rule is asked of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import requests
import yaml

from core.embedded.ports import free_ports
from tests.e2e.conftest import Service, until
from tests.unit.test_docs import ROOT

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
PANELS = [
    (panel["title"], target["expr"])
    for panel in json.loads((ROOT / "deploy" / "grafana" / "darkroom.json").read_text())["panels"]
    for target in panel.get("targets", ())
]
# The faults below show within seconds; others have to last, and promtool tells of them (tests/unit).
INJECTED = {
    "DarkroomUpstreamFailing",
    "DarkroomJobsFail",
    "DarkroomWebhooksFailing",
    "DarkroomDrift",
    "DarkroomProviderPaused",
}
AWAY = {"DarkroomNotScraped", "DarkroomDatabaseAway", "DarkroomRedisAway", "DarkroomNoWorkers", "DarkroomBacklog"}
# What this run has nothing of: limited credentials, a comparison of the catalogue, overload, and faults of ours.
WITHOUT_DATA = (
    "darkroom_permits_",
    "darkroom_catalog_",
    "darkroom_decoders_busy_total",
    "darkroom_retention_rows_total",
    "darkroom_clock_failures_total",
    "darkroom_sweep_jobs_total",
    "darkroom_poll_lag_seconds",
    "darkroom_jobs{",
    "darkroom_job_oldest_age_seconds",
    "darkroom_upstream_calls_open",
    "darkroom_jobs_moved_back_total",
)
PROMPT = "a prompt that no label shows"


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The samples of an instant query; a query that Prometheus does not take fails the test."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=10).json()
        assert answer["status"] == "success", (query, answer)
        return list(answer["data"]["result"])

    def value(self, query: str) -> float:
        return sum(float(each["value"][1]) for each in self.ask(query))


@pytest.fixture(scope="module")
def prometheus(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if PROMETHEUS is None or PROMTOOL is None:
        pytest.skip("prometheus is not installed; Debian's package is prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    key = folder / "key"
    key.write_text(service.running.admin_key_path.read_text().strip())
    [port] = free_ports(1)
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(ROOT / "deploy" / "prometheus" / "alerts.yml")],
                "scrape_configs": [
                    {
                        "job_name": "darkroom",
                        "authorization": {"credentials_file": str(key)},
                        "static_configs": [{"targets": [service.running.url.removeprefix("http://")]}],
                    }
                ],
            }
        )
    )
    command = [
        PROMETHEUS,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    found = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until(lambda: process.poll() is not None or _scraped(found), 20, "Prometheus to have scraped")
        assert process.poll() is None, (folder / "log").read_text()
        yield found
    finally:
        process.terminate()
        process.wait(10)


def _scraped(prometheus: Prometheus) -> bool:
    try:
        return prometheus.value("up") == 1
    except requests.RequestException:
        return False


@pytest.fixture(scope="module")
def faulty(service: Service, prometheus: Prometheus) -> Iterator[None]:
    """A run with what can go wrong in seconds: an upstream that fails, a receiver that is away, a pause, drift."""
    [deaf] = free_ports(1)
    admin, endpoints = service.url("/api/admin"), service.url("/api/webhooks")
    receiver = service.http.post(endpoints, json={"url": f"http://127.0.0.1:{deaf}/"}, timeout=10).json()["id"]
    service.sandbox("faults", faults="401", provider="openai")
    try:
        assert service.http.post(f"{admin}/providers/xai/pause", params={"reason": "a test"}, timeout=10).ok
        _drift(service, 1)
        for _ in range(2):  # what is new at one scrape is an increase at a later one
            made = service.submit(prompt=PROMPT, model="chatgpt2api-gpt-image-2")["id"]
            failed = [service.submit(prompt=PROMPT, model="gpt-image-2")["id"] for _ in range(2)]
            service.all_ended([made, *failed])
            seen = prometheus.value("sum(darkroom_webhook_attempts_total)")
            until(lambda: prometheus.value("sum(darkroom_webhook_attempts_total)") > seen, 10, "attempts to be scraped")  # noqa: B023
        until(lambda: _firing(prometheus) >= INJECTED, 20, "the alerts of the faults")
        yield
    finally:
        requests.delete(f"{service.running.sandbox_url}/control/faults", timeout=10)
        for paused in ("xai", "openai"):  # what has failed also opened its circuit
            service.http.post(f"{admin}/providers/{paused}/resume", timeout=10)
        service.http.delete(f"{endpoints}/{receiver}", timeout=10)
        _drift(service, -1)


def _drift(service: Service, amount: int) -> None:
    """Change a balance without a transfer, and have the audit find it; and back."""
    with psycopg.connect(service.running.environ["DATABASE_URL"]) as connection:
        connection.execute(
            "UPDATE balances SET spendable = spendable + %s, available = available + %s"
            " WHERE account_id = (SELECT id FROM accounts WHERE name = %s)",
            (amount, amount, "admin"),
        )
    assert service.audit()["clean"] is (amount < 0)


def _firing(prometheus: Prometheus) -> set[str]:
    """The rules whose expression holds now, without the time for which it must."""
    return {rule["alert"] for rule in RULES if prometheus.ask(rule["expr"])}


def test_the_answer_is_clean_by_promtool(service: Service, prometheus: Prometheus) -> None:
    text = service.http.get(service.url("/metrics"), timeout=10).content
    done = subprocess.run([PROMTOOL or "", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@pytest.mark.usefixtures("faulty")
def test_every_panel_of_the_dashboard_shows_this_run(prometheus: Prometheus) -> None:
    empty = [
        title
        for title, expr in PANELS
        if not prometheus.ask(expr.replace("$__rate_interval", "1m")) and not any(name in expr for name in WITHOUT_DATA)
    ]
    assert empty == []


@pytest.mark.usefixtures("faulty")
def test_the_alerts_of_the_faults_hold_and_those_of_others_do_not(prometheus: Prometheus) -> None:
    firing = _firing(prometheus)
    assert firing >= INJECTED
    assert not firing & AWAY


@pytest.mark.usefixtures("faulty")
def test_labels_hold_no_ids_and_no_prompts(service: Service) -> None:
    text = service.http.get(service.url("/metrics"), timeout=10).text
    assert not re.findall(r"(?:job|acct|call|whe|upl|wkr|req)_[0-9A-Z]{20,}", text)
    assert PROMPT not in text
    assert 'route="/api/images/tasks/<job_id>"' in text
