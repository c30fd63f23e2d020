"""Images that come inside a request: data URLs and base64. The sandbox fetches no link."""

import base64
import binascii
from collections.abc import Collection
from typing import Literal

from sandbox.drawing.images import NotAnImage, check

Why = Literal["link", "base64", "image"]


class BadInput(ValueError):  # noqa: N818 - reads as what it is
    """What came is no image. ``why``: no data URL of a known type, broken base64, or nothing that decodes."""

    def __init__(self, why: Why, message: str) -> None:
        super().__init__(message)
        self.why: Why = why


def image_in_data_url(link: str, *, types: Collection[str] | None = None) -> bytes:
    """The image of ``data:<type>;base64,...``; ``types`` are those taken, by default all that begin with image/.

    Raises BadInput.
    """
    head, comma, payload = link.partition(",")
    mime = head.removeprefix("data:").removesuffix(";base64")
    known = mime in types if types is not None else mime.startswith("image/")
    if not comma or head != f"data:{mime};base64" or not known:
        raise BadInput("link", "not a data URL of an image")
    return image_in_base64(payload)


def image_in_base64(text: str) -> bytes:
    """The image in bare base64. Raises BadInput."""
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("base64", "not base64") from error
    return image_in(blob)


def image_in(blob: bytes) -> bytes:
    """The bytes themselves, decoded once to the end. Raises BadInput."""
    try:
        check(blob)
    except NotAnImage as error:
        raise BadInput("image", str(error)) from error
    return blob
