"""``darkroom audit``: does the money balance, and does it agree with the jobs?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from app.cli.operator.database import Show, database_command
from app.cli.output import CommandError, Exit, Output

if TYPE_CHECKING:
    from sqlalchemy import Connection


@click.command()
@database_command
def audit(connection: Connection) -> Show:
    """Check every invariant of money and jobs; exit 1 when one is broken."""
    from jobs.maintenance.audit import check

    findings = list(check(connection))

    def show(output: Output) -> None:
        rows = [(f.invariant, f.subject, f.detail) for f in findings]
        columns = ("invariant", "subject", "detail")
        document = [dict(zip(columns, row, strict=True)) for row in rows]
        output.document({"clean": not rows, "findings": document})
        if not rows:
            output.line("clean: every invariant holds")
            return
        output.table(columns, rows)
        raise CommandError(Exit.FAILED, "audit_findings", f"{len(rows)} found", printed=output.as_json)

    return show
