"""The group: quick help, exit codes, faults as lines; and the small parts that commands share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

import app.cli as group
from app.cli import main
from app.cli.client.answers import read_task
from app.cli.client.event_stream import Event, read_events
from app.cli.client.saving import looks_like_image, target
from app.cli.output import EXIT_MEANINGS, CommandError, Exit, elapsed_text, one_line, output_options, plain
from app.cli.parameters import DURATION, SETTING
from app.cli.service import demo
from core.version import VERSION

HERE = Path(__file__).resolve().parents[2]


def test_help_loads_no_server_no_driver_and_no_command() -> None:
    code = (
        "import sys; from app.cli import main; main(['--help'], standalone_mode=False);"
        "print('LOADED', *sorted(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True)
    help_text, _, loaded = run.stdout.partition("LOADED")
    heavy = {
        "flask",
        "sqlalchemy",
        "pydantic",
        "requests",
        "rich",
        "celery",
        "gevent",
        "PIL",
        "psycopg",
        "mcp",
        "starlette",
    }
    assert heavy.isdisjoint(loaded.split())
    assert not [name for name in loaded.split() if name in {p.target.split(":")[0] for p in group.COMMANDS.values()}]
    assert all(name in help_text for name in group.COMMANDS)


def test_help_documents_every_exit_code() -> None:
    text = CliRunner().invoke(main, ["--help"]).stdout
    assert set(EXIT_MEANINGS) == set(Exit)
    for code in Exit:
        assert f"  {int(code)} " in text


@pytest.mark.parametrize("name", [n for n in group.COMMANDS if n not in ("up", "mcp", "sandbox")])
def test_every_command_explains_itself_and_takes_json(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout or "Commands:" in result.stdout


def test_the_version_is_printed_and_written_in_one_place() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"darkroom {VERSION}\n")
    packages = ("app", "core", "jobs", "providers", "quota", "storage", "workers")
    files = [path for name in packages for path in (HERE / name).rglob("*.py")]
    written = [path.relative_to(HERE).as_posix() for path in files if f'"{VERSION}"' in path.read_text("utf-8")]
    assert written == ["core/version.py"]


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["paint"]).exit_code == 2


@pytest.mark.parametrize(
    ("fault", "exit_code", "words"),
    [
        (
            CommandError(Exit.TIMED_OUT, "late", "too late", hint="wait"),
            7,
            "darkroom: late: too late\n  wait\n",
        ),
        (OSError(28, "x", "/disk/a.png"), 1, "darkroom: local_fault: /disk/a.png: No space left on device\n"),
        (KeyboardInterrupt(), 130, "darkroom: interrupted: stopped by Ctrl-C\n"),
        (CommandError(Exit.FAILED, "odd", "a\x1b[2Jb"), 1, "darkroom: odd: a\ufffd[2Jb\n"),
    ],
)
def test_faults_are_lines_and_exit_codes(
    monkeypatch: pytest.MonkeyPatch, fault: BaseException, exit_code: int, words: str
) -> None:
    @click.command()
    @output_options
    def fail(_output: Any) -> None:
        raise fault

    made = ModuleType("failing")
    vars(made)["fail"] = fail
    monkeypatch.setitem(sys.modules, "failing", made)
    monkeypatch.setitem(group.COMMANDS, "fail", group.Place("failing:fail", ""))
    result = CliRunner().invoke(main, ["fail"])
    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", words)
    answer = json.loads(CliRunner().invoke(main, ["fail", "--json"]).stdout)
    assert answer["error"]["exit_code"] == exit_code


def test_the_sandbox_takes_over_the_process_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda path, argv: asked.append((path, argv)))
    CliRunner().invoke(main, ["sandbox", "--port", "9000", "--help"])
    python = sys.executable
    assert asked == [(python, [python, "-m", "sandbox", "--port", "9000", "--help"])]


# --- a demo with a service of its own ----------------------------------------------------------------


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the service; keeps the settings and the environment it was started with."""
    seen: dict[str, Any] = {}

    @contextmanager
    def run_stack(settings: Any, *, environ: Any) -> Iterator[Any]:
        seen.update(settings=settings, environ=environ)
        (settings.var / "admin.key").write_text("dk_a_b")
        yield SimpleNamespace(url="http://127.0.0.1:1", admin_key_path=settings.var / "admin.key")
        seen["stopped"] = True

    def module(name: str, **members: Any) -> None:
        made = ModuleType(name)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, name, made)

    openai = SimpleNamespace(needed=(("OPENAI_API_KEY",),))
    module("app.cli.service.up", run_stack=run_stack)
    module("core.embedded.faults", EmbeddedError=type("EmbeddedError", (Exception,), {}))
    module("providers.configured", PROVIDERS={"openai": openai})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DARKROOM_VAR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "postgresql://production/d")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
    return seen


def test_a_demo_shares_nothing_with_the_environment(stack: dict[str, Any], tmp_path: Path) -> None:
    with demo.own_service(demo.Narrator(SimpleNamespace(quiet=True))):
        folder = stack["settings"].var
        assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    assert stack["settings"].database_url_set is None
    assert stack["environ"]["OPENAI_API_KEY"] == ""
    assert stack["stopped"] and not folder.exists()


def test_a_demo_that_fails_keeps_everything_and_says_where(stack: dict[str, Any], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["demo"])
    (folder,) = tmp_path.glob("demo-*")
    assert result.exit_code == 3
    assert "Connection refused" in result.stderr and str(folder / "run" / "log") in result.stderr


# --- parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("12h", 43_200), ("2w", 1_209_600)]
)
def test_durations(text: str, seconds: int) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5h", "5 minutes", "٥s", "1" * 12])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("steps=4", ("steps", 4)),
        ("style=oil", ("style", "oil")),
        ('style="4"', ("style", "4")),
        ("a=b=c", ("a", "b=c")),
        ("g=NaN", ("g", "NaN")),
        ("extra={}", ("extra", {})),
    ],
)
def test_settings_are_json_or_text(text: str, setting: tuple[str, Any]) -> None:
    assert SETTING.convert(text, None, None) == setting


def test_plain_text_keeps_words_and_drops_control() -> None:
    assert plain("a\tb\nfox \u200d\U0001f98a é") == "a\tb\nfox \u200d\U0001f98a é"
    assert plain("\x1b[31m\x9b\r\x07\u202e") == "\ufffd[31m\ufffd\ufffd\ufffd\ufffd"


def test_short_texts() -> None:
    assert one_line("a  b\nc", 80) == "a b c"
    assert one_line("abcdef", 4) == "abc…"
    assert (elapsed_text(65), elapsed_text(7200)) == ("1:05", "2:00:00")


def test_targets() -> None:
    assert target(Path("d/fox.png"), 0, 1) == Path("d/fox.png")
    assert target(Path("d/fox.png"), 1, 2) == Path("d/fox-1.png")
    assert target(Path("{index}.png"), 0, 1) == Path("0.png")
    assert target(Path(), 0, 1) is None


def test_events_survive_any_cut() -> None:
    raw = 'event: delta\r\ndata: {"d": "é"}\r\n\r\n: still here\n\ndata: a\ndata: b\n\n'.encode()
    expected = [Event("delta", '{"d": "é"}'), Event("message", "a\nb")]
    assert list(read_events([raw])) == expected
    assert list(read_events([raw[i : i + 1] for i in range(len(raw))])) == expected


@pytest.mark.parametrize("document", [{}, {"id": "a/../b", "status": "x"}, {"id": "j", "status": "x", "images": [{}]}])
def test_a_task_that_is_none_is_said(document: dict[str, Any]) -> None:
    with pytest.raises(CommandError, match="garbles"):
        read_task(document)


def test_images_are_told_by_their_first_bytes() -> None:
    assert looks_like_image(b"RIFF\x00\x00\x00\x00WEBPVP8 ")
    assert looks_like_image(b"\x00\x00\x00\x1cftypavif")
    assert not looks_like_image(b"RIFF\x00\x00\x00\x00WAVE")
    assert not looks_like_image(b"%PDF-1.7")


def test_up_starts_nothing_with_a_faulty_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_VAR", str(tmp_path))
    (tmp_path / "catalog.local.yaml").write_text("{models: {gpt-image-2: {markup: 0}}}")
    result = CliRunner().invoke(main, ["up"])
    assert result.exit_code == 1
    assert "gpt-image-2: markup" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.local.yaml"]
