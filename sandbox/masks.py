"""Masks whose white is painted anew, as our own drawing takes them: clear where it paints."""

import io

from PIL import Image

from sandbox.pictures import check, has_alpha


class WrongPolarity(ValueError):  # noqa: N818 - reads as what it is
    """A mask with transparency, where white marks what is painted anew."""


def clear_where_white(mask: bytes) -> bytes:
    """A grey PNG as an RGBA one whose alpha is 0 where the grey is white. Raises NotAPicture, WrongPolarity."""
    check(mask)
    if has_alpha(mask):
        raise WrongPolarity("the mask has transparency, where white marks what to paint")
    with Image.open(io.BytesIO(mask)) as grey:
        alpha = grey.convert("L").point([255 - level for level in range(256)])
    clear, out = Image.new("RGBA", alpha.size), io.BytesIO()
    clear.putalpha(alpha)
    clear.save(out, "PNG")
    return out.getvalue()
