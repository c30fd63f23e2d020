"""How values and images are written into a request: the fields and files of a form, base64, data URLs."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from providers.base import InputImage
from providers.http.client import FilePart

_EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
}


def image_parts(images: Sequence[InputImage], mask: InputImage | None) -> list[FilePart]:
    """Multipart files as OpenAI's clients name them: ``image`` alone, ``image[]`` for several, ``mask``."""
    name = "image" if len(images) == 1 else "image[]"
    parts = [file_part(name, f"image-{number}", image) for number, image in enumerate(images, start=1)]
    if mask is not None:
        parts.append(file_part("mask", "mask", mask))
    return parts


def file_part(name: str, stem: str, image: InputImage) -> FilePart:
    """An image as the part ``name`` of a form, in a file called ``stem`` with the extension of its type."""
    return FilePart(name, f"{stem}.{_EXTENSIONS.get(image.mime, 'bin')}", image.mime, image.data)


def form_fields(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """JSON-like values as the text fields of a form."""
    return [(name, _form_text(value)) for name, value in body.items()]


def _form_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def bare_base64(image: InputImage) -> str:
    """The image in base64, without a prefix."""
    return base64.b64encode(image.data).decode("ascii")


def data_uri(image: InputImage) -> str:
    """The image as a ``data:`` URL in base64, with its MIME type."""
    return f"data:{image.mime};base64,{bare_base64(image)}"
