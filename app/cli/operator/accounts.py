"""``darkroom account``, ``key`` and ``grant``: who may call, and with how many credits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from app.cli.client.answers import Document, time_text
from app.cli.operator.admin import Admin, Show, admin_command
from app.cli.output import CommandError, Exit, Output, credits_of
from app.cli.parameters import BIGINT_MAX, CREDITS, DURATION, LIMIT, LIMIT_COUNT, NO_LIMIT
from core.errors import ServiceError

# As accounts.keys.SCOPES, which a test compares; importing it would load the database driver for ``--help``.
SCOPES = ("jobs:write", "jobs:read", "usage:read", "webhooks", "admin")
MAX_EXTERNAL_ID_CHARS = 255  # as accounts.tokens takes them
OVERLAP_S = 86_400


@click.group()
def account() -> None:
    """Accounts: who owns jobs, keys and a balance."""


def _external_id(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not 1 <= len(value) <= MAX_EXTERNAL_ID_CHARS:
        raise click.BadParameter(f"it has 1 to {MAX_EXTERNAL_ID_CHARS} characters")
    return value


def limit_options(command: Any) -> Any:
    """Add an option for each limit; ``--day-limit`` and ``--month-limit`` in micro-credits, each or NO_LIMIT."""
    for option, words in _LOAD.values():
        command = click.option(option, type=LIMIT_COUNT, metavar="NUMBER", help=f"{words}, or none for no limit.")(
            command
        )
    for period in ("month", "day"):
        words = f"Credits that its orders of a {period} (UTC) may cost, or none for no limit."
        command = click.option(f"--{period}-limit", type=LIMIT, metavar="CREDITS", help=words)(command)
    return command


# By the member of a body that sets it.
_LOAD = {
    "images_per_minute": ("--images-limit", "Images that may be ordered in a minute"),
    "in_flight": ("--in-flight-limit", "Jobs that may be under way at once"),
    "requests_per_minute": ("--requests-limit", "Requests that it may make in a minute"),
}


def _limits(day_limit: int | str | None, month_limit: int | str | None, **load: int | str | None) -> Document:
    """The part of a body that sets the limits which are given; empty where none is."""
    given = {"day_microcredits": day_limit, "month_microcredits": month_limit}
    given |= {name: load[option.strip("-").replace("-", "_")] for name, (option, _) in _LOAD.items()}
    limits = {name: None if value == NO_LIMIT else value for name, value in given.items() if value is not None}
    return {"limits": limits} if limits else {}


@account.command("create")
@admin_command
@click.argument("name")
@click.option("--weight", type=click.IntRange(1, 100), default=1, show_default=True,
              help="Its share of the queue next to other accounts.")  # fmt: skip
@click.option("--external-id", metavar="ID", callback=_external_id,
              help="The id that tokens (JWT) have for it.")  # fmt: skip
@limit_options
def create_account(admin: Admin, name: str, weight: int, external_id: str | None, **limits: Any) -> Show:
    """Make an account called NAME; its balance begins with its first grant."""
    body = {"name": name, "weight": weight, **_limits(**limits)}
    made = admin.create_account(body if external_id is None else {**body, "external_id": external_id})

    def show(output: Output) -> None:
        output.document(made)
        output.line(made["id"] if output.quiet else f"{made['id']}  {made['name']}")
        output.note("next: `darkroom grant` for credits, `darkroom key create` for a key")

    return show


@account.command("link")
@admin_command
@click.argument("account_name", metavar="ACCOUNT")
@click.argument("external_id", metavar="[ID]", required=False, callback=_external_id)
def link_account(admin: Admin, account_name: str, external_id: str | None) -> Show:
    """Let tokens (JWT) for ID call for ACCOUNT (name or id); without ID, none does."""
    owner = admin.change_account(account_name, {"external_id": external_id})

    def show(output: Output) -> None:
        output.document({**owner, "account_id": owner["id"]})
        output.line(f"{owner['name']} is {external_id}" if external_id else f"{owner['name']} has no external id")

    return show


@account.command("change")
@admin_command
@click.argument("account_name", metavar="ACCOUNT")
@click.option("--name", help="Another name.")
@click.option("--weight", type=click.IntRange(1, 100), help="Its share of the queue next to other accounts.")
@click.option("--disable/--enable", "disabled", default=None, help="Stop all of its keys, or let them open again.")
@limit_options
def change_account(
    admin: Admin, account_name: str, name: str | None, weight: int | None, disabled: bool | None, **limits: Any
) -> Show:
    """Change ACCOUNT (name or id); what is not given stays as it is."""
    given = {"name": name, "weight": weight, "disabled": disabled}
    body = {member: value for member, value in given.items() if value is not None} | _limits(**limits)
    if not body:
        raise click.UsageError("say what to change")
    return _show_account(admin.change_account(account_name, body))


@account.command("show")
@admin_command
@click.argument("account_name", metavar="ACCOUNT")
def show_account(admin: Admin, account_name: str) -> Show:
    """Show ACCOUNT (name or id): balance and limits."""
    return _show_account(admin.account(account_name))


def _show_account(found: Document) -> Show:
    def show(output: Output) -> None:
        output.document(found)
        output.line(f"{found['id']}  {found['name']}  {'disabled' if found['disabled_at'] else ''}".rstrip())
        balance, limits = found["balance"], _limit_words(found["limits"])
        output.line(f"weight {found['weight']}, {credits_of(balance['available_microcredits'])} credits, {limits}")

    return show


def _limit_words(limits: Document) -> str:
    parts = [
        f"at most {credits_of(limits[f'{period}_microcredits'])} a {period}"
        for period in ("day", "month")
        if limits[f"{period}_microcredits"] is not None
    ]
    load = (("requests_per_minute", "requests a minute"), ("in_flight", "jobs at once"))
    for name, words in (*load, ("images_per_minute", "images a minute")):
        if limits.get(name) is not None:
            parts.append(f"at most {limits[name]} {words}")
    return ", ".join(parts) or "no limits"


@account.command("list")
@admin_command
def list_accounts(admin: Admin) -> Show:
    """List the accounts with their balances."""
    found = admin.accounts()

    def show(output: Output) -> None:
        output.document({"data": found})
        rows = [
            (one["id"], one["name"], one["weight"],
             *(credits_of(one["balance"][f"{part}_microcredits"]) for part in ("available", "queued", "held")),
             time_text(one["created_at"]), "disabled" if one["disabled_at"] else "")
            for one in found
        ]  # fmt: skip
        output.table(("account", "name", "weight", "credits", "queued", "held", "created", ""), rows)

    return show


@click.group()
def key() -> None:
    """API keys."""


def listing_options(command: Any) -> Any:
    """Add ``--model`` and ``--provider``, each repeatable."""
    for name in ("provider", "model"):
        words = f"A {name} that it may order from. Repeatable. [default: all]"
        command = click.option(f"--{name}", f"{name}s", multiple=True, metavar="NAME", help=words)(command)
    return command


@key.command("create")
@admin_command
@click.argument("account_name", metavar="ACCOUNT")
@click.option("--name", default="", help="What it is for.")
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True,
              help="Repeatable. [default: jobs:write and jobs:read]")  # fmt: skip
@click.option("--expires-in", "expires_in_s", type=DURATION, metavar="TIME",
              help="Such as 12h or 30d. [default: never]")  # fmt: skip
@listing_options
@limit_options
def create_key(
    admin: Admin, account_name: str, name: str, scopes: Sequence[str], expires_in_s: int | None, **more: Any
) -> Show:
    """Make a key for ACCOUNT (name or id) and print it, this once: only a digest of it is kept."""
    body = {"account": account_name, "name": name, "scopes": list(scopes or ("jobs:write", "jobs:read"))}
    made = admin.create_key(body | _expiry(expires_in_s) | _may(**more))
    return _show_token(made, "keep it now, it cannot be shown again")


def _expiry(expires_in_s: int | None) -> Document:
    return {} if expires_in_s is None else {"expires_in_s": expires_in_s}


def _may(*, models: Sequence[str], providers: Sequence[str], **limits: Any) -> Document:
    lists = {name: list(given) for name, given in (("models", models), ("providers", providers)) if given}
    return {**lists, **_limits(**limits)}


def _show_token(made: Document, words: str) -> Show:
    def show(output: Output) -> None:
        output.document(made)
        output.line(made["token"])
        output.note(f"key {made['id']} of {made['account_id']}; {words}")

    return show


@key.command("change")
@admin_command
@click.argument("key_id", metavar="KEY_ID")
@click.option("--name", help="What it is for.")
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True, help="All of its scopes from now on.")
@click.option("--expires-in", "expires_in_s", type=DURATION, metavar="TIME", help="From now on; such as 12h or 30d.")
@listing_options
@click.option("--all-models", is_flag=True, help="It may order from every model again.")
@click.option("--all-providers", is_flag=True, help="It may order from every provider again.")
@limit_options
def change_key(
    admin: Admin,
    *,
    key_id: str,
    name: str | None,
    scopes: Sequence[str],
    expires_in_s: int | None,
    all_models: bool,
    all_providers: bool,
    **more: Any,
) -> Show:
    """Change what a key may do; what is not given stays as it is. KEY_ID is the part between `dk_` and `_`."""
    body: Document = _expiry(expires_in_s) | _may(**more)
    body |= {"name": name} if name is not None else {}
    body |= {"scopes": list(scopes)} if scopes else {}
    for member, wanted in (("models", all_models), ("providers", all_providers)):
        if wanted and member in body:
            raise click.UsageError(f"--all-{member} does not go with a list of {member}")
        body |= {member: None} if wanted else {}
    if not body:
        raise click.UsageError("say what to change")
    found = admin.change_key(_short(key_id), body)

    def show(output: Output) -> None:
        output.document(found)
        output.line(f"changed {found['id']}: {' '.join(found['scopes'])}; {_limit_words(found['limits'])}")

    return show


@key.command("rotate")
@admin_command
@click.argument("key_id", metavar="KEY_ID")
@click.option("--overlap", "overlap_s", type=DURATION, metavar="TIME", default=OVERLAP_S, show_default="1d",
              help="So long the secret before opens as well.")  # fmt: skip
@click.option("--at-once", is_flag=True, help="The secret before stops at once.")
def rotate_key(admin: Admin, key_id: str, overlap_s: int, at_once: bool) -> Show:
    """Give a key another secret and print it, this once. The key keeps its id and all it may do."""
    made = admin.rotate_key(_short(key_id), 0 if at_once else overlap_s)
    until = f"the secret before opens until {time_text(made['previous_until'])}" if made["previous_until"] else ""
    return _show_token(made, until or "the secret before has stopped")


@key.command("revoke")
@admin_command
@click.argument("key_id", metavar="KEY_ID")
def revoke_key(admin: Admin, key_id: str) -> Show:
    """Make a key useless within seconds. KEY_ID is the part between `dk_` and the second `_`."""
    short = _short(key_id)
    try:
        found = admin.revoke_key(short)
    except (CommandError, ServiceError) as error:
        if error.code != "key_not_found":
            raise
        raise _no_key(short) from error

    def show(output: Output) -> None:
        output.document({**found, "revoked": True})
        output.line(f"revoked {short}")

    return show


@key.command("pause")
@admin_command
@click.argument("key_id", metavar="KEY_ID")
@click.option("--reason", default="paused by an operator", show_default=True, help="For who asks later.")
def pause_key(admin: Admin, key_id: str, reason: str) -> Show:
    """Refuse the requests of a key until it is let on; what was accepted goes on."""
    found = admin.pause_key(_short(key_id), reason)

    def show(output: Output) -> None:
        output.document(found)
        output.line(f"paused {found['id']}: {found['pause_reason']}")

    return show


@key.command("resume")
@admin_command
@click.argument("key_id", metavar="KEY_ID")
def resume_key(admin: Admin, key_id: str) -> Show:
    """Let a paused key on."""
    found = admin.resume_key(_short(key_id))

    def show(output: Output) -> None:
        output.document(found)
        output.line(f"{found['id']} opens again")

    return show


def _short(key_id: str) -> str:
    """Some paste the whole key; its id is enough, and the rest must not be repeated."""
    return key_id.split("_")[1] if key_id.startswith("dk_") and key_id.count("_") >= 2 else key_id


def _no_key(short: str) -> CommandError:
    detail = f"there is no live key {short!r}"
    return CommandError(Exit.FAILED, "key_not_found", detail, hint="`darkroom key list` shows them.")


@key.command("list")
@admin_command
@click.argument("account_name", metavar="[ACCOUNT]", required=False)
def list_keys(admin: Admin, account_name: str | None) -> Show:
    """List the keys, of one account or of all."""
    found = admin.keys(account_name)

    def show(output: Output) -> None:
        output.document({"data": found})
        rows = [
            (k["id"], k["account_id"], k["name"], " ".join(k["scopes"]), *(_moment(k[name]) for name in
             ("created_at", "expires_at", "last_used_at", "paused_at", "revoked_at")))
            for k in found
        ]  # fmt: skip
        output.table(("key", "account", "name", "scopes", "created", "expires", "last used", "paused", "revoked"), rows)

    return show


def _moment(moment: str | None) -> str:
    return time_text(moment) if moment else ""


@click.command()
@admin_command
@click.argument("account_name", metavar="ACCOUNT")
@click.argument("credits_given", metavar="[CREDITS]", type=CREDITS, required=False)
@click.option("--microcredits", type=click.IntRange(1, BIGINT_MAX), help="In place of CREDITS.")
@click.option("--take-back", is_flag=True, help="Take them back, as far as they are free to spend.")
@click.option("--note", default="", help="Kept in the ledger.")
@click.option("--idempotency-key", metavar="KEY", help="With the same key it is granted once.")
def grant(
    admin: Admin,
    *,
    account_name: str,
    credits_given: int | None,
    microcredits: int | None,
    take_back: bool,
    note: str,
    idempotency_key: str | None,
) -> Show:
    """Give CREDITS (such as 100 or 5.3) to ACCOUNT (name or id)."""
    amount = _one_amount(credits_given, microcredits) * (-1 if take_back else 1)
    made = admin.grant({"account": account_name, "amount_microcredits": amount, "note": note}, idempotency_key)

    def show(output: Output) -> None:
        output.document({**made, "granted_microcredits": amount})
        has = credits_of(made["balance"]["available_microcredits"])
        words = "taken back" if take_back else "of them new"
        output.line(f"{account_name} has {has} credits, {credits_of(abs(amount))} {words}")

    return show


def _one_amount(credits_given: int | None, microcredits: int | None) -> int:
    """The amount in micro-credits; both options have it in that unit. Raises UsageError unless there is one."""
    amounts = [amount for amount in (credits_given, microcredits) if amount is not None]
    if len(amounts) != 1:
        raise click.UsageError("give the amount once: CREDITS or --microcredits N")
    return amounts[0]
