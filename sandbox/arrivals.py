"""Which images came with a request: under which field each, in which order, and as which bytes.

Read from the body alone, without the emulator's own reading of it, so that a test can compare both.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from flask import Request

# How the base64 of a PNG, JPEG, WebP or GIF begins: any other long text is no image.
_BEGINNINGS = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD")
_RAW = ("image/", "application/octet-stream")


def images_of(request: Request, sent_before: Callable[[str], str | None]) -> list[dict[str, str]]:
    """Field and SHA-256 of each image in the body, in its order; the parts of a nested field are joined by dots.

    ``sent_before`` knows what was uploaded under a link. A body that is an image itself has the field ``""``.
    """
    if request.method not in ("POST", "PUT"):
        return []
    return [{"field": field, "sha256": digest} for field, digest in _found(request, sent_before)]


def _found(request: Request, sent_before: Callable[[str], str | None]) -> Iterator[tuple[str, str]]:
    if request.mimetype == "multipart/form-data":
        for name, upload in request.files.items(multi=True):
            yield name, _digest(upload.read())
            upload.seek(0)
        document: Any = {name: request.form.getlist(name) for name in request.form}
    elif request.mimetype.startswith(_RAW):
        yield "", _digest(request.get_data())
        return
    else:
        document = request.get_json(silent=True)
    for field, text in _texts("", document):
        if digest := sent_before(text) or _digest_in(text):
            yield field, digest


def _texts(field: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(f"{field}.{name}" if field else str(name), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(field, inner)


def _digest_in(text: str) -> str | None:
    """Of the image in a ``data:`` URL or in bare base64; None for any other text."""
    payload = text.partition(",")[2] if text.startswith("data:") else text
    if not payload.startswith(_BEGINNINGS):
        return None
    try:
        return _digest(base64.b64decode(payload, validate=True))
    except binascii.Error:
        return None


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()
