"""Reading ``catalog.yaml``: YAML to checked entries, every fault named at once.

An operator's own file over it: ``catalog_local.py``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError

from providers.catalog.entries import OPERATIONS, Entry, FrozenMap, Model, ProviderSpec

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML built without libyaml: the same result, some ten times slower
    from yaml import SafeLoader  # type: ignore[assignment]

SCHEMA_VERSION = 1
E_ = TypeVar("E_", bound=Entry)


class CatalogError(ValueError):
    """The file cannot be used. ``faults`` are one line each, beginning with the entry's id."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        listed = "\n".join(f"- {fault}" for fault in faults)
        super().__init__(f"{path.name}: {len(faults)} fault(s)\n{listed}")
        self.faults = tuple(faults)


class Head(Entry):
    """The file without its entries. ``shared`` only gives YAML anchors a place; ``quality`` is that of the
    models named in it."""

    schema_version: int
    checked: date
    default_model: str
    shared: FrozenMap[str, Any] = Field(default_factory=dict)
    sources: FrozenMap[str, str]
    aliases: FrozenMap[str, str]
    quality: FrozenMap[str, int] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CatalogData:
    """What the file says. ``digest`` is the SHA-256 of its bytes, hex; ``raw`` has the entries of models as
    they were written. ``preferred`` is the default model of an operator's own file."""

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


def read(path: Path) -> CatalogData:
    """Read one catalogue file. Raises: CatalogError, OSError."""
    content = path.read_bytes()
    raw = parse(path, content)
    faults: list[str] = []
    providers = _providers(raw.pop("providers", None), faults)
    entries = _entries(raw.pop("models", None), mapping(raw.get("quality")), faults)
    models = [model for label, entry in entries if (model := checked(Model, entry, label, faults))]
    head = checked(Head, raw, "head", faults)
    if head is not None:
        faults += cross_faults(head, providers, models)
    if faults or head is None:
        raise CatalogError(path, faults)
    return CatalogData(
        digest=hashlib.sha256(content).hexdigest(),
        head=head,
        providers=MappingProxyType(providers),
        models=MappingProxyType({model.id: model for model in models}),
        raw=MappingProxyType({entry["id"]: entry for _, entry in entries}),
    )


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


def _providers(raw: object, faults: list[str]) -> dict[str, ProviderSpec]:
    if not isinstance(raw, dict):
        faults.append("providers: missing, or not a mapping")
        return {}
    specs = (
        checked(ProviderSpec, {"name": name, **mapping(value)}, f"provider {name}", faults)
        for name, value in raw.items()
    )
    return {spec.name: spec for spec in specs if spec is not None}


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


def cross_faults(head: Head, providers: Mapping[str, ProviderSpec], models: list[Model]) -> Iterator[str]:
    """What no entry can see by itself."""
    by_id = {model.id: model for model in models}
    if head.schema_version != SCHEMA_VERSION:
        yield f"head: schema_version {head.schema_version}, this program reads {SCHEMA_VERSION}"
    if head.default_model not in by_id:
        yield f"head: default_model {head.default_model} is not a model"
    for pattern, target in head.aliases.items():
        if target not in by_id:
            yield f"alias {pattern}: target {target} is not a model"
    for model_id in head.quality:
        if model_id not in by_id:
            yield f"quality {model_id}: is not a model"
    for model_id, times in Counter(model.id for model in models).items():
        if times > 1:
            yield f"{model_id}: id given {times} times"
    for model in models:
        for fault in _entry_faults(model, head, providers, by_id):
            yield f"{model.id}: {fault}"


def _entry_faults(
    model: Model, head: Head, providers: Mapping[str, ProviderSpec], by_id: Mapping[str, Model]
) -> Iterator[str]:
    if model.provider not in providers:
        yield f"provider {model.provider} is not described"
    for operation in sorted(model.operations - OPERATIONS):
        yield f"operation {operation} is not known"
    for key in model.source:
        if key not in head.sources:
            yield f"source {key} is not listed"
    for name, spec in model.params.items():
        if spec.enum and spec.type != "str":
            yield f"param {name}: enum needs type str"
    if model.inputs.images.max is not None and model.inputs.images.max < model.inputs.images.min:
        yield "inputs.images: max is below min"
    if model.inputs.mask != "none" and model.inputs.mask_polarity is None:
        yield "inputs.mask: mask_polarity is missing"
    yield from _succession_faults(model, by_id)


def _succession_faults(model: Model, by_id: Mapping[str, Model]) -> Iterator[str]:
    """Whoever is gone or going must lead to somebody who is not."""
    if model.replaced_by is not None and model.replaced_by not in by_id:
        yield f"replaced_by {model.replaced_by} is not a model"
        return
    if model.status == "retiring" and model.retires_on is None:
        yield "retiring, but retires_on is missing"
    seen = {model.id}
    step: Model | None = model
    while step is not None and step.status in {"shutdown", "redirected", "retiring"}:
        step = by_id.get(step.replaced_by or "")
        if step is None or step.id in seen:
            yield "no living model at the end of replaced_by"
            return
        seen.add(step.id)
