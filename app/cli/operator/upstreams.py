"""The upstreams that this machine's service uses, for commands that ask them something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.settings import Settings


def environment(environ: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """The environment with ``.env``; and where it configures no provider, with the sandbox that a ``darkroom up`` of
    this machine then runs."""
    from app.cli.service.programs import sandbox_environ
    from app.cli.service.stack import wants_sandbox
    from core.settings import with_dotenv

    found = with_dotenv(environ)
    runs_here = (settings.var / "run" / "urls.json").is_file()
    return {**found, **sandbox_environ(settings.sandbox_port)} if runs_here and wants_sandbox(found) else found
