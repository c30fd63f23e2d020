"""The ``darkroom`` command: one module per noun, loaded when its command runs.

The table below has every command's module and its one-line help, so that ``darkroom --help`` imports none of them and
answers quickly.
"""

from __future__ import annotations

import errno
import importlib
from typing import Any, NamedTuple

import click

from app.cli.output import EXIT_MEANINGS, JSON_ASKED, CommandError, Exit, Output, from_os_error
from core.errors import ServiceError, UnavailableError
from core.version import VERSION
from storage.base import StorageUnavailableError


class Place(NamedTuple):
    """Where a command is defined (``module:attribute``) and its line in ``--help``."""

    target: str
    summary: str


COMMANDS = {
    "up": Place("app.cli.service.up:up", "Start everything on this machine: database, queue, web, worker, Flower."),
    "demo": Place("app.cli.service.demo:demo", "See one image go the whole way, step by step."),
    "generate": Place("app.cli.client.generate:generate", "Make an image from words."),
    "edit": Place("app.cli.client.generate:edit", "Change images you have, by words and an optional mask."),
    "run": Place("app.cli.client.run:run", "Any operation: upscale, caption, to-3d ..., with its fields."),
    "tasks": Place("app.cli.client.tasks:tasks", "List your tasks, newest first."),
    "show": Place("app.cli.client.tasks:show", "Show one task."),
    "watch": Place("app.cli.client.tasks:watch", "Follow a task to its end, and fetch its images."),
    "cancel": Place("app.cli.client.tasks:cancel", "Stop a task."),
    "rerun": Place("app.cli.client.rerun:rerun", "Place the order of a task again, as it was or with other fields."),
    "models": Place("app.cli.client.models:models", "List the models, or show the limits of one."),
    "quota": Place("app.cli.client.quota:quota", "Show your balance, limits and ledger."),
    "usage": Place("app.cli.client.usage:usage", "Show what was sold, by model, key, day and more, and its cost."),
    "enhance": Place("app.cli.client.enhance:enhance", "Have a prompt rewritten."),
    "mcp": Place("app.cli.agents.command:mcp", "Serve image tools to an AI agent (Model Context Protocol)."),
    "account": Place(
        "app.cli.operator.accounts:account", "Accounts: create, list, show, change (by the database or an admin key)."
    ),
    "key": Place(
        "app.cli.operator.accounts:key",
        "API keys: create, list, change, rotate, revoke (by the database or an admin key).",
    ),
    "grant": Place("app.cli.operator.accounts:grant", "Give credits to an account (by the database or an admin key)."),
    "actions": Place("app.cli.operator.actions:actions", "What administrators did (by the database or an admin key)."),
    "abuse": Place(
        "app.cli.operator.abuse:abuse", "Rules on abuse, and what tripped (by the database or an admin key)."
    ),
    "ownkey": Place(
        "app.cli.operator.provider_keys:ownkey",
        "Accounts' own keys of providers: set, list, pause, delete, rotate (by the database or an admin key).",
    ),
    "providers": Place("app.cli.operator.providers:providers", "Upstreams: list, pause, resume (needs the database)."),
    "catalog": Place("app.cli.operator.catalog:catalog", "Compare the models with the upstreams' own lists; import."),
    "db": Place("app.cli.operator.database:db", "The schema: upgrade, status (needs the database)."),
    "backup": Place("app.cli.operator.backup:backup", "Write a backup of everything into a folder."),
    "restore": Place("app.cli.operator.restore:restore", "Make this installation what a backup has."),
    "audit": Place("app.cli.operator.audit:audit", "Check that money and jobs balance (needs the database)."),
    "costs": Place(
        "app.cli.operator.costs:costs", "Cost of calls next to what images were sold for (needs the database)."
    ),
    "chaos": Place("app.cli.service.chaos:chaos", "Kill and cut off everything under load, then check every promise."),
    "doctor": Place("app.cli.operator.doctor:doctor", "Find what is stuck, orphaned or unbalanced, and repair it."),
    "sandbox": Place("app.cli.service.sandbox:sandbox", "Run the emulated upstreams alone."),
}


class LazyGroup(click.Group):
    """Loads a command's module when it runs, and turns known errors into one clear line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, attribute = place.target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101  (the table above is ours)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), meaning) for code, meaning in EXIT_MEANINGS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return self._invoke(ctx)
        except CommandError as error:
            Output(as_json=ctx.meta.get(JSON_ASKED, False)).error(error)
            ctx.exit(error.exit_code)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise CommandError(Exit.INTERRUPTED, "interrupted", "stopped by Ctrl-C") from None
        except ServiceError as error:
            raise from_service_error(error) from error
        except StorageUnavailableError as error:
            hint = "DARKROOM_VAR, or DARKROOM_S3_BUCKET and its endpoint, say where the images are."
            raise CommandError(Exit.AWAY, "storage_unavailable", str(error), hint=hint) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # `darkroom tasks | head`: click ends it silently
                raise
            raise from_os_error(error) from error


def from_service_error(error: ServiceError) -> CommandError:
    """An error of the service (no such account, database away) as a line and an exit code."""
    exit_code = Exit.AWAY if isinstance(error, UnavailableError) else Exit.FAILED
    return CommandError(exit_code, error.code, error.detail, facts=error.facts)


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"darkroom {VERSION}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Show the version and exit.")  # fmt: skip
def main() -> None:
    """Darkroom: a queue for AI image jobs.

    Commands that use a server take --server (DARKROOM_SERVER) and --key (DARKROOM_KEY); on the
    machine of `darkroom up` neither is needed. Every command takes --json, but for up, mcp and sandbox,
    which run until they are stopped.
    """
