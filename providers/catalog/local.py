"""An operator's own catalogue file, laid over the packaged one.

It contains only what differs: fields of models (mappings are merged key by key, anything else replaces;
null removes), new models, aliases, markups, what is hidden, the default model. It is checked together with
the catalogue it is laid over.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import Field

from providers.catalog.checks import cross_faults
from providers.catalog.entries import MAX_MARKUP, SCHEMA_VERSION, Head, Model
from providers.catalog.frozen import Entry, FrozenMap
from providers.catalog.reading import CatalogData, CatalogError, checked, mapping, parse

# Fields that a new model does not inherit from the one it is like.
_OWN = frozenset({"status", "replaced_by", "retired_on", "retires_on", "hidden", "markup", "image_studio"})

# An own price, and the packaged rules that would go before it or be added to it.
_PRICES = frozenset({"cost_usd", "cost_tiers"})
_PRICE_RULES = frozenset({"cost_table", "extra_tokens", "cost_formula", "cost_base_usd"})


class _LocalProvider(Entry):
    """What an operator may say of all models of a provider; a model's own entry comes first."""

    markup: Decimal | None = Field(default=None, gt=0, le=MAX_MARKUP)
    hidden: bool = False


class _LocalHead(Entry):
    """The file without its models and providers. An alias to null is removed."""

    schema_version: int = SCHEMA_VERSION
    default_model: str | None = None
    sources: FrozenMap[str, str] = Field(default_factory=dict)
    aliases: FrozenMap[str, str | None] = Field(default_factory=dict)


def lay_over(base: CatalogData, path: Path, content: bytes) -> CatalogData:
    """``base`` as the operator's file changes it. Raises: CatalogError naming every fault."""
    # A section whose entries are all commented out reads as null.
    raw = {name: value for name, value in parse(path, content).items() if value is not None}
    faults: list[str] = []
    providers = _providers(base, raw.pop("providers", {}), faults)
    models = _models(base, raw.pop("models", {}), providers, faults)
    local = checked(_LocalHead, raw, "head", faults)
    if local is not None:
        head = _head(base.head, local)
        faults += [fault for _, fault in cross_faults(head, base.providers, list(models.values()))]
        faults += _local_faults(local, models)
    if faults or local is None:
        raise CatalogError(path, faults)
    return CatalogData(
        digest=hashlib.sha256(base.digest.encode() + content).hexdigest(),
        head=head,
        providers=base.providers,
        models=MappingProxyType(models),
        raw=base.raw,
        preferred=local.default_model,
    )


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``patch`` over it: mappings key by key, anything else replaced. Null removes a mapping, a list
    or a new key; a plain value becomes null, which in an entry means left out."""
    result = dict(base)
    for key, value in patch.items():
        known = result.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            result[key] = merged(known, value)
        elif value is None and (key not in result or isinstance(known, dict | list)):
            result.pop(key, None)
        else:
            result[key] = value
    return result


def _providers(base: CatalogData, raw: object, faults: list[str]) -> dict[str, _LocalProvider]:
    if not isinstance(raw, dict):
        faults.append("providers: not a mapping")
        return {}
    faults += [f"provider {name}: is not a provider" for name in raw if name not in base.providers]
    specs = {name: checked(_LocalProvider, mapping(value), f"provider {name}", faults) for name, value in raw.items()}
    return {name: spec for name, spec in specs.items() if spec is not None}


def _models(
    base: CatalogData, raw: object, providers: Mapping[str, _LocalProvider], faults: list[str]
) -> dict[str, Model]:
    """Every model in the order of the packaged catalogue, new ones last."""
    models = dict(base.models)
    if not isinstance(raw, dict):
        faults.append("models: not a mapping of ids to entries")
        raw = {}
    said: dict[str, set[str]] = {}
    for model_id, patch in ((str(key), value) for key, value in raw.items()):
        entry = _entry(base, model_id, patch, faults)
        if entry is not None and (model := checked(Model, entry, model_id, faults)) is not None:
            models[model_id] = model
            said[model_id] = set(patch)
    return {key: _of_provider(model, providers.get(model.provider), said.get(key, ())) for key, model in models.items()}


def _of_provider(model: Model, spec: _LocalProvider | None, said: set[str] | tuple[()]) -> Model:
    """The model with what the file says of its whole provider, where its own entry says nothing."""
    if spec is None:
        return model
    changes: dict[str, object] = {}
    if spec.markup is not None and model.markup is None:
        changes["markup"] = spec.markup
    if spec.hidden and "hidden" not in said:
        changes["hidden"] = True
    return model.model_copy(update=changes) if changes else model


def _entry(base: CatalogData, model_id: str, patch: object, faults: list[str]) -> dict[str, Any] | None:
    """The whole entry of a model of the file; None, and a fault, where it cannot be made."""
    if not isinstance(patch, dict):
        faults.append(f"{model_id}: not a mapping")
        return None
    changes = {name: value for name, value in patch.items() if name not in {"id", "like"}}
    if patch.get("id", model_id) != model_id:
        faults.append(f"{model_id}: id: is another one inside the entry")
    known, like = base.raw.get(model_id), patch.get("like")
    if known is not None and like is not None:
        faults.append(f"{model_id}: like: is for new models, and this one is packaged")
    elif like is not None:
        if not isinstance(like, str) or like not in base.raw:
            faults.append(f"{model_id}: like: {like} is no packaged model{_nearest(base, str(like))}")
            return None
        known = {name: value for name, value in base.raw[like].items() if name not in _OWN} | {"name": model_id}
    elif known is None and "provider" not in patch:
        hint = _nearest(base, model_id)
        faults.append(f"{model_id}: no packaged model{hint}; a new one needs `like`, or a whole entry")
        return None
    known = known or {"name": model_id, "source": [], "verified": False}
    if not _PRICES.isdisjoint(changes):  # a price of the operator's own is not hidden behind a packaged rule
        known = {name: value for name, value in known.items() if name not in _PRICE_RULES}
        if tiers := known.get("cost_tiers"):  # one without a condition would replace the price of every order
            known["cost_tiers"] = [tier for tier in tiers if tier.get("when")]
    return merged(known, changes) | {"id": model_id}


def _nearest(base: CatalogData, name: str) -> str:
    near = difflib.get_close_matches(name, base.models, n=1, cutoff=0.7)
    return f" (did you mean {near[0]}?)" if near else ""


def _head(base: Head, local: _LocalHead) -> Head:
    """The head with the operator's changes. The first alias that matches wins, so the operator's come first."""
    own = {pattern.lower(): target for pattern, target in local.aliases.items()}
    aliases = {pattern: target for pattern, target in own.items() if target is not None}
    aliases |= {pattern: target for pattern, target in base.aliases.items() if pattern not in own}
    if (catch_all := aliases.pop("*", None)) is not None:  # last: behind it nothing would be found
        aliases["*"] = catch_all
    return base.model_copy(
        update={
            "schema_version": local.schema_version,
            "default_model": local.default_model or base.default_model,
            "sources": MappingProxyType({**base.sources, **local.sources}),
            "aliases": MappingProxyType(aliases),
        }
    )


def _local_faults(local: _LocalHead, models: Mapping[str, Model]) -> Iterator[str]:
    """What would have no effect, or not the intended one."""
    if (default := models.get(local.default_model or "")) is not None and default.hidden:
        yield f"head: default_model {default.id} is hidden"
    for pattern, target in local.aliases.items():
        if target is not None and pattern.lower() in models:
            yield f"alias {pattern}: is a model's own id; give that model status redirected and replaced_by instead"
