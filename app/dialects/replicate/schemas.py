"""The schema of a model's input and output, as the page of a model at Replicate has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app.dialects.replicate.names import REPLICATE, Named
from providers.catalog.entries import Model

Schema = dict[str, Any]
OrderSchema = Callable[[Model, str], Mapping[str, Any]]

# Clients take a list for one that grows while a model runs where the schema is of an older form.
COG_VERSION = "0.16.0"
_THEIRS = {
    "n": "num_outputs",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "face": "face_image",
}
_LINK: Schema = {"type": "string", "format": "uri"}


def openapi_schema(named: Named, order_schema: OrderSchema) -> Schema:
    """An OpenAPI document with the schemas ``Input`` and ``Output`` of a model, and nothing else."""
    return {
        "openapi": "3.0.2",
        "info": {"title": named.full, "version": "1"},
        "paths": {},
        "components": {
            "schemas": {"Input": _input(named, order_schema), "Output": {"title": "Output", **_output(named)}}
        },
    }


def _output(named: Named) -> Schema:
    if named.model.output == "text":
        return {"type": "string"}
    return dict(_LINK) if named.single else {"type": "array", "items": dict(_LINK)}


def _input(named: Named, order_schema: OrderSchema) -> Schema:
    """The fields of all that the model can do; required are those that each of it needs."""
    model = named.model
    orders = [order_schema(model, operation) for operation in sorted(model.operations)]
    properties: Schema = {}
    for order in orders:
        for name, spec in order["properties"].items():
            if name != "n" or not named.single:
                properties.setdefault(_their_name(model, name), _their_spec(model, name, spec))
    for place, (name, spec) in enumerate(properties.items()):
        properties[name] = {"title": name.replace("_", " ").capitalize(), "x-order": place, **spec}
    needed = set.intersection(*(set(order["required"]) for order in orders))
    required = sorted(_their_name(model, name) for name in needed)
    return {"title": "Input", "type": "object", "properties": properties} | ({"required": required} if required else {})


def _their_name(model: Model, name: str) -> str:
    if name == "images":
        if model.provider == REPLICATE and model.inputs.image_fields:
            return next(iter(model.inputs.image_fields))
        return "image" if model.inputs.images.max == 1 else "input_images"
    if name == "mask":
        return "mask"
    spec = model.params.get(name)
    own = spec.field if spec is not None and model.provider == REPLICATE else None
    return own or (_THEIRS.get(name, name) if model.provider != REPLICATE or name not in model.params else name)


def _their_spec(model: Model, name: str, spec: Mapping[str, Any]) -> Schema:
    if name in {"mask", "face"}:
        return dict(_LINK)
    if name == "images":
        several = _their_name(model, name) != "image" and model.inputs.images.max != 1
        return {"type": "array", "items": dict(_LINK)} if several else dict(_LINK)
    return dict(spec)
