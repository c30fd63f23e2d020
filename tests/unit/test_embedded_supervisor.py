from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.embedded import supervisor as supervisor_module
from core.embedded.faults import EmbeddedError
from core.embedded.lines import JsonLines, Prefixed
from core.embedded.processes import Program, identify
from core.embedded.runfile import RunFile
from core.embedded.supervisor import Supervisor, backoff_s


class Lines:
    """What the programs wrote, and a way to wait for it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._news = threading.Condition()

    def __call__(self, name: str, line: str) -> None:
        with self._news:
            self.seen.append((name, line))
            self._news.notify_all()

    def expect(self, name: str, line: str, times: int = 1) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.seen.count((name, line)) >= times, 20), self.seen


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def supervisor(tmp_path: Path, lines: Lines) -> Iterator[Supervisor]:
    made = Supervisor(lines, RunFile(tmp_path / "processes.json"))
    yield made
    made.hurry()
    made.stop()


def shell(name: str, line: str, **options) -> Program:
    return Program(name=name, argv=["sh", "-c", line], environ={"PATH": os.defpath}, **options)


def eventually(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_backoff_doubles_from_half_a_second_to_ten():
    assert [backoff_s(n) for n in (1, 2, 3, 5, 6, 60)] == [0.5, 1.0, 2.0, 8.0, 10.0, 10.0]


def test_what_dies_is_started_again_with_its_last_words_heard(supervisor, lines, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_BACKOFF_FIRST_S", 0.01)
    supervisor.start(shell("brief", "printf 'no newline'; exit 3"))
    lines.expect("brief", "no newline", times=3)
    lines.expect("brief", "ended with status 3; starting again in 0.0 s", times=2)
    assert supervisor.failures()["brief"] >= 2


def test_a_long_life_clears_the_record(supervisor, lines, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(supervisor_module, "_HEALTHY_S", 0.0)
    supervisor.start(shell("brief", "echo up"))
    lines.expect("brief", "up", times=4)
    assert supervisor.failures()["brief"] == 1


def test_a_grandchild_does_not_outlive_its_killed_parent(supervisor, lines):
    supervisor.start(shell("parent", "sleep 1000 & echo $!; wait"))
    eventually(lambda: lines.seen)
    grandchild = int(lines.seen[0][1])
    os.kill(supervisor.pids()["parent"], signal.SIGKILL)
    eventually(lambda: identify(grandchild) is None)


def test_higher_stages_are_gone_before_lower_ones_are_asked(supervisor, lines):
    slow = "trap 'sleep 0.3; echo {0} ends; exit' TERM; echo {0} up; while :; do sleep 0.05; done"
    for stage, name in enumerate(("store", "queue", "web")):
        supervisor.start(shell(name, slow.format(name), stage=stage))
    for name in ("store", "queue", "web"):
        lines.expect(name, f"{name} up")
    supervisor.stop()
    ends = [line for _, line in lines.seen if line.endswith("ends")]
    assert ends == ["web ends", "queue ends", "store ends"]
    assert supervisor.pids() == {}


def test_the_deaf_are_killed_after_their_grace(supervisor, lines):
    steps = ((signal.SIGTERM, 0.2),)
    deaf = "trap '' TERM; echo deaf; while :; do sleep 0.05; done"
    supervisor.start(shell("deaf", deaf, stop_steps=steps))
    lines.expect("deaf", "deaf")
    supervisor.stop()
    assert supervisor.pids() == {}


def test_hurry_does_not_wait_for_the_grace(supervisor, lines):
    deaf = "trap 'echo asked' TERM; echo deaf; while :; do sleep 0.05; done"
    supervisor.start(shell("deaf", deaf, stop_steps=((signal.SIGTERM, 600.0),)))
    lines.expect("deaf", "deaf")
    stopping = threading.Thread(target=supervisor.stop)
    stopping.start()
    lines.expect("deaf", "asked")
    supervisor.hurry()
    stopping.join(20)
    assert not stopping.is_alive()


def test_the_file_lists_who_runs_and_is_right_after_a_restart(supervisor, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_BACKOFF_FIRST_S", 0.01)
    supervisor.start(shell("one", "sleep 1000"))
    first = supervisor.pids()["one"]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: supervisor.pids().get("one") not in (None, first))
    second = supervisor.pids()["one"]
    eventually(lambda: f'"pid": {second}' in (tmp_path / "processes.json").read_text())


def test_a_first_start_that_fails_is_the_callers_to_know(supervisor):
    def refuse() -> None:
        raise EmbeddedError("not here")

    with pytest.raises(EmbeddedError, match="not here"):
        supervisor.start(shell("never", "true", before_start=refuse))
    assert supervisor.pids() == {}


def test_a_name_runs_once(supervisor):
    supervisor.start(shell("one", "sleep 1000"))
    with pytest.raises(EmbeddedError, match="running already"):
        supervisor.start(shell("one", "sleep 1000"))


def test_lines_carry_names_and_colour_only_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    plain, terminal = io.StringIO(), Terminal()
    Prefixed(plain)("web", "hello")
    Prefixed(terminal)("web", "hello")
    assert plain.getvalue() == "web      | hello\n"
    assert terminal.getvalue() == "\x1b[36mweb      |\x1b[0m hello\n"


@pytest.mark.parametrize("kind", [Prefixed, JsonLines])
def test_postgresql_refusing_each_connection_of_an_outage_is_said_once(kind):
    stream = io.StringIO()
    out = kind(stream)
    for _ in range(50):
        out("postgres", "FATAL:  the database system is starting up")
        out("postgres", "FATAL:  the database system is not yet accepting connections")
        out("postgres", "LOG:  something else")
    said = stream.getvalue()
    assert [said.count(words) for words in ("starting up", "not yet accepting", "something else")] == [1, 1, 50]


def test_every_object_says_when():
    stream = io.StringIO()
    out = JsonLines(stream)
    out("sandbox", '{"event": "ready"}')
    out("web", '{"event": "request", "timestamp": "then"}')
    out("postgres", "LOG:  words")
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert first["timestamp"].endswith("Z") and third["timestamp"].endswith("Z")
    assert second["timestamp"] == "then"


def test_a_reader_who_leaves_does_not_end_the_service():
    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    out = Prefixed(Broken())
    out("web", "one")
    out("web", "two")


@pytest.mark.parametrize("text", ["", "not json", '{"pid": 1}', '[{"name": "x", "pid": 1}]'])
def test_a_run_file_that_makes_no_sense_ends_no_process(tmp_path, text):
    path = tmp_path / "processes.json"
    path.write_text(text)
    assert RunFile(path).end_leftovers() == []
