"""What adapters share in building request bodies and reading answers. Pure functions."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from providers.base import InputImage, UpstreamOrder
from providers.catalog.entries import Model, SizeRule
from providers.errors import RequestRefused
from providers.http.client import FilePart

MAX_RETRY_AFTER_S = 300.0

_EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
}
_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic|token|key)\s+[\w.~+/=-]{8,}"), r"\1 [redacted]"),
    (re.compile(r"\b(?:sk|pk|hf|r8|xai|wsk|whsec|dk)[-_][\w-]{6,}\S*"), "[redacted]"),
    (re.compile(r"\b(?:AIza|AQ\.)[\w-]{20,}"), "[redacted]"),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "[email]"),
    (re.compile(r"(https?://)[^\s/@\"']*@"), r"\1"),
    (re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']*"), r"\1?[redacted]"),
    (re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}"), "[redacted]"),
)
_IN_WORDS = re.compile(r"(?i)\b(?:in|after)\s+((?:\d+h)?(?:\d+m(?!s))?(?:\d+(?:\.\d+)?\s?(?:s|ms)\w*)?)")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s?(ms|h|m|s)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def image_parts(images: Sequence[InputImage], mask: InputImage | None) -> list[FilePart]:
    """Multipart files as OpenAI's clients name them: ``image`` alone, ``image[]`` for several, ``mask``."""
    name = "image" if len(images) == 1 else "image[]"
    parts = [file_part(name, f"image-{number}", image) for number, image in enumerate(images, start=1)]
    if mask is not None:
        parts.append(file_part("mask", "mask", mask))
    return parts


def file_part(name: str, stem: str, image: InputImage) -> FilePart:
    """An image as the part ``name`` of a form, in a file called ``stem`` with the ending of its type."""
    return FilePart(name, f"{stem}.{_EXTENSIONS.get(image.mime, 'bin')}", image.mime, image.data)


def form_fields(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """JSON-like values as the text fields of a form."""
    return [(name, _form_text(value)) for name, value in body.items()]


def _form_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def size_text(size: Mapping[str, str | int]) -> str | None:
    """``WIDTHxHEIGHT`` where pixels are given, else the size or ratio as it stands."""
    if "width" in size and "height" in size:
        return f"{size['width']}x{size['height']}"
    found = size.get("size") or size.get("aspect_ratio")
    return str(found) if found else None


def own_params(order: UpstreamOrder) -> dict[str, Any]:
    """The caller's settings under their wire names, as the catalogue gives them.

    Without ``n``, which the catalogue lists too: how many this call makes is ``order.n`` alone.
    """
    return {wire_name(order, name): value for name, value in order.params.items() if name != "n"}


def wire_name(order: UpstreamOrder, name: str) -> str:
    known = order.model.params.get(name)
    return (known.field if known is not None else None) or name


# What ``extra`` may not carry: fields that decide what is bought, and how we get to know about it.
RESERVED_EXTRA = frozenset(
    {
        "client_task_id",
        "image",
        "image[]",
        "images",
        "mask",
        "model",
        "n",
        "partial_images",
        "prompt",
        "quality",
        "response_format",
        "size",
        "stream",
    }
)


_CALLBACKS = frozenset({"webhook", "webhook_url", "webhook_secret", "webhook_events_filter"})


def reserved_extra(model: Model) -> frozenset[str]:
    """What ``extra`` may not carry to this model: what is priced, placed or limited by the catalogue."""
    inputs = model.inputs
    own = {spec.field or name for name, spec in model.params.items()} | model.params.keys() | model.constants.keys()
    places = {inputs.prompt_field or "prompt", inputs.mask_field or "mask", *inputs.image_fields}
    rules = {} if isinstance(model.size, str) else model.size
    sizes = {field for name, rule in rules.items() for field in _size_names(name, rule)}
    return frozenset(RESERVED_EXTRA | _CALLBACKS | own | places | sizes)


def _size_names(name: str, rule: SizeRule) -> set[str]:
    fields = getattr(rule, "fields", ())  # PixelsRule has a list, PaddingRule a mapping
    named = {getattr(rule, "field", None) or name}
    return named | set(fields.values() if isinstance(fields, Mapping) else fields)


def extra_fields(order: UpstreamOrder) -> Mapping[str, Any]:
    """The caller's own fields. Raises RequestRefused for one that would change what is bought."""
    clash = sorted(reserved_extra(order.model) & order.extra.keys())
    if clash:
        raise RequestRefused("extra_not_allowed", f"set by Darkroom itself: {', '.join(clash)}")
    return order.extra


def json_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in ``body``, or None: not JSON, not an object, nested beyond reason."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def detail_text(answer: Mapping[str, Any] | None, *names: str) -> str:
    """The words under the first of ``names`` that holds any.

    They may be a text, an object (``{"error": ...}``), or the list of faults that FastAPI makes.
    """
    found = next((value for name in names if (value := (answer or {}).get(name))), "")
    if isinstance(found, dict):
        found = found.get("error") or found.get("message") or found.get("code") or ""
    if isinstance(found, list):
        faults = [fault for fault in found if isinstance(fault, dict)]
        found = "; ".join(f"{fault.get('loc')}: {fault.get('msg')}" for fault in faults)
    return found if isinstance(found, str) else ""


def image_bytes(encoded: object) -> bytes | None:
    """Base64 (a ``data:`` prefix is tolerated) decoded; None where it is empty or something else."""
    if not isinstance(encoded, str):
        return None
    if encoded.startswith("data:"):
        encoded = encoded.partition(",")[2]
    try:
        return base64.b64decode(encoded, validate=True) or None
    except (binascii.Error, ValueError):
        return None


def retry_after_s(headers: Mapping[str, str], message: str = "") -> float | None:
    """How long the upstream asks us to wait, from the headers or else its words; at most five minutes."""
    for found in (_from_ms(headers), _from_header(headers), _from_words(message)):
        if found is not None and math.isfinite(found) and found > 0:
            return min(found, MAX_RETRY_AFTER_S)
    return None


def _from_ms(headers: Mapping[str, str]) -> float | None:
    number = _number(headers.get("retry-after-ms", ""))
    return None if number is None else number / 1000


def _from_header(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "")
    number = _number(text)
    if number is not None or not text:
        return number
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return (date.astimezone(UTC) - datetime.now(UTC)).total_seconds()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _from_words(message: str) -> float | None:
    found = _IN_WORDS.search(message[:2000])
    amounts = _AMOUNT.findall(found[1]) if found else []
    return sum(float(amount) * _UNIT_S[unit] for amount, unit in amounts) or None


def redact(text: str) -> str:
    """An upstream's words, fit for a log: one line, no keys, addresses or query strings."""
    text = " ".join(text[:1000].split())
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text[:300]
