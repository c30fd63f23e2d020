"""``darkroom costs``: what upstreams charge for what was sold, by model."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from app.cli.operator.database import Show, database_command
from app.cli.output import Output, credits_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from jobs.reads.margins import Margin

MICRO_PER_USD = 1_000_000
COLUMNS = (
    "provider",
    "model",
    "calls",
    "images",
    "expected USD",
    "reported USD",
    "of calls",
    "reported/expected",
    "written off",
    "sold credits",
)


@click.command()
@click.option("--days", type=click.IntRange(1, 366), default=30, show_default=True, help="How far back to look.")
@database_command
def costs(connection: Connection, *, days: int) -> Show:
    """Show what calls cost us, as the catalogue expects and as upstreams report, next to what was sold."""
    from jobs.reads.margins import margins

    found = list(margins(connection, days=days))

    def show(output: Output) -> None:
        output.document({"days": days, "models": [_document(each) for each in found]})
        output.table(COLUMNS, [_row(each) for each in found])

    return show


def _document(margin: Margin) -> dict[str, object]:
    """A model's line for ``--json``; its money has no units in the names."""
    units = ("_micro_usd", "_microcredits")
    return {name.removesuffix(units[0]).removesuffix(units[1]): value for name, value in asdict(margin).items()}


def _row(margin: Margin) -> tuple[object, ...]:
    return (
        margin.provider,
        margin.model,
        margin.calls,
        margin.images,
        _usd(margin.expected_micro_usd),
        _usd(margin.reported_micro_usd) if margin.reported_calls else "",
        margin.reported_calls,
        _reported_share(margin),
        margin.written_off,
        credits_of(margin.sold_microcredits),
    )


def _reported_share(margin: Margin) -> str:
    """Reported cost by expected cost, of the calls that have both."""
    if not margin.expected_of_reported_micro_usd:
        return ""
    return f"{margin.reported_micro_usd / margin.expected_of_reported_micro_usd:.2f}"


def _usd(micro_usd: int) -> str:
    return f"{micro_usd / MICRO_PER_USD:.4f}"
