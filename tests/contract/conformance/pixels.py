"""Images that can be told apart on the wire, a mask as jobs send it, and what a result shows of both.

Which part of a result changed is read from its pixels, so the second source for a mask's polarity is the emulator,
which draws by its CONTRACT.md, and never the catalogue.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from conformance.orders import SIDE_PX
from jobs.documents import InputPart
from jobs.execution.upstream_order import input_image
from providers.base import InputImage
from providers.catalog.entries import Model
from storage.local import LocalStore
from storage.media import Media

GROUND = (255, 0, 255)  # no palette of the sandbox has it
EDGE = 0.4  # the caller's mask marks the left 40 %
MARGIN = 0.08  # next to the edge of the mask a smaller result blends
LOSS = 12  # what JPEG may change of a flat colour
CHANGED_SHARE = 0.9


def image_of(colour: tuple[int, int, int], *, patch_at: float | None = None) -> InputImage:
    """A flat PNG; with ``patch_at`` a white square whose middle is at that share of the width."""
    out, made = io.BytesIO(), Image.new("RGB", (SIDE_PX, SIDE_PX), colour)
    if patch_at is not None:
        left = round(patch_at * SIDE_PX) - 8
        made.paste("white", (left, 100, left + 16, 116))
    made.save(out, "PNG")
    return InputImage(out.getvalue(), "image/png", SIDE_PX, SIDE_PX)


@cache
def distinct(number: int) -> InputImage:
    """One of many images, no two of which have the same bytes."""
    return image_of((number * 40 % 256, 90, 255 - number * 20))


def digest(image: InputImage) -> str:
    return hashlib.sha256(image.data).hexdigest()


class KeptMasks:
    """The caller's mask, kept and read again as a job does: transparent on the left, opaque elsewhere."""

    def __init__(self, folder: Path) -> None:
        self._store = LocalStore(folder / "blobs")
        self._media = Media(self._store, folder / "work", decoders=1)
        mask = Image.new("RGBA", (SIDE_PX, SIDE_PX), (0, 0, 0, 255))
        mask.paste((0, 0, 0, 0), (0, 0, round(EDGE * SIDE_PX), SIDE_PX))
        out = io.BytesIO()
        mask.save(out, "PNG")
        kept = self._media.keep_upload(out.getvalue(), prefix="inputs/test", role="mask")
        self._row: InputPart = {
            "role": "mask",
            "position": 0,
            "key": kept.key,
            "mime": kept.mime,
            "width_px": SIDE_PX,
            "height_px": SIDE_PX,
        }

    def of(self, model: Model) -> InputImage:
        """In the polarity that the catalogue has for the model."""
        return input_image(self._store, self._media, model, self._row)

    def close(self) -> None:
        self._media.close()


def assert_only_the_marked_part_changed(results: Sequence[bytes]) -> None:
    """The marked part of each result is drawn, and the rest is what went in. Raises AssertionError."""
    for data in results:
        with Image.open(io.BytesIO(data)) as opened:
            made = opened.convert("RGB")
        inside = made.crop((0, 0, round((EDGE - MARGIN) * made.width), made.height))
        outside = made.crop((round((EDGE + MARGIN) * made.width), 0, *made.size))
        assert _share_off_ground(outside) == 0, "changed outside the mask"
        assert _share_off_ground(inside) > CHANGED_SHARE, "not changed inside the mask"


def _share_off_ground(part: Image.Image) -> float:
    """The share of pixels that are not the colour that went in."""
    counted = part.getcolors(part.width * part.height) or []
    off = sum(count for count, seen in counted if max(abs(a - b) for a, b in zip(seen, GROUND, strict=True)) > LOSS)
    return off / (part.width * part.height)
