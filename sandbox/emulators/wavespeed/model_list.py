"""WaveSpeed's list of models: those of ``models.jsonl``, as the vendor's own package described them in June 2026, and
those that only ``schemas.yaml`` knows, without a price.

Speaks providers/upstreams/wavespeed/CONTRACT.md, section 2 ("Model catalogue").
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from sandbox.emulators.wavespeed.models import MODELS, ROWS, Model

_TYPES = {"image": "text-to-image", "text": "image-to-text", "model_3d": "image-to-3d"}


@cache
def listed() -> tuple[dict[str, Any], ...]:
    """Every item of the list."""
    return (
        *map(_from_row, ROWS.values()),
        *(_from_schema(MODELS[path]) for path in sorted(MODELS.keys() - ROWS.keys())),
    )


def _from_row(row: Mapping[str, Any]) -> dict[str, Any]:
    properties = {name: _property(part) for name, part in row["input"].items()}
    priced = {"base_price": row["base_price_usd"], "formula": row.get("price_formula", "")}
    return _item(row["id"], row["type"], properties, row["required"]) | priced


def _property(part: Mapping[str, Any]) -> dict[str, Any]:
    """A property of JSON Schema; a row writes the type of a list's items in a word, and none where it is a weight."""
    if part.get("type") != "array":
        return dict(part)
    items = {"type": part["items"]} if part.get("items") else {"$ref": "#/components/schemas/LoraWeight"}
    return {**part, "items": items}


def _from_schema(model: Model) -> dict[str, Any]:
    document = model.document
    return _item(model.path, _TYPES[model.output], document["properties"], document.get("required", []))


def _item(path: str, kind: str, properties: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "x-order-properties": list(_by_use(properties, required)),
    }
    return {
        "model_id": path,
        "name": path,
        "type": kind,
        "description": "",
        "base_price": None,
        "formula": "",
        "api_schema": {"api_schemas": [{"api_path": f"/api/v3/{path}", "request_schema": schema}]},
    }


def _by_use(properties: Mapping[str, Any], required: list[str]) -> Iterator[str]:
    yield from (name for name in properties if name in required)
    yield from (name for name in properties if name not in required)
