"""The operations by their names in URLs; the catalogue writes some of them otherwise."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from jobs.errors import UnknownOperationError

OPERATIONS: Mapping[str, str] = {
    "generate": "generate",
    "edit": "edit",
    "upscale": "upscale",
    "variations": "variations",
    "inpaint": "inpaint",
    "outpaint": "outpaint",
    "erase": "erase",
    "remove-background": "remove_background",
    "replace-background": "replace_background",
    "remove-text": "remove_text",
    "face-swap": "face_swap",
    "translate": "translate",
    "style-transfer": "style_transfer",
    "character": "character",
    "caption": "caption",
    "to-3d": "image_to_3d",
    "text-to-3d": "text_to_3d",
    "sketch-to-3d": "sketch_to_3d",
}
IN_URL: Mapping[str, str] = {name: url for url, name in OPERATIONS.items()}


def operation_of(name: str) -> str:
    """The catalogue's word for an operation. Raises UnknownOperationError, with the nearest name."""
    if name not in OPERATIONS:
        raise UnknownOperationError(f"there is no operation {name[:40]!r}{_hint(name)}", available=list(OPERATIONS))
    return OPERATIONS[name]


def _hint(name: str) -> str:
    """The operation that was probably meant: by the catalogue's own word for it, or by its spelling."""
    asked = name[:40].lower().replace("-", "_")
    own = [url for url, word in OPERATIONS.items() if word == asked]
    near = own or difflib.get_close_matches(asked.replace("_", "-"), OPERATIONS, n=1)
    return f"; did you mean {near[0]}?" if near else ""
