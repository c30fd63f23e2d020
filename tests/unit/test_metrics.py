"""Metrics as a process keeps and serves them: slots, the merged answer, the port, the cost of a label too many."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
import requests
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from core.metrics import families
from core.metrics.exposition import Cached, Exposition
from core.metrics.families import FAMILIES, Counter, Reading
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
