"""The tools over streamable HTTP: a process of its own, which holds no key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.cli.agents.caller import key_in
from app.cli.agents.jobs import Jobs
from app.cli.output import CommandError, Exit
from core.embedded import ports

PATH = "/mcp"
# An order with its images inside, as the service takes them by default.
MAX_BODY_BYTES = 24 * 1024 * 1024
STOP_WITHIN_S = 5
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def serve(server: MCPServer[Any], jobs: Jobs, *, host: str, port: int, allowed_hosts: Sequence[str]) -> None:
    """Serve until the process is stopped. Raises CommandError where the port cannot be had."""
    if reason := ports.why_not(port, host):
        raise CommandError(Exit.USAGE, "port_taken", f"cannot listen on {host} port {port} ({reason}): see --port")
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=MAX_BODY_BYTES,
        transport_security=_hosts(host, allowed_hosts),
        host=host,
    )
    config = uvicorn.Config(
        KeyRequired(app), host=host, port=port, log_level="warning", timeout_graceful_shutdown=STOP_WITHIN_S
    )
    running = uvicorn.Server(config)
    jobs.stopping = lambda: running.should_exit
    click.echo(f"serving http://{host}:{port}{PATH}", err=True)
    running.run()


def _hosts(host: str, allowed: Sequence[str]) -> TransportSecuritySettings:
    """Which Host headers are answered: those of loopback and ``allowed``; any, where we listen elsewhere and none is
    named, since no request does anything without its own key."""
    if not allowed and host not in ("127.0.0.1", "localhost", "::1"):
        return TransportSecuritySettings(enable_dns_rebinding_protection=False)
    names = [f"{name}:*" for name in (*_LOOPBACK, *allowed)] + list(allowed)
    origins = [f"{scheme}://{name}" for scheme in ("http", "https") for name in names]
    return TransportSecuritySettings(allowed_hosts=names, allowed_origins=origins)


class KeyRequired:
    """Answers 401 to a request without a key; whether a key is good the service says."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and key_in(Headers(scope=scope)) is None:
            body = {"error": "unauthorized", "message": "send an API key as Authorization: Bearer"}
            await JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        await self._app(scope, receive, send)
