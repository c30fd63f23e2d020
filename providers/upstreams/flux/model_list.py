"""Black Forest Labs' OpenAPI document: a path for each model, with the schema of its input (CONTRACT.md, section 2).

It has no prices.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from providers.catalog.entries import Model
from providers.errors import NotRun
from providers.listing.listed import Asker, ListedModel, Listing
from providers.listing.reading import ask_json, fields_of, required_of

# What the document has next to models.
_NO_MODELS = frozenset({"/v1/get_result", "/v1/credits"})


def list_models(account: Asker, models: Collection[Model]) -> Listing:  # noqa: ARG001 - the document is whole
    """Every path below /v1 that takes orders. Raises: ProviderError."""
    document = ask_json(account, "/openapi.json")
    paths = document.get("paths")
    if not isinstance(paths, dict):
        raise NotRun("upstream_broken_answer", "the document has no paths")
    parts = document.get("components")
    schemas = parts.get("schemas") if isinstance(parts, dict) else None
    components = schemas if isinstance(schemas, dict) else {}
    found = {
        path: _listed(path, verbs["post"], components)
        for path, verbs in paths.items()
        if isinstance(verbs, dict) and isinstance(verbs.get("post"), dict) and _is_model(path)
    }
    return Listing(found)


def _is_model(path: str) -> bool:
    return path.startswith("/v1/flux-") and path not in _NO_MODELS and "finetune" not in path


def _listed(path: str, verb: dict[str, Any], components: dict[str, Any]) -> ListedModel:
    body: Any = verb
    for step in ("requestBody", "content", "application/json", "schema"):
        body = body.get(step) if isinstance(body, dict) else None
    if isinstance(body, dict) and "$ref" in body:
        body = components.get(str(body["$ref"]).rpartition("/")[2])
    if not isinstance(body, dict):
        return ListedModel(path)
    gone = "deprecated" if verb.get("deprecated") is True else None
    return ListedModel(path, fields=fields_of(body, components), required=required_of(body), gone_on=gone)
