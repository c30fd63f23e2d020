"""Reading a catalogue: its YAML files to checked entries, every fault named at once.

An operator's own file over it: ``providers/catalog/local.py``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from providers.catalog import files
from providers.catalog.checks import cross_faults
from providers.catalog.entries import Head, Model, ProviderHead, ProviderSpec
from providers.catalog.frozen import Entry

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML built without libyaml: the same result, some ten times slower
    from yaml import SafeLoader  # type: ignore[assignment]

E_ = TypeVar("E_", bound=Entry)


class CatalogError(ValueError):
    """A catalogue cannot be used. ``faults`` are one line each: the file where there are several, the entry, what
    is wrong with it."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        listed = "\n".join(f"- {fault}" for fault in faults)
        super().__init__(f"{path.name}: {len(faults)} fault(s)\n{listed}")
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class CatalogData:
    """What the files say. ``digest`` is the SHA-256 of their names and bytes, hex; ``raw`` has the entries of models
    as they were written. ``preferred`` is the default model of an operator's own file."""

    digest: str
    head: Head
    providers: Mapping[str, ProviderSpec]
    models: Mapping[str, Model]
    raw: Mapping[str, Mapping[str, Any]] = field(repr=False)
    preferred: str | None = None


class _Loader(SafeLoader):
    """Refuses a key given twice: YAML would keep the last one and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge")
        doubled = [key for key, times in keys.items() if times > 1]
        if doubled:
            raise yaml.constructor.ConstructorError(
                None, None, f"key given twice: {', '.join(map(str, doubled))}", node.start_mark
            )
        return super().construct_mapping(node, deep)


@dataclass(slots=True)
class _File:
    """One file: what is in it, and what is wrong with it."""

    path: Path
    content: bytes
    raw: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path) -> _File:
        """Raises: OSError."""
        file = cls(path, path.read_bytes())
        try:
            file.raw = parse(path, file.content)
        except CatalogError as error:
            file.faults += error.faults
        return file


@dataclass(slots=True)
class _Part:
    """What a provider's file says. ``entries`` are its models as written, with the name their faults go under."""

    file: _File
    spec: ProviderSpec | None
    sources: Mapping[str, str]
    entries: list[tuple[str, dict[str, Any]]]
    models: list[Model]


def read(root: Path) -> CatalogData:
    """Read the catalogue below a folder: ``catalog/catalog.yaml``, and ``upstreams/*/models.yaml`` for each provider.

    The packaged one is read once: a running process keeps its code, and its package's data with it.
    Raises: CatalogError naming every fault with its file, OSError.
    """
    return _packaged() if root == files.PACKAGED else _read(root)


@cache
def _packaged() -> CatalogData:
    return _read(files.PACKAGED)


def _read(root: Path) -> CatalogData:
    common = _File.of(files.common_file(root))
    found = {name: _File.of(path) for name, path in files.provider_files(root).items()}
    if faults := _told(root, common, found):  # before the rest: what is missing in one file reads as faults of others
        raise CatalogError(root, faults)
    quality = mapping(common.raw.get("quality"))
    parts = {name: _part(name, file, quality) for name, file in found.items()}
    head = checked(Head, common.raw, "head", common.faults)
    data = None if head is None else _together(root, common, head, parts)
    faults = _told(root, common, found)
    if faults or data is None:
        raise CatalogError(root, faults)
    return data


def _told(root: Path, common: _File, found: Mapping[str, _File]) -> list[str]:
    """The faults of all files, each with the name of its file."""
    return [f"{_name(root, file)}: {fault}" for file in (common, *found.values()) for fault in file.faults]


def _name(root: Path, file: _File) -> str:
    return file.path.relative_to(root).as_posix()


def _part(name: str, file: _File, quality: Mapping[str, Any]) -> _Part:
    """The file of one provider; what is wrong with it stands in its ``faults``."""
    block = file.raw.pop("provider", None)
    if not isinstance(block, dict):
        file.faults.append("provider: missing, or not a mapping")
    spec = (
        checked(ProviderSpec, {**mapping(block), "name": name}, f"provider {name}", file.faults)
        if isinstance(block, dict)
        else None
    )
    entries = _entries(file.raw.pop("models", None), quality, file.faults)
    file.faults += [
        f"{label}: provider {entry['provider']} is not that of the folder"
        for label, entry in entries
        if entry.get("provider", name) != name
    ]
    models = [model for label, entry in entries if (model := checked(Model, entry, label, file.faults))]
    head = checked(ProviderHead, file.raw, "head", file.faults)
    return _Part(file, spec, head.sources if head else {}, entries, models)


def _together(root: Path, common: _File, head: Head, parts: Mapping[str, _Part]) -> CatalogData:
    """The files as one catalogue; what is wrong only with all of them is added to their faults."""
    for kind, listed in (("providers", head.order.providers), ("models", head.order.models)):
        common.faults += [f"head: order.{kind}: {name} has no folder" for name in listed if name not in parts]
    by_model = [parts[name] for name in files.in_order(parts, head.order.models)]
    models = [model for part in by_model for model in part.models]
    head = head.model_copy(update={"sources": MappingProxyType(_sources(head, parts))})
    specs = {name: spec for name in files.in_order(parts, head.order.providers) if (spec := parts[name].spec)}
    for model_id, fault in cross_faults(head, specs, models):
        owners = [part.file for part in by_model if any(model.id == model_id for model in part.models)]
        for file in owners or [common]:
            file.faults.append(fault)
    return CatalogData(
        digest=_digest(root, [common, *(part.file for part in parts.values())]),
        head=head,
        providers=MappingProxyType(specs),
        models=MappingProxyType({model.id: model for model in models}),
        raw=MappingProxyType({label: entry for part in by_model for label, entry in part.entries}),
    )


def _sources(head: Head, parts: Mapping[str, _Part]) -> dict[str, str]:
    """Every source by its key, which may mean one thing alone."""
    found = dict(head.sources)
    for part in parts.values():
        part.file.faults += [f"source {key}: the key is taken in another file" for key in part.sources if key in found]
        found |= part.sources
    return found


def _digest(root: Path, read_files: list[_File]) -> str:
    digest = hashlib.sha256()
    for file in read_files:
        digest.update(f"{_name(root, file)}\n{hashlib.sha256(file.content).hexdigest()}\n".encode())
    return digest.hexdigest()


def parse(path: Path, content: bytes) -> dict[str, Any]:
    """The mapping at the top. Raises: CatalogError."""
    try:
        raw = yaml.load(content, Loader=_Loader)  # noqa: S506 (a safe loader, only stricter)
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        RecursionError,
    ) as error:  # such as a date that is none, a list as key
        raise CatalogError(path, [f"not YAML: {error}"]) from error
    if not isinstance(raw, dict):
        raise CatalogError(path, ["not a mapping at the top"])
    return raw


def _entries(raw: object, quality: Mapping[str, Any], faults: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """The entries of models, each with the name its faults go under."""
    if not isinstance(raw, list):
        faults.append("models: missing, or not a list")
        return []
    entries = []
    for place, value in enumerate(raw):
        entry = dict(mapping(value))
        model_id = str(entry.get("id", f"model number {place + 1}"))
        if model_id in quality:
            entry["quality"] = quality[model_id]
        entries.append((model_id, entry))
    return entries


def mapping(value: object) -> dict[str, Any]:
    """The value, or nothing where it is no mapping."""
    return value if isinstance(value, dict) else {}


def checked(kind: type[E_], raw: Mapping[str, Any], label: str, faults: list[str]) -> E_ | None:
    """The entry, or None and its faults under ``label``."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            where = ".".join(str(part) for part in fault["loc"])
            faults.append(f"{label}: {where}: {fault['msg']}")
        return None
