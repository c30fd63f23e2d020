"""The OpenAPI document as pages: one for each tag, and a list of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Flask

import app.api
from app.api.openapi import document
from app.dialects import registered
from app.http import dialect

METHODS = ("get", "post", "put", "patch", "delete")


def openapi_document() -> dict[str, Any]:
    """The document as a running service answers it, made without one: it depends on the routes alone."""
    application = Flask("routes", static_folder=None)
    dialect.install(application, registered.DIALECTS)
    for found in pkgutil.iter_modules(app.api.__path__):
        blueprint = getattr(importlib.import_module(f"app.api.{found.name}"), "bp", None)
        if blueprint is not None:
            application.register_blueprint(blueprint)
    for blueprint in registered.BLUEPRINTS:
        application.register_blueprint(blueprint)
    return document(application)


def pages(described: Mapping[str, Any]) -> dict[str, str]:
    """Markdown by its place in the site."""
    made = {f"api/{_slug(tag['name'])}.md": "\n".join(_page(described, tag)) for tag in described["tags"]}
    made["api/index.md"] = "\n".join(_index(described))
    return made


def _index(described: Mapping[str, Any]) -> Iterator[str]:
    yield "# API reference\n"
    yield (
        f"Made from the OpenAPI {described['openapi']} document of version {described['info']['version']}"
        " ([openapi.json](openapi.json)). A running service shows the same at `/docs`, where requests can be tried.\n"
    )
    for tag in described["tags"]:
        yield f"## [{tag['x-displayName']}]({_slug(tag['name'])}.md)\n"
        yield f"{tag['description']}\n\n| route | |\n|---|---|"
        for path, method, operation in _operations(described, tag["name"]):
            name = operation["operationId"]
            yield f"| [`{method.upper()} {path}`]({_slug(tag['name'])}.md#{name}) | {_cell(operation['summary'])} |"
        yield ""


def _page(described: Mapping[str, Any], tag: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {tag['x-displayName']}\n\n{tag['description']}\n"
    for path, method, operation in _operations(described, tag["name"]):
        yield f"## {operation['summary'].rstrip('.')} {{: #{operation['operationId']} }}\n"
        yield f"`{method.upper()} {path}`\n"
        yield _access(operation)
        yield operation.get("description", "") + "\n"
        yield from _parameters(operation)
        yield from _body(described, operation)
        yield from _answers(operation)


def _operations(described: Mapping[str, Any], tag: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in described["paths"].items():
        for method in METHODS:
            if method in methods and tag in methods[method]["tags"]:
                yield path, method, methods[method]


def _access(operation: Mapping[str, Any]) -> str:
    if not operation["security"]:
        return "Open to everyone.\n"
    signed = ", or a signed link" if {"signature": []} in operation["security"] else ""
    return f"Needs a key with `{operation['x-scope']}`{signed}.\n"


def _parameters(operation: Mapping[str, Any]) -> Iterator[str]:
    if operation["parameters"]:
        yield "| parameter | in | type | |\n|---|---|---|---|"
        for each in operation["parameters"]:
            needed = " (required)" if each.get("required") else ""
            kind = _kind(each["schema"])
            yield f"| `{each['name']}` | {each['in']}{needed} | {kind} | {_cell(each.get('description', ''))} |"
        yield ""


def _body(described: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[str]:
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(described, content.get("schema", {}))
        yield f"**Body**, `{media}`\n"
        if fields := schema.get("properties"):
            yield "| field | type | |\n|---|---|---|"
            for name, each in fields.items():
                needed = " (required)" if name in schema.get("required", ()) else ""
                told = _cell(each.get("description", ""))
                yield f"| `{name}`{needed} | {_kind(each)} | {told} |"
            yield ""


def _answers(operation: Mapping[str, Any]) -> Iterator[str]:
    yield "| answer | |\n|---|---|"
    for status, each in operation["responses"].items():
        yield f"| {status} | {_cell(each.get('description', ''))} |"
    yield ""


def _resolved(described: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema itself, where it is a reference to one."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return described["components"]["schemas"][name] if name else schema


def _kind(schema: Mapping[str, Any]) -> str:
    """The type of a value in few words."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if choices := schema.get("enum"):
        return " ".join(f"`{each}`" for each in choices)
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_kind(each) for each in several))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    kind = schema.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _slug(tag: str) -> str:
    return tag.replace(" ", "-")
