"""Where a catalogue lies below a folder: one file for all providers, and one in each provider's folder.

Read by those who must not load pydantic, too (``providers/configured.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

PACKAGED: Final = Path(__file__).parents[1]


def common_file(root: Path) -> Path:
    """The file with what holds for all providers."""
    return root / "catalog" / "catalog.yaml"


def provider_files(root: Path) -> dict[str, Path]:
    """The file of each provider, by its name, which is the name of its folder; sorted."""
    return {path.parent.name: path for path in sorted(root.glob("upstreams/*/models.yaml"))}


def in_order(names: Iterable[str], listed: Sequence[str]) -> list[str]:
    """``names`` as they are listed; those that are not come after them, by name."""
    places = {name: place for place, name in enumerate(listed)}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))
