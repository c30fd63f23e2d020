"""What Replicate's routes and models take (``schemas.yaml``), and what it says to everything else.

Stricter than the real service, which ignores unknown keys for many models (section 10 of the contract): a field that
no one reads must fail a test.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from sandbox.emulators.replicate.errors import invalid, worded
from sandbox.plumbing import webhooks
from sandbox.plumbing.validation import Problem as Misfit
from sandbox.plumbing.validation import Schema, closed, load_yaml

_FORMS = load_yaml(__file__, "schemas.yaml")
DEPLOYMENTS: Mapping[str, str] = _FORMS["deployments"]
EVENTS = ("start", "output", "logs", "completed")


@dataclass(frozen=True)
class Model:
    """One hosted model. ``output`` is ``list`` or ``one``; ``version`` only where it must be named."""

    path: str
    input: Mapping[str, Any]
    output: str
    required: tuple[str, ...] = ("prompt",)
    version: str | None = None

    @property
    def is_official(self) -> bool:
        """Official models have a route of their own and hide their versions."""
        return self.version is None

    @cached_property
    def schema(self) -> Schema:
        """Of its input."""
        form = closed(self.input, self.required)
        return Schema(form, checks={"format": _link_fault}, first=("required",), by="request")

    @property
    def fields(self) -> Mapping[str, Any]:
        """The properties of its input."""
        return self.input

    def openapi_schema(self) -> dict[str, Any]:
        """What ``latest_version`` holds."""
        uri = {"type": "string", "format": "uri"}
        output = {"type": "array", "items": uri} if self.output == "list" else uri
        given = {
            "type": "object",
            "required": list(self.required),
            "properties": {name: {**part, "x-order": place} for place, (name, part) in enumerate(self.input.items())},
        }
        return {
            "openapi": "3.0.2",
            "components": {"schemas": {"Input": given, "Output": {**output, "title": "Output"}}},
        }

    def default(self, name: str) -> Any:
        """The default of an input the model may not even have."""
        return self.input.get(name, {}).get("default")


def _link_fault(_format: object, value: object) -> str | None:
    """https, a data URL, or plain http to this very machine, where the emulator's own files are."""
    if not isinstance(value, str) or re.match(r"data:[\w.+-]+/[\w.+-]+;base64,", value):
        return None
    parts = urlsplit(value)
    is_here = parts.scheme == "http" and parts.hostname in webhooks.HERE
    return None if (parts.scheme == "https" and parts.hostname) or is_here else "Does not match format 'uri'"


def _hook_fault(_limit: object, url: object) -> str | None:
    return None if url is None or webhooks.takes(url) else "must be an HTTPS URL"


MODELS: Mapping[str, Model] = {
    path: Model(path, form["input"], form["output"], tuple(form.get("required", ["prompt"])), form.get("version"))
    for path, form in _FORMS["models"].items()
}
SDXL_VERSION = MODELS["stability-ai/sdxl"].version
_BODY = Schema(closed(_FORMS["body"], ["input"]), checks={"webhook": _hook_fault})
_BODY_BY_VERSION = Schema(closed(_FORMS["by_version"], ["version", "input"]), checks={"webhook": _hook_fault})


def check_body(body: Mapping[str, Any], *, by_version: bool) -> None:
    """The top level of a create. Raises Problem."""
    _refuse((_BODY_BY_VERSION if by_version else _BODY).problems(body), place="")


def check_input(model: Model, given: Mapping[str, Any]) -> None:
    """Every fault of an input at once. Raises Problem."""
    _refuse(model.schema.problems(given), place="input")


def _refuse(misfits: list[Misfit], *, place: str) -> None:
    faults: dict[str, str] = {}
    for misfit in misfits:
        faults.setdefault(misfit.top, worded(misfit))
    if faults:
        raise invalid(list(faults.items()), place=place)


def model_of(path: str) -> Model | None:
    """By ``owner/name``."""
    return MODELS.get(path)


def version_of(version: str) -> Model | None:
    """By what ``POST /predictions`` takes: official ``owner/name``, ``owner/name:<hash>`` or the bare hash."""
    if model := MODELS.get(version):
        return model if model.is_official else None
    path, colon, number = version.rpartition(":")
    found = next((model for model in MODELS.values() if model.version == number), None)
    return found if found and (not colon or found.path == path) else None
