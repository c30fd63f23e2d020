"""The table of crash points is complete, and a process dies exactly at the given point."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import failpoints

ROOT = Path(failpoints.__file__).parents[1]
PACKAGES = ("app", "workers", "jobs", "quota", "accounts", "providers", "storage", "webhooks", "core")


def test_the_code_has_each_point_of_the_table_exactly_once_and_no_others() -> None:
    hits = Counter(name for package in PACKAGES for path in (ROOT / package).rglob("*.py") for name in hits_in(path))
    assert dict(hits) == dict.fromkeys(failpoints.POINTS, 1)


def hits_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="failpoints"), attr="hit"), args=[ast.Constant(value=str(name))]
            ):
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id="failpoints"), attr="hit")):
                raise AssertionError(f"{path}:{node.lineno}: a point is named by a literal")


@pytest.mark.parametrize(("wanted", "arrivals_survived"), [("call.answered", 0), ("call.answered:3", 2), ("", 5)])
def test_the_process_dies_at_the_given_arrival_at_a_point(wanted: str, arrivals_survived: int) -> None:
    lines = "from core import failpoints\nfor n in range(5):\n    failpoints.hit('blob.kept')\n"
    lines += "    failpoints.hit('call.answered')\n    print(n, flush=True)\n"
    done = python(lines, wanted)
    assert done.stdout.split() == [str(n) for n in range(arrivals_survived)]
    assert done.returncode == (-signal.SIGKILL if wanted else 0)


def test_a_misspelt_point_stops_the_start() -> None:
    done = python("import core.failpoints", "call.anwsered")
    assert done.returncode == 1
    assert "there is no point 'call.anwsered'" in done.stderr


def python(lines: str, wanted: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, failpoints.VARIABLE: wanted, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", lines], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
