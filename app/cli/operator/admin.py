"""Where a command of an administrator goes: to the database where it is at hand, else through a server by HTTP.

A server that the command line names goes first, then DATABASE_URL, then DARKROOM_SERVER, then what ``darkroom up`` runs
here.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import click

from app.cli.client.answers import Document
from app.cli.client.connection import Client
from app.cli.client.options import connect
from app.cli.here import settings
from app.cli.operator import database
from app.cli.output import Output, output_options


class Admin(Protocol):
    """What administrators do. Bodies and answers are those of the routes ``/api/admin/...``, wherever it is done.

    Every method raises CommandError or ServiceError. Accounts are named by name or id.
    """

    def create_account(self, body: Mapping[str, Any]) -> Document: ...

    def accounts(self) -> list[Document]: ...

    def account(self, name: str) -> Document: ...

    def change_account(self, name: str, body: Mapping[str, Any]) -> Document: ...

    def create_key(self, body: Mapping[str, Any]) -> Document: ...

    def keys(self, account: str | None) -> list[Document]: ...

    def change_key(self, key_id: str, body: Mapping[str, Any]) -> Document: ...

    def rotate_key(self, key_id: str, overlap_s: int) -> Document: ...

    def revoke_key(self, key_id: str) -> Document: ...

    def pause_key(self, key_id: str, reason: str) -> Document: ...

    def resume_key(self, key_id: str) -> Document: ...

    def grant(self, body: Mapping[str, Any], idempotency_key: str | None) -> Document: ...

    def provider_keys(self, account: str | None) -> list[Document]: ...

    def store_provider_key(self, account: str, provider: str, body: Mapping[str, Any]) -> Document: ...

    def change_provider_key(self, account: str, provider: str, body: Mapping[str, Any]) -> Document: ...

    def delete_provider_key(self, account: str, provider: str) -> None: ...

    def rotate_provider_keys(self) -> Document: ...

    def actions(self, filters: Mapping[str, Any]) -> Document: ...

    def abuse_rules(self, account: str | None) -> list[Document]: ...

    def change_rule(self, rule: str, body: Mapping[str, Any]) -> Document: ...

    def reset_rule(self, rule: str, account: str) -> Document: ...

    def abuse_events(self, filters: Mapping[str, Any]) -> Document: ...

    def send_operator_test(self) -> Document: ...

    def acknowledge(self, event_id: str, note: str) -> Document: ...


Show = Callable[[Output], None]


def admin_command(command: Callable[..., Show]) -> Callable[..., Any]:
    """A command of an administrator: it receives an :class:`Admin`, and what it returns prints its result.

    Next to the database all of it is one transaction, and the result is printed after the commit.
    """

    @output_options
    @click.option("--server", metavar="URL", help="Go through this server, not the database. [env: DARKROOM_SERVER]")
    @click.option("--key", metavar="KEY", help="An administrator's key for the server; better in DARKROOM_KEY.")
    @functools.wraps(command)
    def wrapped(output: Output, *, server: str | None, key: str | None, **kwargs: Any) -> None:
        if (client := _client(server, key)) is not None:
            from app.cli.operator.admin_there import There

            show = command(There(client), **kwargs)
        else:
            from app.cli.operator.admin_here import Here

            with database.open_database() as found, found.transaction() as connection:
                show = command(Here(connection), **kwargs)
        show(output)

    return wrapped


def _client(server: str | None, key: str | None) -> Client | None:
    """The server to go through; None: to the database."""
    named = server or os.environ.get("DARKROOM_SERVER") or None
    if server is None and key is None and (named is None or settings().database_url_set is not None):
        return None
    return connect(named, os.environ.get("DARKROOM_KEY") if key is None else key)
