"""``darkroom mcp``: serve the tools over stdio, or over HTTP as a process of its own."""

from __future__ import annotations

from functools import partial

import click

from app.cli.agents.caller import bearer, owner
from app.cli.agents.jobs import Jobs
from app.cli.agents.tools import build
from app.cli.client.options import connect
from app.cli.here import settings

# So many above DARKROOM_PORT, past the ports of the service itself.
PORTS_ABOVE = 10
# Below the minute after which many agents' programs give a call up, and cancel it.
WAIT_S = 50.0
EDGE_PX = 1024


@click.command()
@click.option(
    "--server",
    envvar=["DARKROOM_SERVER", "DARKROOM_API_URL"],
    metavar="URL",
    help="The service. [default: the one that runs here]",
)
@click.option(
    "--key",
    envvar=["DARKROOM_KEY", "DARKROOM_API_KEY"],
    metavar="KEY",
    help="API key; better in DARKROOM_KEY. Not for --http. [default: the admin key]",
)
@click.option(
    "--http",
    "over_http",
    is_flag=True,
    help="Serve streamable HTTP at /mcp; each caller's own key (Authorization: Bearer) is used.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="With --http: the address to listen on.")
@click.option("--port", type=click.IntRange(1, 65_535), help="With --http. [default: DARKROOM_PORT + 10]")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="HOST",
    help="With --http: a Host header that is answered, such as mcp.example.org. Repeatable.",
)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 3600),
    default=WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long a call waits for its image.",
)
@click.option(
    "--image-px",
    "edge_px",
    type=click.IntRange(128, 4096),
    default=EDGE_PX,
    show_default=True,
    help="The longest edge of images in answers; the links lead to the whole ones.",
)
def mcp(
    *, server: str | None, key: str | None, over_http: bool, host: str, port: int | None,
    allowed_hosts: tuple[str, ...], wait_s: float, edge_px: int,
) -> None:  # fmt: skip
    """Serve image tools to an AI agent (Model Context Protocol), over stdio."""
    jobs = Jobs(wait_s=wait_s, edge_px=edge_px)
    if not over_http:
        if port is not None or allowed_hosts:
            raise click.UsageError("--port and --allowed-host belong to --http")
        connect(server, key)  # a bad address is told now, not at the first call
        tools = build(owner(partial(connect, server, key)), jobs)
        try:
            tools.run("stdio")
        except* BrokenPipeError:
            pass  # the agent has gone; its jobs go on
        return
    if click.get_current_context().get_parameter_source("key") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--key is not for --http: every caller sends its own")
    from app.cli.agents.over_http import serve

    tools = build(bearer(connect(server, "").server), jobs)
    serve(tools, jobs, host=host, port=port or settings().port + PORTS_ABOVE, allowed_hosts=allowed_hosts)
