"""The alert rules by promtool: each fires for its fault, with its words, and is silent without it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_docs import ROOT

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
}
PROMTOOL = shutil.which("promtool")
AT = "20m"  # after every `for` but those of an hour
LATE = "70m"

# By alert: the series of its fault and without it (name: value, or +increase a minute), and the labels it fires with.
Series = dict[str, str]
CASES: dict[str, tuple[Series, Series, dict[str, str]]] = {
    "DarkroomNotScraped": ({}, {"darkroom_processes": "1"}, {}),
    "DarkroomDatabaseAway": (
        {'darkroom_server_away{server="database"}': "1", "darkroom_fleet_query_success": "0"},
        {'darkroom_server_away{server="database"}': "0", "darkroom_fleet_query_success": "1"},
        {},
    ),
    "DarkroomRedisAway": ({"darkroom_redis_up": "0"}, {"darkroom_redis_up": "1"}, {}),
    "DarkroomNoWorkers": (
        {'darkroom_workers{state="alive"}': "0"},
        {'darkroom_workers{state="alive"}': "1", 'darkroom_workers{state="silent"}': "0"},
        {},
    ),
    "DarkroomWorkersDie": (
        {'darkroom_jobs_moved_back_total{why="lapse"}': "+2"},
        {'darkroom_jobs_moved_back_total{why="retry"}': "+2"},
        {},
    ),
    "DarkroomBacklog": (
        {'darkroom_job_oldest_age_seconds{provider="fal",state="queued"}': "1000"},
        {
            'darkroom_job_oldest_age_seconds{provider="fal",state="queued"}': "100",
            'darkroom_job_oldest_age_seconds{provider="fal",state="waiting"}': "5000",
        },
        {"provider": "fal"},
    ),
    "DarkroomPollLag": (
        {'darkroom_poll_lag_seconds{provider="fal"}': "90"},
        {'darkroom_poll_lag_seconds{provider="fal"}': "1"},
        {"provider": "fal"},
    ),
    "DarkroomUpstreamFailing": (
        {
            'darkroom_upstream_errors_total{provider="fal",class="not_run"}': "+30",
            'darkroom_upstream_request_duration_seconds_count{provider="fal"}': "+60",
        },
        {
            'darkroom_upstream_errors_total{provider="fal",class="refused"}': "+30",
            'darkroom_upstream_request_duration_seconds_count{provider="fal"}': "+60",
        },
        {"provider": "fal"},
    ),
    "DarkroomCircuitOpen": (
        {'darkroom_provider_circuit_open{provider="fal"}': "1"},
        {'darkroom_provider_circuit_open{provider="fal"}': "0"},
        {"provider": "fal"},
    ),
    "DarkroomProviderPaused": (
        {'darkroom_provider_paused{provider="fal"}': "1"},
        {'darkroom_provider_paused{provider="fal"}': "0", 'darkroom_credential_paused{credential="fal/1"}': "0"},
        {"provider": "fal"},
    ),
    "DarkroomPermitsTaken": (
        {'darkroom_permits_taken{credential="fal/1"}': "4", 'darkroom_permits_max{credential="fal/1"}': "4"},
        {'darkroom_permits_taken{credential="fal/1"}': "3", 'darkroom_permits_max{credential="fal/1"}': "4"},
        {"credential": "fal/1"},
    ),
    "DarkroomJobsFail": (
        {
            'darkroom_jobs_ended_total{state="failed",code="upstream_unreachable"}': "+30",
            'darkroom_jobs_ended_total{state="succeeded"}': "+30",
        },
        {
            'darkroom_jobs_ended_total{state="failed",code="content_refused"}': "+30",
            'darkroom_jobs_ended_total{state="succeeded"}': "+30",
        },
        {},
    ),
    "DarkroomOwnDelay": (
        {
            'darkroom_own_delay_seconds_bucket{le="1"}': "+0",
            'darkroom_own_delay_seconds_bucket{le="10"}': "+60",
            'darkroom_own_delay_seconds_bucket{le="+Inf"}': "+60",
        },
        {
            'darkroom_own_delay_seconds_bucket{le="1"}': "+60",
            'darkroom_own_delay_seconds_bucket{le="10"}': "+60",
            'darkroom_own_delay_seconds_bucket{le="+Inf"}': "+60",
        },
        {},
    ),
    "DarkroomErrors": (
        {'darkroom_http_requests_total{code="503"}': "+10", 'darkroom_http_requests_total{code="200"}': "+90"},
        {'darkroom_http_requests_total{code="404"}': "+10", 'darkroom_http_requests_total{code="200"}': "+90"},
        {},
    ),
    "DarkroomPoolFull": (
        {
            'darkroom_database_connections{process="web",pool="main",state="used"}': "40",
            'darkroom_database_connections_max{process="web",pool="main"}': "40",
        },
        {
            'darkroom_database_connections{process="web",pool="main",state="idle"}': "40",
            'darkroom_database_connections{process="web",pool="main",state="used"}': "4",
            'darkroom_database_connections_max{process="web",pool="main"}': "40",
        },
        {"process": "web", "pool": "main"},
    ),
    "DarkroomWebhooksFailing": (
        {
            'darkroom_webhook_attempts_total{outcome="put_off"}': "+30",
            'darkroom_webhook_attempts_total{outcome="delivered"}': "+10",
        },
        {'darkroom_webhook_attempts_total{outcome="delivered"}': "+10"},
        {},
    ),
    "DarkroomWebhookLag": ({"darkroom_webhook_lag_seconds": "300"}, {"darkroom_webhook_lag_seconds": "1"}, {}),
    "DarkroomDrift": (
        {'darkroom_audit_findings{invariant="transfers_sum_to_zero"}': "1"},
        {'darkroom_audit_findings{invariant="transfers_sum_to_zero"}': "0"},
        {"invariant": "transfers_sum_to_zero"},
    ),
    "DarkroomNotAudited": ({"darkroom_audit_age_seconds": "300000"}, {"darkroom_audit_age_seconds": "80000"}, {}),
    "DarkroomHoldOld": (
        {"darkroom_hold_oldest_age_seconds": "30000"},
        {"darkroom_hold_oldest_age_seconds": "300"},
        {},
    ),
    "DarkroomCatalogDrift": (
        {'darkroom_catalog_differences{provider="fal",kind="gone"}': "1"},
        {'darkroom_catalog_differences{provider="fal",kind="gone"}': "0"},
        {"provider": "fal"},
    ),
    "DarkroomAbuse": (
        {'darkroom_abuse_events_open{rule="refusals"}': "1"},
        {'darkroom_abuse_events_total{rule="refusals",action="log"}': "+1"},
        {"rule": "refusals"},
    ),
    "DarkroomScreenFails": (
        {
            'darkroom_screening_failures_total{screen="hook",reason="url_too_slow"}': "+10",
            'darkroom_screening_failures_total{screen="hook",reason="bad_status"}': "+10",
            'darkroom_screening_duration_seconds_count{screen="hook"}': "+60",
            'darkroom_screening_duration_seconds_count{screen="words"}': "+600",
        },
        {
            'darkroom_screening_failures_total{screen="hook",reason="url_too_slow"}': "+2",
            'darkroom_screening_refusals_total{screen="hook",category="violence"}': "+50",
            'darkroom_screening_duration_seconds_count{screen="hook"}': "+60",
        },
        {"screen": "hook"},
    ),
    "DarkroomDiskFull": (
        {"darkroom_disk_free_bytes": "5", "darkroom_disk_size_bytes": "100"},
        {"darkroom_disk_free_bytes": "50", "darkroom_disk_size_bytes": "100"},
        {},
    ),
    "DarkroomDecodersBusy": ({"darkroom_decoders_busy_total": "+1"}, {"darkroom_decoders_busy_total": "3"}, {}),
    "DarkroomSweepStopped": ({"darkroom_sweep_rounds_total": "7"}, {"darkroom_sweep_rounds_total": "+20"}, {}),
    "DarkroomLoopFaults": (
        {'darkroom_clock_failures_total{loop="sweep",reason="fault"}': "+2"},
        {'darkroom_clock_failures_total{loop="sweep",reason="database_away"}': "+2"},
        {"loop": "sweep"},
    ),
}


def test_every_rule_has_a_fault_and_a_section_of_the_page_for_who_is_on_call() -> None:
    assert set(CASES) == set(RULES)
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "on-call.md").read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-").replace(",", "") for heading in headings}
    for rule in RULES.values():
        page, _, anchor = rule["annotations"]["page"].partition("#")
        assert page == "docs/on-call.md"
        assert anchor in anchors


def test_each_alert_fires_for_its_fault_and_is_silent_without_it(tmp_path: Path) -> None:
    if PROMTOOL is None:
        pytest.skip("promtool is not installed; Debian's package is prometheus")
    tests = [_test(name, firing=firing) for name in CASES for firing in (True, False)]
    document = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [PROMTOOL, "test", "rules", str(tmp_path / "tests.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _test(name: str, *, firing: bool) -> dict[str, Any]:
    fault, health, labels = CASES[name]
    rule = RULES[name]
    annotations = {key: _rendered(text, labels) for key, text in rule["annotations"].items()}
    expected = [{"exp_labels": {**rule["labels"], **labels}, "exp_annotations": annotations}]
    return {
        "interval": "1m",
        "input_series": [
            {"series": series, "values": f"0{value}x300" if value.startswith("+") else f"{value}x300"}
            for series, value in (fault if firing else health).items()
        ],
        "alert_rule_test": [
            {
                "eval_time": LATE if rule.get("for") == "1h" else AT,
                "alertname": name,
                "exp_alerts": expected if firing else [],
            }
        ],
    }


def _rendered(text: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels.get(found[1], ""), text)
