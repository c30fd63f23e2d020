"""``darkroom doctor``: what is stuck, orphaned or out of balance, and its repair."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

import click

from app.cli.client.answers import time_text
from app.cli.here import settings
from app.cli.operator.database import open_database
from app.cli.output import CommandError, Exit, Output, output_options

if TYPE_CHECKING:
    from pathlib import Path

    from core.db import Database
    from jobs.maintenance.doctor import Doctor, Finding


@click.command()
@output_options
@click.option("--fix", is_flag=True, help="Repair what can be repaired safely.")
@click.option("--money", is_flag=True, help="With --fix: also close a drift of balances, by `adjust` transfers.")
@click.option("--skip-blobs", is_flag=True, help="Do not compare rows with the image store (it reads all of it).")
def doctor(output: Output, fix: bool, money: bool, skip_blobs: bool) -> None:
    """List what is stuck, orphaned or out of balance: why, since when, and what repairs it.

    Exit 1 while anything is left. Runs next to a working service; needs its database and, for the
    images, its DARKROOM_VAR or DARKROOM_S3_BUCKET.
    """
    if money and not fix:
        raise click.UsageError("--money goes with --fix")
    with ExitStack() as stack:
        database = stack.enter_context(open_database())
        examiner = _doctor(database, stack, output, skip_blobs=skip_blobs)
        findings = [*_of_catalogue(settings().catalog_local), *examiner.examine()]
        screens, unanswered = _screens()
        findings += unanswered
        repaired = _repair(examiner, findings if fix else [], money=money)
        pauses = _pauses(database)
    for told in (*pauses, *screens):
        output.note(told)
    _print(output, findings, repaired, pauses, screens)


def _of_catalogue(path: Path) -> list[Finding]:
    """What is wrong with the operator's own catalogue file, a finding for each fault."""
    from jobs.maintenance.doctor import Finding
    from providers.catalog.live import LiveCatalog
    from providers.catalog.reading import CatalogError

    fix = "edit it; until then the last good one stays in use, and no process can start"
    try:
        LiveCatalog(path)
    except CatalogError as error:
        return [Finding("catalog_local_faulty", str(path), fault, fix) for fault in error.faults]
    return []


def _pauses(database: Database) -> list[str]:
    """What an operator has paused: nothing is wrong, but it is the usual reason why tasks wait."""
    from app.cli.operator.providers import paused
    from jobs.dispatch import health

    with database.autocommit() as connection:
        return [f"{state.name}: {pause}" for state in health.overview(connection) for pause in paused(state)]


def _screens() -> tuple[list[str], list[Finding]]:
    """A line for each screen that is on, after trying it, and a finding for each that does not answer."""
    from core.settings import SettingsError, with_dotenv
    from jobs.maintenance.doctor import Finding
    from jobs.screening.building import screens_of
    from jobs.screening.subject import ScreenFailedError

    here = settings()
    follows = "orders pass unscreened" if here.screening_on_failure == "pass" else "no order is accepted"
    told: list[str] = []
    findings: list[Finding] = []
    try:
        screens = screens_of(here, with_dotenv(os.environ))
    except SettingsError as error:
        fix = "set it right; web and workers do not start with it"
        return [], [Finding("screens_misconfigured", "DARKROOM_SCREENS", str(error), fix)]
    for screen in screens:
        try:
            told.append(f"screen {screen.name}: {screen.probe(within_s=here.screening_timeout_s)}")
        except ScreenFailedError as error:
            told.append(f"screen {screen.name}: on, but {error}")
            cause = f"it does not answer as it should ({error}): {follows}"
            findings.append(Finding("screen_unanswered", screen.name, cause, "docs/operating.md, Screening"))
    return told, findings


def _repair(examiner: Doctor, findings: list[Finding], *, money: bool) -> dict[Finding, str | None]:
    from jobs.maintenance.repair import Repairer

    repairer = Repairer(examiner)
    return {finding: repairer.repair(finding, money=money) for finding in findings}


def _doctor(database: Database, stack: ExitStack, output: Output, *, skip_blobs: bool) -> Doctor:
    from jobs.maintenance.doctor import Doctor
    from providers.catalog import catalog
    from storage.media import Media
    from storage.opening import open_store

    here = settings()
    if skip_blobs:
        return Doctor(database, catalog.load())
    if here.storage == "local" and not here.blobs_dir.is_dir():
        output.warn(f"there is no {here.blobs_dir}, so rows and images are not compared (DARKROOM_VAR?)")
        return Doctor(database, catalog.load())
    store = open_store(here)
    media = Media(store, here.var / "staging", decoders=1)
    stack.callback(media.close)
    return Doctor(database, catalog.load(), store, media)


def _print(
    output: Output,
    findings: list[Finding],
    repaired: dict[Finding, str | None],
    pauses: Sequence[str],
    screens: Sequence[str],
) -> None:
    left = [finding for finding in findings if repaired.get(finding) is None]
    documents = [_document(finding, repaired.get(finding)) for finding in findings]
    output.document({"clean": not left, "findings": documents, "paused": list(pauses), "screens": list(screens)})
    if not findings:
        output.line("well: nothing is stuck, orphaned or out of balance")
        return
    rows = [
        (finding.kind, finding.subject, _moment(finding.since), finding.cause, _outcome(finding, repaired.get(finding)))
        for finding in findings
    ]
    output.table(("what", "which", "since", "why", "fix"), rows)
    if left:
        raise CommandError(
            Exit.FAILED, "doctor_findings", f"{len(left)} of {len(findings)} left", printed=output.as_json
        )


def _document(finding: Finding, done: str | None) -> dict[str, object]:
    """A finding for ``--json``, by the names that its readers know."""
    document = asdict(finding)
    fix = document.pop("fix")
    return {**document, "mend": fix, "mended": done}


def _outcome(finding: Finding, done: str | None) -> str:
    return f"done: {done}" if done else finding.fix


def _moment(moment: datetime | None) -> str:
    return time_text(moment) if moment else ""
