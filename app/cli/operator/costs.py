"""``darkroom costs``: what upstreams charge for what was sold, by model."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from app.cli.operator.database import Tell, database_command
from app.cli.output import Output, credits_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from jobs.reads.margins import Margin

MICROUSD = 1_000_000
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
def costs(connection: Connection, *, days: int) -> Tell:
    """Show what calls cost us, as the catalogue expects and as upstreams report, beside what was sold."""
    from jobs.reads.margins import margins

    found = list(margins(connection, days=days))

    def tell(output: Output) -> None:
        output.document({"days": days, "models": [asdict(each) for each in found]})
        output.table(COLUMNS, [_row(each) for each in found])

    return tell


def _row(margin: Margin) -> tuple[object, ...]:
    return (
        margin.provider,
        margin.model,
        margin.calls,
        margin.images,
        _usd(margin.expected),
        _usd(margin.reported) if margin.reported_calls else "",
        margin.reported_calls,
        f"{margin.reported / margin.expected_of_reported:.2f}" if margin.expected_of_reported else "",
        margin.written_off,
        credits_of(margin.sold),
    )


def _usd(microusd: int) -> str:
    return f"{microusd / MICROUSD:.4f}"
