"""``darkroom providers``: the state of the upstreams; pause and resume."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from app.cli.client.answers import time_text
from app.cli.operator.database import Show, database_command
from app.cli.output import CommandError, Exit, Output

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from jobs.dispatch.health import ProviderState


@click.group(invoke_without_command=True)
@click.pass_context
def providers(context: click.Context) -> None:
    """Upstreams: list them (the default), pause and resume one."""
    if context.invoked_subcommand is None:
        context.invoke(list_providers)


@providers.command("list")
@database_command
def list_providers(connection: Connection) -> Show:
    """List the upstreams: circuit, pause, calls in flight and limits."""
    from jobs.dispatch import health

    found = health.overview(connection)

    def show(output: Output) -> None:
        output.document({"data": [{**asdict(each), "configured": each.credentials > 0} for each in found]})
        columns = ("provider", "configured", "circuit", "active", "a minute", "")
        output.table(columns, [_row(each) for each in found])
        if not found:
            output.note("no worker has announced a provider yet")

    return show


def _row(state: ProviderState) -> tuple[object, ...]:
    return (
        state.name,
        "yes" if state.credentials else "no",
        state.circuit,
        _of(state.active, state.max_active),
        _of(state.submitted_last_minute, state.max_per_minute),
        ", ".join(_remarks(state)),
    )


def _of(count: int | None, most: int | None) -> str:
    """``3 of 20``; without a limit only the count."""
    return ("" if count is None else str(count)) if most is None else f"{count} of {most}"


def _remarks(state: ProviderState) -> list[str]:
    moments = (
        ("paused since", state.paused_at),
        ("next probe at", state.next_probe_at),
        ("asked us to wait until", state.not_before),
    )
    return [f"{words} {time_text(moment)}" for words, moment in moments if moment]


@providers.command("pause")
@database_command
@click.argument("name")
def pause(connection: Connection, name: str) -> Show:
    """Send nothing new to NAME; what is in flight is followed to its end."""
    from jobs.dispatch import health

    _check(name)
    health.pause(connection, name)

    def show(output: Output) -> None:
        output.document({"name": name, "paused": True})
        output.line(f"paused {name}")
        output.note(f"its tasks wait until `darkroom providers resume {name}`, or their latest start")

    return show


@providers.command("resume")
@database_command
@click.argument("name")
def resume(connection: Connection, name: str) -> Show:
    """Send to NAME again, within half a minute; also closes its circuit."""
    from jobs.dispatch import health

    _check(name)
    health.resume(connection, name)

    def show(output: Output) -> None:
        output.document({"name": name, "paused": False})
        output.line(f"resumed {name}")

    return show


def _check(name: str) -> None:
    from providers.configured import PROVIDERS

    if name not in PROVIDERS:
        hint = f"Known: {', '.join(PROVIDERS)}."
        raise CommandError(Exit.USAGE, "unknown_provider", f"there is no provider {name!r}", hint=hint)
