"""``darkroom actions``: the trail of what administrators did."""

from __future__ import annotations

import json

import click

from app.cli.client.answers import Document, time_text
from app.cli.operator.admin import Admin, Show, admin_command
from app.cli.output import Output, one_line

WHAT_WIDTH = 100


@click.command()
@admin_command
@click.option("--account", metavar="NAME", help="What concerns this account, by name or id.")
@click.option("--action", metavar="NAME", help="Such as key.create.")
@click.option("--target", metavar="ID", help="By the id of what it was done to.")
@click.option("--by", "key_id", metavar="KEY_ID", help="By the key that it was done with.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--cursor", metavar="ID", help="Continue where the page before ended.")
def actions(admin: Admin, **filters: str | int | None) -> Show:
    """List what administrators did with accounts, keys, credits and providers, newest first."""
    found = admin.actions(filters)

    def show(output: Output) -> None:
        output.document(found)
        output.table(("time", "who", "key", "from", "did", "to", "what"), map(_row, found["data"]))
        if found["next_cursor"]:
            output.note(f"more: --cursor {found['next_cursor']}")

    return show


def _row(entry: Document) -> tuple[object, ...]:
    who = entry["actor"]
    changes = {name: value for name, value in (entry["after"] or {}).items() if value is not None}
    what = one_line(
        " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in changes.items()), WHAT_WIDTH
    )
    return (
        *(time_text(entry["at"]), who["name"], who["key_id"] or "", who["address"]),
        *(entry["action"], entry["target"], what),
    )
