"""Metrics as a process keeps and serves them: slots, the merged answer, the port, the cost of a label too many."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import cast

import pytest
import requests
from app_doubles import MINE, job_id, make_edge
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from accounts.callers import Callers
from app.callers import with_metrics_token
from app.http import metering
from core.metrics import families, snapshots
from core.metrics.exposition import Cached, Exposition
from core.metrics.families import FAMILIES, Counter, Gauge, Mode, Reading, kept
from core.metrics.serving import Upkeep
from core.metrics.slots import Slot, folder_of
from tests.unit.test_docs import ROOT

# A process that takes a slot and counts; it says what it has taken, answers one scrape and waits to be ended.
COUNTS = """
import json
import sys
from pathlib import Path
from core.metrics import slots
from core.metrics.exposition import Exposition
from core.metrics.families import Counter, Gauge, Histogram
made, much = Counter("t_made_total", "Made.", ("kind",)), float(sys.argv[2])
held, took = Gauge("t_held", "Held."), Histogram("t_took_seconds", "Took.", buckets=(1.0, 5.0))
slot = slots.join(Path(sys.argv[1]), "web")
made.of("a").inc(much); held.of().set(much); took.of().observe(2)
slots.save()
print(slot, flush=True)
for _ in sys.stdin:
    print(json.dumps(Exposition().text().decode()), flush=True)
"""


class Counting:
    def __init__(self, var: Path, much: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", COUNTS, str(var), str(much)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.slot = self._line()

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def scrape(self) -> dict[str, float]:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return samples(json.loads(self._line()))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def samples(text: str) -> dict[str, float]:
    return {
        each.name + "".join(f",{key}={value}" for key, value in sorted(each.labels.items())): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


@pytest.fixture
def declared() -> Iterator[None]:
    before = dict(FAMILIES)
    yield
    FAMILIES.clear()
    FAMILIES.update(before)


def test_processes_of_a_machine_answer_together_and_counters_outlive_them(tmp_path: Path) -> None:
    first, second = Counting(tmp_path, 3), Counting(tmp_path, 4)
    try:
        assert (first.slot, second.slot) == ("web-0", "web-1")
        both = first.scrape()
        assert (both["t_made_total,kind=a"], both["t_held"], both["t_took_seconds_bucket,le=5.0"]) == (7, 7, 2)
        first.kill()
        assert second.scrape()["t_held"] == 4, "the gauge of a process that is gone does not count"
        third = Counting(tmp_path, 5)
        assert third.slot == "web-0", "its slot is taken again"
        after = third.scrape()
        assert (after["t_made_total,kind=a"], after["t_held"]) == (12, 9), "and its counters go on"
        third.kill()
    finally:
        first.kill()
        second.kill()
    assert len(list(folder_of(tmp_path).glob("*.json"))) == 2


def test_gauges_of_several_processes_are_their_sum_or_the_worst_of_them(declared: None) -> None:
    found = []
    for value in (3.0, 1.0):
        modes: tuple[Mode, ...] = ("sum", "max", "min")
        for mode in modes:
            FAMILIES.pop(f"t_{mode}", None)
            Gauge(f"t_{mode}", "Noted.", mode=mode).of().set(value)
        found.append(snapshots.taken([each for each in kept() if each.name in ("t_sum", "t_max", "t_min")]))
    together = snapshots.merged(found)
    assert {name: each.samples[(name, ())] for name, each in together.items()} == {"t_sum": 4, "t_max": 3, "t_min": 1}


def test_a_full_disk_costs_the_file_and_nothing_else(tmp_path: Path, declared: None) -> None:
    Counter("t_full_total", "Full.").of().inc()
    folder = tmp_path / "slots"
    folder.mkdir()
    with (folder / "web-0.lock").open("ab") as lock:
        slot = Slot(folder, "web-0", lock)
        slot.save()
        before = (folder / "web-0.json").read_bytes()
        (folder / "web-0.new").symlink_to("/dev/full")
        slot.save()
        assert (folder / "web-0.json").read_bytes() == before
        assert slot.now()["t_full_total"].samples[("t_full_total", ())] == 1


def test_a_file_that_is_damaged_is_no_end_of_a_start(tmp_path: Path) -> None:
    (tmp_path / "web-0.json").write_text('{"t_total": ["counter", 7')
    with (tmp_path / "web-0.lock").open("ab") as lock:
        assert "t_total" not in Slot(tmp_path, "web-0", lock).now()


def test_a_family_has_a_last_series_for_labels_without_bound(declared: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "MOST", 3)
    family = Counter("t_bounded_total", "Bounded.", ("name",))
    for number in range(10):
        family.of(str(number)).inc()
    [metric] = family.collect()
    told = {each.labels["name"]: each.value for each in metric.samples if each.name == "t_bounded_total"}
    assert told == {"0": 1, "1": 1, "2": 1, "other": 7}


def test_a_name_is_declared_once(declared: None) -> None:
    Counter("t_twice_total", "Once.")
    with pytest.raises(ValueError, match="twice"):
        Reading("t_twice_total", "Again.")


def test_scrapes_share_a_reading_for_some_seconds(declared: None) -> None:
    now, asked = [0.0], [0]
    reading = Reading("t_read", "Read.")

    def read() -> list[Metric]:
        asked[0] += 1
        return [reading.metric(((), float(asked[0])))]

    exposition = Exposition(Cached(read, every_s=5.0, clock=lambda: now[0]))
    seen = []
    for now[0] in (0.0, 4.9, 5.0):
        seen.append(samples(exposition.text().decode())["t_read"])
    assert (seen, asked) == ([1, 1, 2], [2])


def test_a_server_that_hangs_costs_its_own_series_alone(declared: None) -> None:
    reading, away, hangs, asked = Reading("t_read", "Read."), Reading("t_away", "Away."), Event(), []

    def read() -> list[Metric]:
        asked.append(1)
        hangs.wait(30)
        return [reading.metric(((), 1.0))]

    cached = Cached(read, instead=lambda: [away.metric(((), 1.0))], patience_s=0.05)
    assert [each.name for each in cached()] == ["t_away"]
    assert [each.name for each in cached()] == ["t_away"]
    hangs.set()
    cached._patience_s = 30
    assert ([each.name for each in cached()], asked) == (["t_read"], [1])


def test_the_port_answers_metrics_alone_and_wants_the_token(declared: None) -> None:
    reading = Reading("t_served", "Served.")
    notes = []
    upkeep = Upkeep(
        Exposition(lambda: [reading.metric(((), 1.0))]),
        [lambda: notes.append(1), lambda: notes.append(1 // 0)],
        address=("127.0.0.1", 0),
        token="the token",
    )
    upkeep.once()
    url = f"http://127.0.0.1:{upkeep.port}"
    try:
        assert notes == [1], "a note that fails keeps no other from being taken"
        assert requests.get(f"{url}/metrics", timeout=5).status_code == 401
        wrong = {"Authorization": "Bearer another"}
        assert requests.get(f"{url}/metrics", headers=wrong, timeout=5).status_code == 401
        right = {"Authorization": "Bearer the token"}
        assert samples(requests.get(f"{url}/metrics", headers=right, timeout=5).text)["t_served"] == 1
        assert requests.get(f"{url}/other", headers=right, timeout=5).status_code == 404
    finally:
        upkeep.stop()


def test_the_port_passes_on_to_another_process(declared: None) -> None:
    first = Upkeep(Exposition(), [], address=("127.0.0.1", 0), token=None)
    first.once()
    assert first.port
    second = Upkeep(Exposition(), [], address=("127.0.0.1", first.port), token=None)
    second.once()
    assert second.port is None
    first.stop()
    second.once()
    assert second.port == first.port
    second.stop()


# ---------------------------------------------------------------- the API's route, and the page


def test_metrics_are_for_admins_and_the_bearer_of_the_token() -> None:
    edge = make_edge()
    assert edge.client.get("/metrics").status_code == 401
    assert edge.client.get("/metrics", headers=MINE).json["code"] == "scope_missing"
    answer = edge.client.get("/metrics", headers={"Authorization": "Bearer dk_admin_secret"})
    assert answer.status_code == 200
    told = samples(answer.text)
    assert told["darkroom_http_requests_total,code=401,method=GET,route=/metrics"] >= 1
    assert told["darkroom_http_request_duration_seconds_count,route=/metrics"] >= 2


def test_the_token_reads_metrics_and_nothing_else() -> None:
    class NoKeys:
        def authenticate(self, _token: str) -> None:
            return None

        def knows(self, _token: str) -> bool:
            return False

    callers = with_metrics_token(cast(Callers, NoKeys()), "the token")
    reader = callers.authenticate("the token")
    assert (reader and reader.scopes, callers.knows("the token")) == ({"metrics"}, True)
    assert callers.authenticate("another") is None


def test_a_route_is_its_pattern_and_what_is_no_route_is_one_series() -> None:
    edge = make_edge()
    for path in (f"/api/images/tasks/{job_id(1)}", "/no/such/way", "/nor/this"):
        edge.client.get(path, headers=MINE)
    routes = {each.labels["route"] for metric in metering.REQUESTS.collect() for each in metric.samples}
    assert {"/api/images/tasks/<job_id>", "none"} <= routes
    assert not [route for route in routes if "job_0" in route or "such" in route]


# Every module that declares families; importing them is what declares them.
DECLARING = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for name in ("app", "core", "jobs", "webhooks", "storage", "workers")
    for path in (ROOT / name).rglob("*.py")
    if re.search(r"^\w+ = (Counter|Gauge|Histogram|Reading)\(", path.read_text(), re.MULTILINE)
)


def test_the_page_has_a_row_for_every_series_and_no_other() -> None:
    for module in DECLARING:
        importlib.import_module(module)
    page = (ROOT / "docs" / "operating.md").read_text()
    rows = re.findall(r"^\| `((?:darkroom|flower)_\w+)` \| (\w+) \| (.+?) \| (.+) \|$", page, re.MULTILINE)
    ours = {name: each for name, each in FAMILIES.items() if not name.startswith("t_")}
    labels = {name: ", ".join(f"`{label}`" for label in each.labels) or "none" for name, each in ours.items()}
    assert rows == [(name, ours[name].kind, labels[name], ours[name].text) for name in sorted(ours)]


def test_rules_and_panels_ask_for_series_that_exist() -> None:
    for module in DECLARING:
        importlib.import_module(module)
    known = {
        name + end
        for name, each in FAMILIES.items()
        for end in (("_bucket", "_sum", "_count") if each.kind == "histogram" else ("",))
    }
    files = [ROOT / "deploy" / "prometheus" / "alerts.yml", ROOT / "deploy" / "grafana" / "darkroom.json"]
    asked = {name for path in files for name in re.findall(r"\b(?:darkroom|flower)_[a-z_]+", path.read_text())}
    assert asked <= known
    page = (ROOT / "docs" / "on-call.md").read_text()
    assert set(re.findall(r"`((?:darkroom|flower)_[a-z_]+)", page)) <= set(FAMILIES)


def test_no_family_has_a_label_without_a_bound() -> None:
    for module in DECLARING:
        importlib.import_module(module)
    bounded = {"method", "route", "code", "provider", "operation", "state", "why", "kind", "class", "work", "backlog"}
    bounded |= {"outcome", "credential", "invariant", "process", "pool", "server", "version", "verb", "worker", "task"}
    bounded |= {"loop", "reason", "rule", "action", "screen", "category", "limit"}
    assert {label for name, each in FAMILIES.items() if not name.startswith("t_") for label in each.labels} <= bounded
