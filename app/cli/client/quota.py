"""``darkroom quota``: the balance, the limits, and the ledger behind them."""

from __future__ import annotations

import click

from app.cli.client.answers import Document, time_text
from app.cli.client.connection import Client
from app.cli.client.options import client_options
from app.cli.output import Output, credits_of, output_options


@click.command()
@output_options
@client_options
@click.option("--ledger", is_flag=True, help="List the transfers, newest first.")
@click.option("--limit", type=click.IntRange(1, 100), help="With --ledger: how many at most.")
@click.option("--cursor", help="With --ledger: continue where the page before ended.")
def quota(output: Output, client: Client, *, ledger: bool, limit: int | None, cursor: str | None) -> None:
    """Show your balance and limits."""
    if ledger:
        _ledger(output, client, limit, cursor)
    elif limit or cursor:
        raise click.UsageError("--limit and --cursor belong to --ledger")
    else:
        _balance(output, client.get("/api/quota"))


def _balance(output: Output, answer: Document) -> None:
    output.document(answer)
    for name in ("spendable", "available", "queued", "held"):
        output.line(f"{name:<10} {credits_of(answer.get(f'{name}_microcredits'))} credits")
    for limit in answer.get("limits") or ():
        output.line(f"{'limit':<10} {limit.get('name')}: {_limit_words(limit)}")


def _limit_words(limit: Document) -> str:
    amount, unit, window_s = limit.get("limit", limit.get("requests")), limit.get("unit"), limit.get("window_s")
    if unit == "microcredits":
        return f"{credits_of(amount)} credits"
    if unit == "concurrent-requests":
        return f"{amount} jobs at once"
    return f"{amount}{' images' if unit == 'images' else ''} in {window_s} s"


def _ledger(output: Output, client: Client, limit: int | None, cursor: str | None) -> None:
    page = client.page("/api/quota/ledger", {"limit": limit, "cursor": cursor})
    output.document(page.document)
    columns = ("time", "kind", "credits", "from", "to", "task", "note")
    output.table(columns, [_row(entry) for entry in page.items])
    if page.next_cursor:
        output.note(f"more: --cursor {page.next_cursor}")


def _row(entry: Document) -> tuple[object, ...]:
    return (
        time_text(entry.get("created_at", "")),
        entry.get("kind"),
        entry_credits(entry),
        entry.get("source"),
        entry.get("target"),
        entry.get("task_id"),
        entry.get("note"),
    )


def entry_credits(entry: Document) -> str:
    """The amount of a ledger entry in credits."""
    return credits_of(entry.get("amount_microcredits"))
