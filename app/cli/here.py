"""This machine: its settings, and the key that ``darkroom up`` keeps for its owner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.output import CommandError, Exit

if TYPE_CHECKING:
    from core.settings import Settings


def settings() -> Settings:
    """The service's settings. Raises CommandError naming the bad variables."""
    from core.settings import SettingsError, load

    try:
        return load()
    except SettingsError as error:
        raise CommandError(Exit.USAGE, "bad_settings", str(error)) from error


def read_key(path: Path) -> str | None:
    """The key in a file; None where there is no such file, or none that we can read."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def running_api(var: Path) -> str | None:
    """The API's address that ``darkroom up`` wrote down; None where it was never started, or by another user."""
    address = _told(var, "api_url")
    return address if isinstance(address, str) else None


def running_sandbox_port(var: Path) -> int | None:
    """The sandbox's port under the ``darkroom up`` that runs here, as :func:`running_api`; used only where no provider
    is configured."""
    port = _told(var, "sandbox_port")
    return port if isinstance(port, int) else None


def _told(var: Path, name: str) -> object:
    try:
        return json.loads((var / "run" / "urls.json").read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError):
        return None
