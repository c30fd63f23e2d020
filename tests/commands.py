"""The command ``darkroom``, run in this process: a start takes longer than most commands."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli import main


def darkroom_here(
    arguments: tuple[str, ...], environ: Mapping[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    """What the command does and says with this environment alone. Raises what a process would end with a traceback."""
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(environ):
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        patch.chdir(cwd)
        done = CliRunner().invoke(main, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)
