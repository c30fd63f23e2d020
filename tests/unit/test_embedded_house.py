"""The files around the code say what the code says."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from dotenv import dotenv_values

from app.cli.service import programs, service_ports
from core.embedded import ports
from core.embedded.faults import EmbeddedError
from core.settings import Settings, with_dotenv

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / ".env.example"


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No variable of ours is set and there is no .env."""
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_lists_every_variable_of_ours_and_none_that_is_gone():
    listed = set(dotenv_values(EXAMPLE))
    ours = {str(field.alias) for field in Settings.model_fields.values()}
    assert ours - listed == set()
    of_the_command_line = {"DARKROOM_SERVER", "DARKROOM_KEY"}
    assert {name for name in listed if name.startswith("DARKROOM_")} - ours == of_the_command_line


def test_the_example_used_as_it_is_changes_nothing(bare):
    (bare / ".env").write_text(EXAMPLE.read_text())
    assert Settings() == Settings(_env_file=None)


def test_every_variable_of_the_example_states_its_default():
    silent = []
    comment = ""
    for line in EXAMPLE.read_text().splitlines():
        if line.startswith("#"):
            comment += line
        elif "=" in line and "Default" not in comment:
            silent.append(line)
        elif not line:
            comment = ""
    assert silent == []


def test_the_children_get_our_settings_to_the_letter(bare):
    settings = Settings(DARKROOM_PORT=9000, DATABASE_URL="postgresql://u:p@h/d", DARKROOM_TASK_EVENTS=False)
    environ = programs.service_environ(settings, {"DARKROOM_PORT": "1", "REDIS_URL": "", "HOME": "/h"})
    assert environ["DARKROOM_PORT"] == "9000"
    assert environ["DATABASE_URL"] == "postgresql://u:p@h/d"
    assert environ["DARKROOM_TASK_EVENTS"] == "false"
    assert environ["HOME"] == "/h"
    assert "REDIS_URL" not in environ
    assert environ["PYTHONPATH"].split(":")[0] == str(ROOT)


def test_the_providers_variables_come_from_dotenv_under_the_environment(bare):
    (bare / ".env").write_text("OPENAI_API_KEY=from-file\nOPENAI_BASE_URL=from-file\n")
    merged = with_dotenv({"OPENAI_BASE_URL": "from-environment"})
    assert merged == {"OPENAI_API_KEY": "from-file", "OPENAI_BASE_URL": "from-environment"}


def test_the_service_is_web_workers_and_flower_and_the_sandbox_only_if_wanted(bare):
    settings = Settings(DARKROOM_WORKERS=2, DARKROOM_DRAIN_S=20)
    with_sandbox = programs.service_programs(settings, {}, flower_password="hush", sandbox=True)
    named = {program.name: program for program in with_sandbox}
    assert list(named) == ["sandbox", "web", "worker1", "worker2", "flower"]
    assert named["worker1"].environ["OPENAI_BASE_URL"] == "http://127.0.0.1:8002/openai/v1"
    assert named["web"].environ["CHATGPT2API_BASE_URL"] == "http://127.0.0.1:8002/c2a/v1"
    assert "OPENAI_API_KEY" not in named["flower"].environ
    assert named["flower"].environ["FLOWER_BASIC_AUTH"] == "admin:hush"
    assert "hush" not in " ".join(named["flower"].argv)
    assert named["worker1"].stop_steps == ((signal.SIGTERM, 22.0),)
    assert named["sandbox"].stage < named["web"].stage
    without = programs.service_programs(settings, {}, flower_password="hush", sandbox=False)
    assert [program.name for program in without] == ["web", "worker1", "worker2", "flower"]
    assert "OPENAI_BASE_URL" not in without[0].environ


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"DARKROOM_FLOWER_PORT": "8000"}, "DARKROOM_PORT is the same.*set DARKROOM_FLOWER_PORT"),
        ({"DARKROOM_PORT": "65534"}, "only 65535.*set DARKROOM_SANDBOX_PORT"),
    ],
)
def test_impossible_ports_are_named(bare, monkeypatch, changed, message):
    real = ports.why_not
    monkeypatch.setattr(ports, "why_not", lambda port, host: real(port, host) if port > 65535 else None)
    with pytest.raises(EmbeddedError, match=message):
        service_ports.check_ports(Settings(**changed), sandbox=True)


def test_free_ports_replace_every_port(bare):
    moved = service_ports.with_free_ports(Settings())
    numbers = {moved.port, moved.flower_port, moved.sandbox_port, moved.postgres_port, moved.redis_port}
    assert len(numbers) == 5
    assert numbers.isdisjoint(range(8000, 8005))


def test_procfile_starts_what_up_starts(bare):
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert set(lines) == {"web", "worker", "flower"}
    for program in programs.service_programs(Settings(), {}, flower_password="", sandbox=False):
        started = " ".join(program.argv[1:]).partition(" --port")[0]
        assert started in lines[program.name]
