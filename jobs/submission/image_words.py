"""What is wrong with a reference image, in words for its caller."""

from __future__ import annotations

from collections.abc import Mapping

from storage.base import MediaError

_TAKEN = "send PNG, JPEG, WebP, GIF or AVIF"
_SENTENCES: Mapping[str, str] = {
    "not_an_image": f"is no image that we know: {_TAKEN}",
    "unsupported_image_type": f"is of a type that is not taken: {_TAKEN}",
    "truncated_image": "ends before its image does, as if it was cut off",
    "image_undecodable": "is damaged, or needs too much memory or time to decode",
    "image_too_many_pixels": "has too many pixels",
    "image_too_many_frames": "has too many frames",
    "image_too_large_bytes": "has too many bytes",
    "trailing_data": "goes on after the end of its image",
}


def sentence(error: MediaError) -> str:
    """What is wrong, and in brackets what was found."""
    found = f" ({error.detail})" if error.detail else ""
    return f"{_SENTENCES.get(error.code, 'cannot be used')}{found}"
