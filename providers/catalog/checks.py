"""What no entry of the catalogue can see by itself: names that lead nowhere, doubled ids, missing successors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from providers.catalog.entries import OPERATIONS, SCHEMA_VERSION, Head, Model, ProviderSpec


def cross_faults(
    head: Head, providers: Mapping[str, ProviderSpec], models: list[Model]
) -> Iterator[tuple[str | None, str]]:
    """The id of the model at fault, None for the head, and the fault in a line."""
    by_id = {model.id: model for model in models}
    for fault in _head_faults(head, by_id):
        yield None, fault
    for name, provider in providers.items():
        if provider.text != (provider.prompt_model is not None):
            yield None, f"provider {name}: prompt_model and text: true go together"
    for model_id, times in Counter(model.id for model in models).items():
        if times > 1:
            yield model_id, f"{model_id}: id given {times} times"
    for model in models:
        for fault in _entry_faults(model, head, providers, by_id):
            yield model.id, f"{model.id}: {fault}"


def _head_faults(head: Head, by_id: Mapping[str, Model]) -> Iterator[str]:
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
        if spec.enum and spec.type not in {"str", "int"}:
            yield f"param {name}: enum needs type str or int"
        if spec.type == "int" and not all(word.removeprefix("-").isdecimal() for word in spec.enum):
            yield f"param {name}: enum of an int holds whole numbers"
        if spec.items and spec.type != "list":
            yield f"param {name}: items needs type list"
    if model.inputs.images.max is not None and model.inputs.images.max < model.inputs.images.min:
        yield "inputs.images: max is below min"
    if model.inputs.mask != "none" and model.inputs.mask_polarity is None:
        yield "inputs.mask: mask_polarity is missing"
    yield from _succession_faults(model, by_id)


def _succession_faults(model: Model, by_id: Mapping[str, Model]) -> Iterator[str]:
    """A model that is gone or going must lead to one that is not."""
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
