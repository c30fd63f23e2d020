"""``--server`` and ``--key``: the client of the server that a command speaks to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from app.cli.client.address import checked_server, is_this_machine
from app.cli.client.connection import Client
from app.cli.here import read_key, settings


def connect(server: str | None, key: str | None) -> Client:
    """The client of the given server, or of this machine's; a key left out is this machine's admin key.

    The admin key is offered to a loopback address only: naming another server must not hand it over.
    """
    if server and (key or not is_this_machine(checked_server(server))):
        return Client(server, key)
    here = settings()
    address = server or f"http://127.0.0.1:{here.port}"
    return Client(address, key or read_key(here.var / "admin.key"))


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--server`` and ``--key``; the command receives a :class:`Client` after its Output."""

    @click.option("--server", envvar="DARKROOM_SERVER", metavar="URL", help="[default: this machine's]")
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
