"""``darkroom sandbox``: the emulated upstreams alone, as ``python -m sandbox`` runs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sandbox(arguments: Sequence[str]) -> None:
    """Run the emulated upstreams; every option goes to the sandbox (try --help)."""
    # In place of this process, so that signals and the exit code are the sandbox's own.
    os.execv(sys.executable, [sys.executable, "-m", "sandbox", *arguments])  # noqa: S606  (no shell on purpose)
