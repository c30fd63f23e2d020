"""Changes to the lists of models that emulators answer with: what a test or a person lets an upstream say next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ListChange:
    """What is different in one upstream's list: names left out, parts laid over an item, items of their own."""

    drop: frozenset[str] = frozenset()
    merge: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    add: tuple[Mapping[str, Any], ...] = ()


@dataclass
class ModelLists:
    """The changes in force, by provider."""

    changes: dict[str, ListChange] = field(default_factory=dict)

    def changed(self, provider: str, items: Iterable[Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
        """The items as the upstream says them now; ``key`` holds an item's name."""
        change = self.changes.get(provider, ListChange())
        kept = [item for item in items if item[key] not in change.drop]
        return [_merged(item, change.merge.get(item[key], {})) for item in [*kept, *change.add]]


def _merged(item: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings key by key, anything else replaced; null removes. A list of one mapping is merged into as well."""
    merged = deepcopy(dict(item))
    for name, value in patch.items():
        known = merged.get(name)
        if isinstance(known, list) and len(known) == 1 and isinstance(value, Mapping):
            merged[name] = [_merged(known[0], value)]
        elif isinstance(known, dict) and isinstance(value, Mapping):
            merged[name] = _merged(known, value)
        elif value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged
