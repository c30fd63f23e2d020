"""WaveSpeed's list: every model with the schema of its input, base price and price formula (CONTRACT.md, section 2)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from providers.catalog.entries import Model
from providers.listing.listed import Asker, ListedModel, Listing
from providers.listing.reading import ask_json, decimal_of, fields_of, items_of, required_of, text_of
from providers.upstreams.wavespeed.requests import API

# Which models are about images, by the first or last word of their type: the list has videos, sounds and texts too.
_IMAGE_WORDS = ("image", "3d", "upscaler", "remover", "portrait-transfer")


def list_models(account: Asker, models: Collection[Model]) -> Listing:
    """All models that make images or 3D files, or describe them; and ours, whatever they are. Raises: ProviderError."""
    ours = {path for model in models for path in (model.path, *model.paths.values())}
    listed = [_listed(item) for item in items_of(ask_json(account, f"{API}/models"), "data")]
    return Listing({each.name: each for each in listed if each.name and (each.name in ours or _is_image(each))})


def _is_image(model: ListedModel) -> bool:
    return any(word in model.kind for word in _IMAGE_WORDS) and "video" not in model.kind.rpartition("to")[2]


def _listed(item: dict[str, Any]) -> ListedModel:
    name = text_of(item.get("model_id"))
    schema = _schema(item, name)
    formula = item.get("formula")
    return ListedModel(
        name,
        title=text_of(item.get("name")),
        kind=text_of(item.get("type")),
        price_usd=decimal_of(item.get("base_price")),
        formula=formula if isinstance(formula, str) and formula.strip() else None,
        fields=None if schema is None else fields_of(schema),
        required=frozenset() if schema is None else required_of(schema),
    )


def _schema(item: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The input of the model's own path; a few models have further paths, such as one for uploads."""
    found = item.get("api_schema")
    schemas = found.get("api_schemas") if isinstance(found, dict) else None
    parts = [each for each in schemas or [] if isinstance(each, dict)] if isinstance(schemas, list) else []
    parts.sort(key=lambda each: not str(each.get("api_path", "")).endswith(f"/{name}"))
    schema = parts[0].get("request_schema") if parts else None
    return schema if isinstance(schema, dict) else None
