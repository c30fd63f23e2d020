"""``darkroom abuse``: the rules on abuse, what accounts have in place of them, and what tripped."""

from __future__ import annotations

from typing import Any

import click

from app.cli.client.answers import Document, time_text
from app.cli.operator.admin import Admin, Show, admin_command
from app.cli.output import Output

# As jobs.abuse.rules.ACTIONS, which a test compares; importing it would load the database driver for ``--help``.
ACTIONS = ("log", "notify", "pause_key")
AMOUNT = click.FloatRange(min=0, min_open=True)


@click.group()
def abuse() -> None:
    """Rules on spend, refusals, wrong keys and load, and what tripped."""


@abuse.command("rules")
@admin_command
@click.option("--account", metavar="NAME", help="As they hold for this account, by name or id.")
def list_rules(admin: Admin, account: str | None) -> Show:
    """List the rules of the installation, or as they hold for one account."""
    found = admin.abuse_rules(account)

    def show(output: Output) -> None:
        output.document({"data": found})
        output.table(("rule", "kind", "per", "window", "trips at", "action", ""), map(_rule_row, found))

    return show


def _rule_row(rule: Document) -> tuple[object, ...]:
    own = "its own" if rule["own"] else ""
    state = " ".join(word for word in ("" if rule["enabled"] else "off", own) if word)
    return rule["name"], rule["kind"], rule["per"], rule["window"], _trips_at(rule), rule["action"], state


def _trips_at(rule: Document) -> str:
    if rule["percent"] is not None:
        budget = "its limit" if rule["budget"] is None else f"{rule['budget']:g} {rule['unit']}"
        return f"{rule['percent']:g} % of {budget}"
    least = f"{rule['at_least']:g} {rule['unit']}"
    return least if rule["times_usual"] is None else f"{rule['times_usual']:g} x its usual, from {least}"


@abuse.command("set")
@admin_command
@click.argument("rule")
@click.argument("account_name", metavar="ACCOUNT")
@click.option("--on/--off", "enabled", default=None, help="Whether the rule holds for the account.")
@click.option("--action", type=click.Choice(ACTIONS), help="What follows.")
@click.option("--at-least", type=AMOUNT, metavar="N", help="Credits, or a count.")
@click.option("--budget", type=AMOUNT, metavar="CREDITS", help="Of that day or month.")
@click.option("--percent", type=AMOUNT, metavar="N", help="Of the budget.")
@click.option("--times-usual", type=click.FloatRange(min=1, min_open=True), metavar="N", help="Times what is usual.")
def set_rule(admin: Admin, rule: str, account_name: str, **given: Any) -> Show:
    """Change RULE for ACCOUNT (name or id) alone; what is not given stays as it is."""
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise click.UsageError("say what to change")
    return _show_rule(admin.change_rule(rule, {"account": account_name, **changes}))


@abuse.command("reset")
@admin_command
@click.argument("rule")
@click.argument("account_name", metavar="ACCOUNT")
def reset_rule(admin: Admin, rule: str, account_name: str) -> Show:
    """Let RULE hold for ACCOUNT (name or id) as it does for all others."""
    return _show_rule(admin.reset_rule(rule, account_name))


def _show_rule(found: Document) -> Show:
    def show(output: Output) -> None:
        output.document(found)
        state = "" if found["enabled"] else " (off)"
        output.line(f"{found['name']}: {_trips_at(found)} in {found['window']}, {found['action']}{state}")

    return show


@abuse.command("events")
@admin_command
@click.option("--account", metavar="NAME", help="Of this account, by name or id.")
@click.option("--rule", metavar="NAME", help="Of this rule.")
@click.option("--all", "everything", is_flag=True, help="Those that were acknowledged, too.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--cursor", metavar="ID", help="Continue where the page before ended.")
def list_events(admin: Admin, everything: bool, **filters: str | int | None) -> Show:
    """List what tripped and no one has acknowledged yet, newest first."""
    found = admin.abuse_events(filters if everything else {**filters, "acknowledged": False})

    def show(output: Output) -> None:
        output.document(found)
        output.table(
            ("event", "time", "rule", "account", "key or address", "value", "from", "did"), map(_row, found["data"])
        )
        if found["next_cursor"]:
            output.note(f"more: --cursor {found['next_cursor']}")

    return show


def _row(event: Document) -> tuple[object, ...]:
    figures = event["figures"]
    did = f"paused {', '.join(event['paused_keys'])}" if event["paused_keys"] else event["action"]
    return (
        *(event["id"], time_text(event["at"]), event["rule"], event["account_id"] or ""),
        *(event["key_id"] or event["address"] or "", f"{figures['value']:g} {figures['unit']}"),
        *(f"{figures['threshold']:g}", did),
    )


@abuse.command("acknowledge")
@admin_command
@click.argument("event_id", metavar="EVENT")
@click.option("--note", default="", help="For who looks later.")
def acknowledge(admin: Admin, event_id: str, note: str) -> Show:
    """Say that someone has seen to EVENT, which ends its alert. A key that was paused stays paused."""
    found = admin.acknowledge(event_id, note)

    def show(output: Output) -> None:
        output.document(found)
        output.line(f"{found['id']}: acknowledged by {found['acknowledged_by']}")
        if found["paused_keys"]:
            output.note(f"paused: {', '.join(found['paused_keys'])}; `darkroom key resume` lets one on")

    return show


@abuse.command("test")
@admin_command
def send_test(admin: Admin) -> Show:
    """Send a test message to each URL of DARKROOM_OPERATOR_WEBHOOK_URL."""
    found = admin.send_operator_test()

    def show(output: Output) -> None:
        output.document(found)
        output.line(f"{found['messages']} to send; the workers' log says webhook_delivered, or why not")

    return show
