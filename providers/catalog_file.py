"""Reading ``catalog.yaml``: YAML to checked entries, every fault named at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError

from providers.entries import OPERATIONS, Entry, FrozenMap, Model, ProviderSpec

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


class _Head(Entry):
    """The file without its entries. ``shared`` only gives YAML anchors a place."""

    schema_version: int
    checked: date
    default_model: str
    shared: FrozenMap[str, Any] = Field(default_factory=dict)
    sources: FrozenMap[str, str]
    aliases: FrozenMap[str, str]


@dataclass(frozen=True, slots=True)
class CatalogData:
    """What the file says. ``digest`` is the SHA-256 of its bytes, hex."""

    digest: str
    checked: date
    default_model: str
    sources: Mapping[str, str]
    aliases: tuple[tuple[str, str], ...]
    providers: Mapping[str, ProviderSpec]
    models: Mapping[str, Model]


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
    raw = _parse(path, content)
    faults: list[str] = []
    providers = _providers(raw.pop("providers", None), faults)
    models = _models(raw.pop("models", None), faults)
    head = _checked(_Head, raw, "head", faults)
    if head is not None:
        faults += _cross_faults(head, providers, models)
    if faults or head is None:
        raise CatalogError(path, faults)
    return CatalogData(
        digest=hashlib.sha256(content).hexdigest(),
        checked=head.checked,
        default_model=head.default_model,
        sources=head.sources,
        aliases=tuple(head.aliases.items()),
        providers=MappingProxyType(providers),
        models=MappingProxyType({model.id: model for model in models}),
    )


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    try:
        raw = yaml.load(content, Loader=_Loader)  # noqa: S506 (a safe loader, only stricter)
    except yaml.YAMLError as error:
        raise CatalogError(path, [f"not YAML: {error}"]) from error
    if not isinstance(raw, dict):
        raise CatalogError(path, ["not a mapping at the top"])
    return raw


def _providers(raw: object, faults: list[str]) -> dict[str, ProviderSpec]:
    if not isinstance(raw, dict):
        faults.append("providers: missing, or not a mapping")
        return {}
    specs = (
        _checked(ProviderSpec, {"name": name, **_mapping(value)}, f"provider {name}", faults)
        for name, value in raw.items()
    )
    return {spec.name: spec for spec in specs if spec is not None}


def _models(raw: object, faults: list[str]) -> list[Model]:
    if not isinstance(raw, list):
        faults.append("models: missing, or not a list")
        return []
    models = []
    for place, value in enumerate(raw):
        entry = _mapping(value)
        models.append(_checked(Model, entry, str(entry.get("id", f"model number {place + 1}")), faults))
    return [model for model in models if model is not None]


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _checked(kind: type[E_], raw: Mapping[str, Any], label: str, faults: list[str]) -> E_ | None:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            where = ".".join(str(part) for part in fault["loc"])
            faults.append(f"{label}: {where}: {fault['msg']}")
        return None


def _cross_faults(head: _Head, providers: Mapping[str, ProviderSpec], models: list[Model]) -> Iterator[str]:
    """What no entry can see by itself."""
    by_id = {model.id: model for model in models}
    if head.schema_version != SCHEMA_VERSION:
        yield f"head: schema_version {head.schema_version}, this program reads {SCHEMA_VERSION}"
    if head.default_model not in by_id:
        yield f"head: default_model {head.default_model} is not a model"
    for pattern, target in head.aliases.items():
        if target not in by_id:
            yield f"alias {pattern}: target {target} is not a model"
    for model_id, times in Counter(model.id for model in models).items():
        if times > 1:
            yield f"{model_id}: id given {times} times"
    for model in models:
        for fault in _entry_faults(model, head, providers, by_id):
            yield f"{model.id}: {fault}"


def _entry_faults(
    model: Model, head: _Head, providers: Mapping[str, ProviderSpec], by_id: Mapping[str, Model]
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
