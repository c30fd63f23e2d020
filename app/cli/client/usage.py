"""``darkroom usage``: what was sold, and for administrators what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from app.cli.client.answers import Document
from app.cli.client.connection import Client
from app.cli.client.options import client_options
from app.cli.output import Output, credits_of, output_options, plain

MICRO_PER_USD = 1_000_000
# As the answer names what it can be grouped by.
MEMBERS = {"account": "account_id", "key": "key_id"}


@click.command()
@output_options
@client_options
@click.option("--from", "from_", metavar="TIME", help="A day in UTC or a time. [default: the first of this month]")
@click.option("--to", metavar="TIME", help="Up to and without this day or time. [default: now]")
@click.option("--by", "group_by", metavar="NAMES",
              help="Any of day, account, key, operation, model, provider, outcome, with commas between.")  # fmt: skip
@click.option("--account", metavar="ACCOUNT", help="Another account, by id or name, or all; needs the scope admin.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
def usage(output: Output, client: Client, *, as_csv: bool, **asked: str | None) -> None:
    """Show what was sold; with the scope admin, what it cost and the margin, too."""
    wanted = {("from" if name == "from_" else name): value for name, value in asked.items() if value is not None}
    if as_csv:
        if output.as_json:
            raise click.UsageError("--csv and --json are two forms of one answer")
        with client.open("GET", "/api/usage", params={**wanted, "format": "csv"}) as response:
            # Written as it came: it is for other programs, and ends with a line end.
            click.echo(plain(response.text.replace("\r\n", "\n")), nl=False)
        return
    _show(output, client.get("/api/usage", wanted))


def _show(output: Output, answer: Document) -> None:
    output.document(answer)
    totals = _mapping(answer.get("totals"))
    priced = bool(totals.get("cost"))
    by = [str(name) for name in answer.get("group_by") or ()]
    rows = [[_named(group, name) for name in by] + _amounts(group, priced=priced) for group in answer.get("data") or ()]
    if by:
        rows.append(["total", *[""] * (len(by) - 1), *_amounts(totals, priced=priced)])
    elif not rows:
        rows.append(_amounts(totals, priced=priced))
    columns = [*by, "jobs", "images", "captured", "released", *(("cost USD", "margin") if priced else ())]
    output.table(columns, rows)
    output.note(f"credits, from {answer.get('from')} to {answer.get('to')}, account {answer.get('account')}")
    if uncosted := _mapping(totals.get("cost")).get("uncosted_calls"):
        output.note(f"the cost of {uncosted} calls is not known")


def _named(group: Mapping[str, Any], name: str) -> object:
    value = group.get(MEMBERS.get(name, name))
    return "unknown" if value in (None, "") else value


def _amounts(group: Mapping[str, Any], *, priced: bool) -> list[object]:
    told = [group.get("jobs"), group.get("images")]
    told += [credits_of(group.get(f"{name}_microcredits")) for name in ("captured", "released")]
    if priced:
        cost = _mapping(group.get("cost"))
        told += [f"{cost.get('cost_microusd', 0) / MICRO_PER_USD:.4f}", credits_of(cost.get("margin_microcredits"))]
    return told


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
