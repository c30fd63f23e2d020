"""``darkroom backup DIR``: the database, the images, the keys, the catalogue and ``.env``, as of one moment."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.cli.here import settings
from app.cli.output import CommandError, Exit, Output, output_options, size_text

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from app.cli.operator.archive import FileFacts, Manifest
    from core.db import Database
    from core.settings import Settings
    from jobs.maintenance.backup import Blob


@click.command()
@output_options
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def backup(output: Output, folder: Path) -> None:
    """Write a backup into DIR, which must be new or empty. The service may go on meanwhile.

    Orders accepted after the start of a backup are not in it. Images in a bucket are named, not copied: give the
    bucket versioning of its own. All of DIR is secret: it holds your keys.
    """
    here = settings()
    with _new_folder(folder):
        made = _back_up(here, folder, output)
    output.document({"folder": folder, **_summary(made)})
    output.line(f"{folder}: {made.counts['jobs']} tasks, {made.blobs} images, {size_text(_size(made))}")
    if made.storage == "s3":
        output.note(f"the images are in {made.bucket}: what protects them is the bucket's own versioning")
    if made.blobs_gone:
        output.warn(f"{len(made.blobs_gone)} images were deleted meanwhile, or are lost: see {folder}/manifest.json")


@contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """An empty 0700 folder, which is removed or emptied again when the backup fails."""
    from app.cli.operator.archive import make_private

    was_there = folder.is_dir()
    if was_there and any(folder.iterdir()):
        raise CommandError(Exit.USAGE, "not_empty", f"{folder} is not empty: a backup wants a folder of its own")
    make_private(folder)
    if was_there:
        folder.chmod(0o700)
    try:
        yield
    except BaseException:
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not was_there:
            folder.rmdir()
        raise


def _back_up(here: Settings, folder: Path, output: Output) -> Manifest:
    from app.cli.operator import archive
    from app.cli.operator.backup_database import database_url, opened
    from core.version import VERSION
    from jobs.maintenance import backup as database_facts

    with database_url(here, alone=False) as url, opened(url) as database:
        images = _Images(here, folder)
        # Before the dump, too: what is deleted from now on is copied while the dump still names it.
        images.copy(_kept_now(database))
        with _snapshot(database) as (connection, snapshot):
            facts = database_facts.facts(connection)
            if facts.schema is None:
                raise CommandError(Exit.FAILED, "schema_outdated", "the database lacks our tables: nothing to back up")
            output.note(f"dumping {facts.jobs} tasks, {facts.live} of them live")
            _dump(url, facts.server_major, folder / archive.DUMP, snapshot)
            named = list(database_facts.kept_blobs(connection))
        images.copy(named)
    gone = images.finish(named)
    files = {archive.DUMP: archive.facts_of(folder / archive.DUMP), **_copy_files(here, folder)}
    files[archive.BLOB_LIST] = archive.facts_of(folder / archive.BLOB_LIST)
    made = archive.Manifest(
        created_at=facts.at.isoformat(),
        darkroom=VERSION,
        schema=facts.schema,
        postgres=facts.server_major,
        storage=here.storage,
        counts=facts.counts(),
        files=files,
        blobs=len(named) - len(gone),
        blobs_bytes=images.size_bytes,
        blobs_gone=tuple(gone),
        bucket=archive.bucket_of(here),
    )
    made.write(folder)
    return made


def _kept_now(database: Database) -> list[Blob]:
    from jobs.maintenance.backup import kept_blobs

    with database.transaction() as connection:
        return list(kept_blobs(connection))


@contextmanager
def _snapshot(database: Database) -> Iterator[tuple[Connection, str]]:
    """A transaction that sees one moment, and the name by which pg_dump sees the same one."""
    from sqlalchemy import text

    with database.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield connection, str(connection.execute(text("SELECT pg_export_snapshot()")).scalar_one())


def _dump(url: str, server_major: int, target: Path, snapshot: str) -> None:
    from core.postgres_tools import find_tool

    # Made before pg_dump opens it, so that no one else can ever read it.
    target.touch(mode=0o600)
    options = ("--format=custom", "--no-owner", "--no-privileges", "--lock-wait-timeout=60s")
    find_tool("pg_dump", server_major).run(url, *options, f"--snapshot={snapshot}", f"--file={target}")


class _Images:
    """Copies blobs into the backup, each once; in a bucket they stay where they are."""

    def __init__(self, here: Settings, folder: Path) -> None:
        from app.cli.operator.archive import BLOBS

        self._source = here.blobs_dir if here.storage == "local" else None
        self._folder, self._target = folder, folder / BLOBS
        self._copied: dict[str, FileFacts] = {}

    @property
    def size_bytes(self) -> int:
        return sum(facts.size_bytes for facts in self._copied.values())

    def copy(self, blobs: list[Blob]) -> None:
        """Copy those that are there and were not copied before."""
        from app.cli.operator.archive import copy_private, make_private
        from storage.keys import is_key

        if self._source is None:
            return
        for blob in blobs:
            if blob.key in self._copied or not is_key(blob.key) or not (self._source / blob.key).is_file():
                continue
            make_private((self._target / blob.key).parent)
            try:
                self._copied[blob.key] = copy_private(self._source / blob.key, self._target / blob.key)
            except FileNotFoundError:  # deleted just now
                continue

    def finish(self, named: list[Blob]) -> list[str]:
        """Write the list of what the dump names, drop what it does not; the keys of which there is no good copy."""
        from app.cli.operator.archive import write_blob_list

        wanted = {blob.key: blob.sha256 for blob in named}
        if self._source is None:
            write_blob_list(self._folder, wanted)
            return []
        for key in self._copied.keys() - wanted.keys():  # deleted before the dump
            (self._target / key).unlink()
            del self._copied[key]
        good = {key: sha256 for key, sha256 in wanted.items() if self._is_good(key, sha256)}
        write_blob_list(self._folder, good)
        return sorted(wanted.keys() - good.keys())

    def _is_good(self, key: str, sha256: str) -> bool:
        copied = self._copied.get(key)
        return copied is not None and copied.sha256 == sha256


def _copy_files(here: Settings, folder: Path) -> dict[str, FileFacts]:
    from app.cli.operator.archive import FILES, copy_private, make_private, own_files

    make_private(folder / FILES)
    there = {name: path for name, path in own_files(here).items() if path.is_file()}
    return {f"{FILES}/{name}": copy_private(path, folder / FILES / name) for name, path in there.items()}


def _summary(made: Manifest) -> dict[str, object]:
    return {
        "created_at": made.created_at,
        "schema": made.schema,
        "counts": dict(made.counts),
        "images": made.blobs,
        "images_gone": list(made.blobs_gone),
        "size_bytes": _size(made),
    }


def _size(made: Manifest) -> int:
    return made.blobs_bytes + sum(facts.size_bytes for facts in made.files.values())
