"""``darkroom providers``: the state of the upstreams; pause and resume."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from app.cli.client.answers import time_text
from app.cli.operator.database import Show, database_command
from app.cli.output import CommandError, Exit, Output, output_options

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from jobs.dispatch.health import ProviderState


@click.group(invoke_without_command=True)
@output_options
@click.pass_context
def providers(context: click.Context, output: Output) -> None:
    """Upstreams: list them (the default), pause and resume one, or one of its credentials."""
    asked = {"as_json": output.as_json, "quiet": output.quiet}
    if context.invoked_subcommand is None:
        context.invoke(list_providers, **asked)
    else:
        context.default_map = {context.invoked_subcommand: asked}


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
    moments = (("next probe at", state.next_probe_at), ("asked us to wait until", state.not_before))
    return [*paused(state), *(f"{words} {time_text(moment)}" for words, moment in moments if moment)]


def paused(state: ProviderState) -> list[str]:
    """Since when and why a provider and each of its credentials is paused; empty where none is."""
    pauses = [("", state.paused_at, state.pause_reason)]
    pauses += [(f"{each.id} ", each.paused_at, each.pause_reason) for each in state.accounts]
    return [
        f"{what}paused since {time_text(since)}" + (f" ({reason})" if reason else "")
        for what, since, reason in pauses
        if since
    ]


@providers.command("pause")
@database_command
@click.argument("target", metavar="NAME")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the next operator; callers can read it.")
def pause(connection: Connection, target: str, reason: str) -> Show:
    """Send nothing new to NAME, a provider (openai) or one credential of it (openai/2).

    What is in flight is followed to its end.
    """
    from app import administration
    from app.cli.operator.admin_here import actor

    _check(target)
    administration.pause(connection, actor(), target, reason)

    def show(output: Output) -> None:
        output.document({"name": target, "paused": True, "reason": reason or None})
        output.line(f"paused {target}")
        output.note(f"its tasks wait until `darkroom providers resume {target}`, or their latest start")

    return show


@providers.command("resume")
@database_command
@click.argument("target", metavar="NAME")
def resume(connection: Connection, target: str) -> Show:
    """Send to NAME again, within half a minute: a provider (this also closes its circuit), or one credential.

    It lifts exactly the pause of that name: a credential that is paused by itself stays so.
    """
    from app import administration
    from app.cli.operator.admin_here import actor

    _check(target)
    administration.resume(connection, actor(), target)
    left = [] if "/" in target else _still_paused(connection, target)

    def show(output: Output) -> None:
        output.document({"name": target, "paused": False, "still_paused": left})
        output.line(f"resumed {target}")
        for credential in left:
            output.warn(f"{credential} is paused by itself: `darkroom providers resume {credential}`")

    return show


def _still_paused(connection: Connection, provider: str) -> list[str]:
    from jobs.dispatch import health

    states = [state for state in health.overview(connection) if state.name == provider]
    return [each.id for state in states for each in state.accounts if each.paused_at]


def _check(target: str) -> None:
    from providers.configured import PROVIDERS

    name = target.partition("/")[0]
    if name not in PROVIDERS:
        hint = f"Known: {', '.join(PROVIDERS)}."
        raise CommandError(Exit.USAGE, "unknown_provider", f"there is no provider {name!r}", hint=hint)
