"""``darkroom account``, ``key`` and ``grant``: who may call, and with how many credits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from app.cli.client.answers import time_text
from app.cli.operator.database import Show, database_command
from app.cli.output import CommandError, Exit, Output, credits_of
from app.cli.parameters import BIGINT_MAX, CREDITS, DURATION

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from jobs.reads.funds import Funds

# As accounts.keys.SCOPES, which a test compares; importing it would load the database driver for ``--help``.
SCOPES = ("jobs:write", "jobs:read", "usage:read", "webhooks", "admin")
MAX_EXTERNAL_ID_CHARS = 255  # as accounts.tokens takes them


@click.group()
def account() -> None:
    """Accounts: who owns jobs, keys and a balance."""


def _external_id(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not 1 <= len(value) <= MAX_EXTERNAL_ID_CHARS:
        raise click.BadParameter(f"it has 1 to {MAX_EXTERNAL_ID_CHARS} characters")
    return value


@account.command("create")
@database_command
@click.argument("name")
@click.option("--weight", type=click.IntRange(1, 100), default=1, show_default=True,
              help="Its share of the queue next to other accounts.")  # fmt: skip
@click.option("--external-id", metavar="ID", callback=_external_id,
              help="The id that tokens (JWT) have for it.")  # fmt: skip
def create_account(connection: Connection, name: str, weight: int, external_id: str | None) -> Show:
    """Make an account called NAME; its balance begins with its first grant."""
    from accounts import accounts

    made = accounts.create_account(connection, name, weight=weight, external_id=external_id)

    def show(output: Output) -> None:
        output.document(asdict(made))
        output.line(made.id if output.quiet else f"{made.id}  {made.name}")
        output.note("next: `darkroom grant` for credits, `darkroom key create` for a key")

    return show


@account.command("link")
@database_command
@click.argument("account_name", metavar="ACCOUNT")
@click.argument("external_id", metavar="[ID]", required=False, callback=_external_id)
def link_account(connection: Connection, account_name: str, external_id: str | None) -> Show:
    """Let tokens (JWT) for ID call for ACCOUNT (name or id); without ID, none does."""
    from accounts import accounts

    owner = accounts.find_account(connection, account_name)
    accounts.know_as(connection, owner.id, external_id)

    def show(output: Output) -> None:
        output.document({"account_id": owner.id, "external_id": external_id})
        output.line(f"{owner.name} is {external_id}" if external_id else f"{owner.name} has no external id")

    return show


@account.command("list")
@database_command
def list_accounts(connection: Connection) -> Show:
    """List the accounts with their balances."""
    from accounts import accounts
    from jobs.reads.funds import funds

    found = [(each, funds(connection, each.id)) for each in accounts.list_accounts(connection)]

    def show(output: Output) -> None:
        output.document({"data": [{**asdict(one), "balance": _balance(has)} for one, has in found]})
        rows = [
            (one.id, one.name, one.weight, credits_of(has.available), credits_of(has.queued), credits_of(has.held),
             time_text(one.created_at), "disabled" if one.disabled_at else "")
            for one, has in found
        ]  # fmt: skip
        output.table(("account", "name", "weight", "credits", "queued", "held", "created", ""), rows)

    return show


def _balance(has: Funds) -> dict[str, int]:
    return {f"{name}_microcredits": getattr(has, name) for name in ("available", "queued", "held")}


@click.group()
def key() -> None:
    """API keys."""


@key.command("create")
@database_command
@click.argument("account_name", metavar="ACCOUNT")
@click.option("--name", default="", help="What it is for.")
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True,
              help="Repeatable. [default: jobs:write and jobs:read]")  # fmt: skip
@click.option("--expires-in", "expires_in_s", type=DURATION, metavar="TIME",
              help="Such as 12h or 30d. [default: never]")  # fmt: skip
def create_key(
    connection: Connection, account_name: str, name: str, scopes: Sequence[str], expires_in_s: int | None
) -> Show:
    """Make a key for ACCOUNT (name or id) and print it, this once: only a digest of it is kept."""
    from accounts import accounts, keys

    owner = accounts.find_account(connection, account_name)
    expires_at = _expiry(connection, expires_in_s)
    granted = scopes or ("jobs:write", "jobs:read")
    made = keys.create_key(connection, owner.id, name=name, scopes=granted, expires_at=expires_at)

    def show(output: Output) -> None:
        facts = {"id": made.id, "account_id": owner.id, "scopes": list(granted), "expires_at": expires_at}
        output.document({**facts, "token": made.token})
        output.line(made.token)
        output.note(f"key {made.id} of {owner.name}; keep it now, it cannot be shown again")

    return show


def _expiry(connection: Connection, expires_in_s: int | None) -> datetime | None:
    """The end of a key's life by the database's clock, by which it will be checked."""
    from sqlalchemy import text

    if expires_in_s is None:
        return None
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    try:
        return now + timedelta(seconds=expires_in_s)
    except OverflowError:
        raise CommandError(Exit.USAGE, "bad_expiry", "that is past the end of the calendar") from None


@key.command("revoke")
@database_command
@click.argument("key_id", metavar="KEY_ID")
def revoke_key(connection: Connection, key_id: str) -> Show:
    """Make a key useless within seconds. KEY_ID is the part between `dk_` and the second `_`."""
    from accounts import keys

    # Some paste the whole key; its id is enough, and the rest must not be repeated.
    short = key_id.split("_")[1] if key_id.startswith("dk_") and key_id.count("_") >= 2 else key_id
    if not keys.revoke_key(connection, short):
        detail = f"there is no live key {short!r}"
        raise CommandError(Exit.FAILED, "key_not_found", detail, hint="`darkroom key list` shows them.")

    def show(output: Output) -> None:
        output.document({"id": short, "revoked": True})
        output.line(f"revoked {short}")

    return show


@key.command("list")
@database_command
@click.argument("account_name", metavar="[ACCOUNT]", required=False)
def list_keys(connection: Connection, account_name: str | None) -> Show:
    """List the keys, of one account or of all."""
    from accounts import accounts, keys

    owner = accounts.find_account(connection, account_name).id if account_name else None
    found = keys.list_keys(connection, owner)

    def show(output: Output) -> None:
        output.document({"data": [asdict(each) for each in found]})
        rows = [
            (k.id, k.account_id, k.name, " ".join(k.scopes), *map(_moment, (k.created_at, k.expires_at)),
             _moment(k.last_used_at), _moment(k.revoked_at))
            for k in found
        ]  # fmt: skip
        output.table(("key", "account", "name", "scopes", "created", "expires", "last used", "revoked"), rows)

    return show


def _moment(moment: datetime | None) -> str:
    return time_text(moment) if moment else ""


@click.command()
@database_command
@click.argument("account_name", metavar="ACCOUNT")
@click.argument("credits_given", metavar="[CREDITS]", type=CREDITS, required=False)
@click.option("--microcredits", type=click.IntRange(1, BIGINT_MAX), help="In place of CREDITS.")
@click.option("--note", default="", help="Kept in the ledger.")
def grant(
    connection: Connection, account_name: str, credits_given: int | None, microcredits: int | None, note: str
) -> Show:
    """Give CREDITS (such as 100 or 5.3) to ACCOUNT (name or id)."""
    from accounts import accounts
    from jobs.reads.funds import funds
    from quota import ledger

    amount_microcredits = _one_amount(credits_given, microcredits)
    owner = accounts.find_account(connection, account_name)
    ledger.grant(connection, owner.id, amount_microcredits, note=note)
    has = funds(connection, owner.id)

    def show(output: Output) -> None:
        granted = {"account_id": owner.id, "granted_microcredits": amount_microcredits}
        output.document({**granted, "balance": _balance(has)})
        output.line(
            f"{owner.name} has {credits_of(has.available)} credits, {credits_of(amount_microcredits)} of them new"
        )

    return show


def _one_amount(credits_given: int | None, microcredits: int | None) -> int:
    """The amount in micro-credits; both options have it in that unit. Raises UsageError unless there is one."""
    amounts = [amount for amount in (credits_given, microcredits) if amount is not None]
    if len(amounts) != 1:
        raise click.UsageError("give the amount once: CREDITS or --microcredits N")
    return amounts[0]
