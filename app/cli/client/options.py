"""``--server`` and ``--key``: the client of the server that a command speaks to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from app.cli.client.address import checked_server, is_this_machine
from app.cli.client.connection import Client
from app.cli.here import read_key, running_api, settings


def connect(server: str | None, key: str | None) -> Client:
    """The client of the given server, or of the one that runs here; a key left out is this machine's admin key.

    The admin key is offered to a loopback address only: naming another server must not hand it over. An empty key is
    a key, though none that any server takes: what was meant to be in it must not be replaced by the admin's.
    """
    if server and (key is not None or not is_this_machine(checked_server(server))):
        return Client(server, key)
    here = settings()
    address = server or running_api(here.var) or f"http://127.0.0.1:{here.port}"
    return Client(address, read_key(here.var / "admin.key") if key is None else key)


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--server`` and ``--key``; the command receives a :class:`Client` after its Output."""

    @click.option("--server", envvar="DARKROOM_SERVER", metavar="URL", help="[default: the one that runs here]")
    @click.option(
        "--key",
        envvar="DARKROOM_KEY",
        metavar="KEY",
        help="API key; better in DARKROOM_KEY, because others may see a command line. [default: the admin key]",
    )
    @functools.wraps(command)
    def wrapped(output: Any, *args: Any, server: str | None, key: str | None, **kwargs: Any) -> Any:
        return command(output, connect(server, key), *args, **kwargs)

    return wrapped
