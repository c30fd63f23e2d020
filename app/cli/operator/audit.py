"""``darkroom audit``: does the money balance, and does it agree with the jobs?"""

from __future__ import annotations

import click

from app.cli.operator.database import open_database
from app.cli.output import CommandError, Exit, Output, output_options


@click.command()
@output_options
def audit(output: Output) -> None:
    """Check every invariant of money and jobs; exit 1 when one is broken. Metrics then show this result."""
    from jobs.maintenance.audit_check import check_now

    with open_database() as database:
        rows = [(f.invariant, f.subject, f.detail) for f in check_now(database)]
    columns = ("invariant", "subject", "detail")
    output.document({"clean": not rows, "findings": [dict(zip(columns, row, strict=True)) for row in rows]})
    if not rows:
        output.line("clean: every invariant holds")
        return
    output.table(columns, rows)
    raise CommandError(Exit.FAILED, "audit_findings", f"{len(rows)} found", printed=output.as_json)
