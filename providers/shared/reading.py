"""Reading what upstreams answer: JSON objects, the words of an error, images in base64. Pure functions."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from providers.http import answers


def json_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in ``body``; None if it is not JSON, not an object, or nested too deeply."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    answers.parsed(body, found)
    return found


def detail_text(answer: Mapping[str, Any] | None, *names: str) -> str:
    """The text under the first of ``names`` that has one; empty where none has.

    It may be a text, an object (``{"error": ...}``), or the list of faults that FastAPI makes.
    """
    found = next((value for name in names if (value := (answer or {}).get(name))), "")
    if isinstance(found, dict):
        found = found.get("error") or found.get("message") or found.get("code") or ""
    if isinstance(found, list):
        faults = [fault for fault in found if isinstance(fault, dict)]
        found = "; ".join(f"{fault.get('loc')}: {fault.get('msg')}" for fault in faults)
    return found if isinstance(found, str) else ""


def image_bytes(encoded: object) -> bytes | None:
    """Decoded base64, with or without a ``data:`` prefix; None if it is empty or something else."""
    if not isinstance(encoded, str):
        return None
    if encoded.startswith("data:"):
        encoded = encoded.partition(",")[2]
    try:
        return base64.b64decode(encoded, validate=True) or None
    except (binascii.Error, ValueError):
        return None
