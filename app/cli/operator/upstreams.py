"""The upstreams that this machine's service uses, for commands that ask them something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.settings import Settings


def environment(environ: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """The environment with ``.env``; and where it configures no provider, with the sandbox that a ``darkroom up`` of
    this machine then runs."""
    from app.cli.here import running_sandbox_port
    from app.cli.service.programs import sandbox_environ
    from app.cli.service.stack import wants_sandbox
    from core.settings import with_dotenv

    found = with_dotenv(environ)
    # As the service was told: DARKROOM_PORT may have been set for `up` alone.
    port = running_sandbox_port(settings.var)
    return {**found, **sandbox_environ(port)} if port is not None and wants_sandbox(found) else found
