"""``darkroom restore DIR``: a backup becomes the installation of this DARKROOM_VAR and database again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.cli.here import settings
from app.cli.output import CommandError, Exit, Output, output_options

if TYPE_CHECKING:
    from app.cli.operator.archive import Manifest
    from core.db import Database
    from core.settings import Settings
    from jobs.maintenance.audit import Finding

PAUSE_REASON = "restored from a backup"


@click.command()
@output_options
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--force", is_flag=True, help="Replace what is there: the database is emptied, files are overwritten.")
@click.option("--pause", is_flag=True, help="Pause every provider, so that nothing is sent before you say so.")
def restore(output: Output, folder: Path, force: bool, pause: bool) -> None:
    """Make this installation what DIR has, while nothing of it runs; then migrate and audit it.

    Orders accepted after the backup are gone. Tasks that were queued in it are made when the service starts, even if
    they were made before it was restored; calls that were open are looked up, never sent blindly.
    """
    from app.cli.operator.archive import read_manifest

    here = settings()
    manifest = read_manifest(folder)
    _check_backup(folder, manifest, here)
    findings, missing = _restore(here, folder, manifest, output, force=force, pause=pause)
    _report(output, folder, manifest, findings, missing)


def _check_backup(folder: Path, manifest: Manifest, here: Settings) -> None:
    """Raises CommandError naming the fault, before anything is touched."""
    from app.cli.operator.archive import bad_backup, faults
    from core import schema

    if not schema.knows(manifest.schema):
        raise bad_backup(
            f"its schema is {manifest.schema}, made by Darkroom {manifest.darkroom}: restore it with that version or a"
            " newer one"
        )
    if manifest.storage != here.storage:
        raise bad_backup(f"its images are in {manifest.storage}, but DARKROOM_STORAGE is {here.storage}")
    found = list(faults(folder, manifest))
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise bad_backup("; ".join(found[:3]) + more)


def _restore(
    here: Settings, folder: Path, manifest: Manifest, output: Output, *, force: bool, pause: bool
) -> tuple[list[Finding], int]:
    from app.cli.operator.backup_database import database_url, opened
    from core.postgres_tools import find_tool
    from jobs.maintenance import audit, backup

    tool = find_tool("pg_restore", manifest.postgres)
    tool.check_archive(folder / "database.dump")
    with database_url(here, alone=True) as url, opened(url) as database:
        _check_target(database, here, manifest, force=force)
        missing = _missing_images(here, folder, manifest, output)
        if force:
            with database.transaction() as connection:
                backup.drop_everything(connection)
        output.note(f"restoring {manifest.counts['jobs']} tasks of {manifest.created_at}")
        options = ("--no-owner", "--no-privileges", "--schema=public", "--single-transaction", "--exit-on-error")
        tool.run(url, *options, str(folder / "database.dump"))
        _go_on(database, here, pause=pause)
        if manifest.storage == "local":
            _restore_images(here, folder)
        _restore_files(here, folder, manifest, output)
        with database.transaction() as connection:
            return list(audit.check(connection)), missing


def _check_target(database: Database, here: Settings, manifest: Manifest, *, force: bool) -> None:
    """Raises CommandError: something of ours is connected, the server is too old, or the target is not empty."""
    from sqlalchemy import text

    from app.cli.operator.backup_database import service_runs
    from jobs.maintenance import backup

    with database.transaction() as connection:
        number = connection.execute(text("SELECT CAST(current_setting('server_version_num') AS int)")).scalar_one()
        if number // 10_000 < manifest.postgres:
            detail = f"the backup is from PostgreSQL {manifest.postgres}, this server is {number // 10_000}"
            raise CommandError(Exit.USAGE, "server_too_old", detail)
        empty = backup.is_empty(connection)
        users = [] if empty else backup.users(connection)
    there = [*([] if empty else ["the database has tables"]), *_files_there(here)]
    if there and not force:
        hint = "--force replaces it. `darkroom backup` it first."
        raise CommandError(Exit.USAGE, "not_empty", "; ".join(there), hint=hint)
    if users:
        raise service_runs(f"this database is in use by {', '.join(users)}")


def _files_there(here: Settings) -> Iterator[str]:
    from app.cli.operator.archive import own_files

    yield from (f"{path} is there" for name, path in own_files(here).items() if name != ".env" and path.exists())
    if any((here.blobs_dir / kind).is_dir() for kind in ("jobs", "inputs", "uploads")):
        yield f"{here.blobs_dir} has images"


def _go_on(database: Database, here: Settings, *, pause: bool) -> None:
    """Bring an older schema up to date, and make the rows safe to go on with."""
    from core import schema
    from jobs.dispatch import health
    from jobs.maintenance.backup import after_restore
    from providers.configured import PROVIDERS

    with database.transaction() as connection:
        schema.upgrade(connection)
        if here.migrate_database_url_set is not None and here.database_url_set is not None:
            schema.grant_to_app(connection, here.database_url)
    with database.transaction() as connection:
        after_restore(connection)
        for name in PROVIDERS if pause else ():
            health.pause(connection, name, PAUSE_REASON)
    with database.autocommit() as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql("ANALYZE")


def _restore_images(here: Settings, folder: Path) -> None:
    from app.cli.operator.archive import BLOBS, copy_private, make_private, read_blob_list
    from storage.keys import check_key

    for key, _ in read_blob_list(folder):
        target = here.blobs_dir / check_key(key)
        make_private(target.parent)
        copy_private(folder / BLOBS / key, target)


def _missing_images(here: Settings, folder: Path, manifest: Manifest, output: Output) -> int:
    """How many images that the dump names will not be in the store. Raises StorageUnavailableError."""
    from app.cli.operator.archive import bucket_of, read_blob_list
    from storage.opening import open_store

    if manifest.storage == "local":
        return len(manifest.blobs_gone)
    if bucket_of(here) != manifest.bucket:
        output.warn(f"the images of this backup were in {manifest.bucket}; they are looked for in {bucket_of(here)}")
    store = open_store(here)
    there = {key for prefix in ("jobs/", "inputs/", "uploads/") for key in store.iter_keys(prefix)}
    return sum(1 for key, _ in read_blob_list(folder) if key not in there)


def _restore_files(here: Settings, folder: Path, manifest: Manifest, output: Output) -> None:
    """Keys and catalogue go where they were; ``.env`` only where there is none, for it says where we are."""
    from app.cli.operator.archive import FILES, copy_private, facts_of, make_private, own_files

    for name, target in own_files(here).items():
        known = manifest.files.get(f"{FILES}/{name}")
        if known is None:
            continue
        if name == ".env" and target.exists():
            if facts_of(target) != known:
                output.warn(f"kept the .env that is here; the backup's is {folder / FILES / name}")
            continue
        make_private(target.parent)
        copy_private(folder / FILES / name, target)


def _report(output: Output, folder: Path, manifest: Manifest, findings: list[Finding], missing: int) -> None:
    document = [{"invariant": f.invariant, "subject": f.subject, "detail": f.detail} for f in findings]
    output.document({
        "folder": folder, "created_at": manifest.created_at, "counts": dict(manifest.counts),
        "images": manifest.blobs, "images_missing": missing, "clean": not findings, "findings": document,
    })  # fmt: skip
    output.line(f"restored {manifest.counts['jobs']} tasks and {manifest.blobs} images of {manifest.created_at}")
    if missing:
        output.warn(f"{missing} images are not there: `darkroom doctor` names them, `--fix` marks them as deleted")
    if findings:
        output.table(("invariant", "subject", "detail"), [(f.invariant, f.subject, f.detail) for f in findings])
        raise CommandError(
            Exit.FAILED, "audit_findings", f"{len(findings)} invariants are broken", printed=output.as_json
        )
    output.line("clean: every invariant holds")
    output.note(f"{manifest.counts['live']} tasks were live; they go on when the service starts")
