"""``darkroom ownkey``: accounts' own keys of providers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from app.cli.client.answers import Document, time_text
from app.cli.operator.admin import Admin, Show, admin_command
from app.cli.output import Output

MAX_FILE_BYTES = 4096
_MOST = click.IntRange(1, 1000)


@click.group()
def ownkey() -> None:
    """Accounts' own keys of providers; no command shows a key."""


def _key_of(file: str | None) -> str:
    """The key: of a file, of standard input, or typed unseen. Every process of the machine could read an argument."""
    if file is not None and file != "-":
        try:
            return Path(file).read_bytes()[:MAX_FILE_BYTES].decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{file} cannot be read: {type(error).__name__}") from None
    if file == "-" or not sys.stdin.isatty():
        return sys.stdin.read(MAX_FILE_BYTES).strip()
    return str(click.prompt("Key", hide_input=True)).strip()


def limit_options(command: Any) -> Any:
    """Add ``--max-active`` and ``--max-per-minute``."""
    for name, words in (
        ("max-per-minute", "Calls that may begin in a minute with it."),
        ("max-active", "Calls that may be open at a time with it."),
    ):
        command = click.option(f"--{name}", type=_MOST, help=words)(command)
    return command


def _limits(**given: int | None) -> Document:
    limits = {name: value for name, value in given.items() if value is not None}
    return {"limits": limits} if limits else {}


@ownkey.command("set")
@admin_command
@click.argument("account_name", metavar="ACCOUNT")
@click.argument("provider")
@click.option("--key-file", metavar="FILE", help="Read the key from FILE; - is standard input. [default: ask for it]")
@click.option("--check", is_flag=True, help="Have the server ask the provider whether it takes the key.")
@limit_options
def set_key(
    admin: Admin, account_name: str, provider: str, *, key_file: str | None, check: bool, **limits: int | None
) -> Show:
    """Store the key of ACCOUNT (name or id) at PROVIDER, in place of the one before."""
    body: Document = {"key": _key_of(key_file), **_limits(**limits), **({"check": True} if check else {})}
    return _show(admin.store_provider_key(account_name, provider, body), "stored")


@ownkey.command("list")
@admin_command
@click.argument("account_name", metavar="[ACCOUNT]", required=False)
def list_keys(admin: Admin, account_name: str | None) -> Show:
    """List the keys without their secrets, of one account or of all."""
    found = admin.provider_keys(account_name)

    def show(output: Output) -> None:
        output.document({"data": found})
        columns = ("account", "provider", "ends in", "stored", "last used", "active", "a minute", "")
        output.table(columns, map(_row, found))

    return show


def _row(one: Document) -> tuple[object, ...]:
    used, paused = one["last_used_at"], one["paused_at"]
    return (
        one["account_id"],
        one["provider"],
        one["last_four"],
        time_text(one["created_at"]),
        time_text(used) if used else "",
        one["limits"]["max_active"] or "",
        one["limits"]["max_per_minute"] or "",
        f"paused ({one['pause_reason']})" if paused else "",
    )


@ownkey.command("change")
@admin_command
@click.argument("account_name", metavar="ACCOUNT")
@click.argument("provider")
@click.option("--pause/--resume", "paused", default=None, help="Send nothing with it, or send again.")
@click.option("--reason", default="", metavar="TEXT", help="Of the pause.")
@click.option("--no-limits", is_flag=True, help="Take its limits away.")
@limit_options
def change_key(
    admin: Admin,
    account_name: str,
    provider: str,
    *,
    paused: bool | None,
    reason: str,
    no_limits: bool,
    **limits: int | None,
) -> Show:
    """Pause the key of ACCOUNT at PROVIDER, resume it, or change its limits."""
    body: Document = {"limits": {"max_active": None, "max_per_minute": None}} if no_limits else _limits(**limits)
    if paused is not None:
        body |= {"paused": paused, "reason": reason}
    if not body:
        raise click.UsageError("say what to change")
    return _show(admin.change_provider_key(account_name, provider, body), "changed")


@ownkey.command("delete")
@admin_command
@click.argument("account_name", metavar="ACCOUNT")
@click.argument("provider")
def delete_key(admin: Admin, account_name: str, provider: str) -> Show:
    """Let nothing begin with the key of ACCOUNT at PROVIDER any more; what is under way is followed to its end."""
    admin.delete_provider_key(account_name, provider)

    def show(output: Output) -> None:
        output.document({"account": account_name, "provider": provider, "deleted": True})
        output.line(f"deleted the key of {account_name} at {provider}")

    return show


@ownkey.command("rotate")
@admin_command
def rotate(admin: Admin) -> Show:
    """Encrypt every key by the first secret of DARKROOM_OWN_KEYS_SECRET, so that the others can be taken away."""
    done = admin.rotate_provider_keys()

    def show(output: Output) -> None:
        output.document(done)
        output.line(f"{done['sealed']} encrypted again")
        for broken in done["broken"]:
            output.warn(f"{broken} is opened by no secret that is set here: it must be stored again")

    return show


def _show(found: Document, done: str) -> Show:
    def show(output: Output) -> None:
        output.document(found)
        ending = f" ending in {found['last_four']}" if found["last_four"] else ""
        state = f", paused ({found['pause_reason']})" if found["paused_at"] else ""
        output.line(f"{done} the key{ending} of {found['account_id']} at {found['provider']}{state}")

    return show
