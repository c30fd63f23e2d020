"""A backup as a folder: what is in it, its manifest, and copying files into it and out of it.

    manifest.json        versions, figures, size and SHA-256 of every other file; written last
    database.dump        pg_dump's own format
    blobs.sha256         a line for each image that the dump names, as sha256sum writes and checks them
    blobs/               the images; absent where they are in a bucket
    files/               admin.key, signing.keys, flower.password, catalog.local.yaml, .env

Folders are 0700 and files 0600: all of it is secret.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from app.cli.output import CommandError, Exit
from core.embedded.folders import write_private
from core.settings import Settings

FORMAT = 1
MANIFEST, DUMP, BLOB_LIST, BLOBS, FILES = "manifest.json", "database.dump", "blobs.sha256", "blobs", "files"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileFacts:
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """``storage``: ``local``, or ``s3`` with the bucket and prefix in ``bucket``. ``counts``: of the database.

    ``postgres``: the server's major version. ``schema``: the newest migration in the dump. ``blobs_gone``: keys whose
    image was deleted, or lost, between the dump and its copy.
    """

    created_at: str
    darkroom: str
    schema: str
    postgres: int
    storage: str
    counts: Mapping[str, int]
    files: Mapping[str, FileFacts]
    blobs: int = 0
    blobs_bytes: int = 0
    blobs_gone: tuple[str, ...] = ()
    bucket: str = ""
    format: int = field(default=FORMAT)

    def write(self, folder: Path) -> None:
        write_private(folder / MANIFEST, json.dumps(asdict(self), indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Raises CommandError for a folder without one, a damaged one, or one of a later format."""
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise bad_backup(f"its format is {found['format']}, this version reads {FORMAT}")
        files = {name: FileFacts(**facts) for name, facts in found.pop("files").items()}
        return Manifest(**{**found, "files": files, "blobs_gone": tuple(found["blobs_gone"])})
    except FileNotFoundError:
        raise bad_backup(f"{folder} has no {MANIFEST}: it is no backup, or one that was not finished") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise bad_backup(f"{folder / MANIFEST} is damaged") from None


def bad_backup(detail: str) -> CommandError:
    return CommandError(Exit.USAGE, "bad_backup", detail)


def own_files(settings: Settings) -> dict[str, Path]:
    """Where the files of ``files/`` belong, by name."""
    names = ("admin.key", "signing.keys", "flower.password")
    return {
        **{name: settings.var / name for name in names},
        "catalog.local.yaml": settings.catalog_local,
        ".env": Path(".env"),
    }


def bucket_of(settings: Settings) -> str:
    """The bucket and the prefix where images are kept; empty where they are files."""
    return f"{settings.s3_bucket}/{settings.s3_prefix}" if settings.storage == "s3" else ""


def make_private(folder: Path) -> Path:
    """The folder and its parents, those made now 0700."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def copy_private(source: Path, target: Path) -> FileFacts:
    """Copy a file, 0600 from its first byte on, complete or not there. Raises OSError."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    digest, size = hashlib.sha256(), 0
    try:
        with source.open("rb") as reader, _private(draft) as writer:
            while chunk := reader.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                writer.write(chunk)
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)
    return FileFacts(digest.hexdigest(), size)


def _private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb")


def facts_of(path: Path) -> FileFacts:
    """Raises OSError."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileFacts(digest, path.stat().st_size)


def write_blob_list(folder: Path, hashes: Mapping[str, str]) -> None:
    lines = (f"{sha256}  {BLOBS}/{key}\n" for key, sha256 in sorted(hashes.items()))
    write_private(folder / BLOB_LIST, "".join(lines))


def read_blob_list(folder: Path) -> Iterator[tuple[str, str]]:
    """(key, SHA-256) of every blob."""
    with (folder / BLOB_LIST).open(encoding="ascii") as lines:
        for line in lines:
            sha256, _, path = line.rstrip("\n").partition("  ")
            yield path.removeprefix(f"{BLOBS}/"), sha256


def faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    """What in a backup is not as its manifest says, a sentence each. Reads all of it."""
    for name, facts in manifest.files.items():
        yield from _fault(folder / name, name, facts.sha256)
    if manifest.storage == "local" and (folder / BLOB_LIST).is_file():
        for key, sha256 in read_blob_list(folder):
            yield from _fault(folder / BLOBS / key, f"{BLOBS}/{key}", sha256)


def _fault(path: Path, name: str, sha256: str) -> Iterable[str]:
    try:
        return () if facts_of(path).sha256 == sha256 else (f"{name} is not the file that was backed up",)
    except OSError as error:
        return (f"{name}: {os.strerror(error.errno or 0)}",)
