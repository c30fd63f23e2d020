"""What tools do to an image that goes in, other than repaint it: cut out, enlarge, put on a larger canvas."""

from typing import Literal

from PIL import Image, ImageDraw, ImageFilter

# cut_out: the background becomes transparent. new_background: it is drawn. enlarge: the image as it is, in another
# size. outpaint: the image on a larger canvas that is drawn around it.
Effect = Literal["", "cut_out", "new_background", "enlarge", "outpaint"]

SUBJECT_SHARE = 0.92  # of each side; what counts as the subject is the rounded rectangle in the middle
CENTRED_SHARE = 0.6


def subject(size_px: tuple[int, int]) -> Image.Image:
    """Where the subject is: 255 in the middle, 0 in the corners, soft in between."""
    width_px, height_px = size_px
    left, top = (round(side * (1 - SUBJECT_SHARE) / 2) for side in size_px)
    mask = Image.new("L", size_px, 0)
    box = (left, top, width_px - 1 - left, height_px - 1 - top)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius=min(size_px) // 8, fill=255)
    return mask.filter(ImageFilter.GaussianBlur(max(1, min(size_px) // 100)))


def cut_out(image: Image.Image) -> Image.Image:
    """The subject alone, as RGBA; what was transparent stays so."""
    clear = Image.new("RGBA", image.size)
    return Image.composite(image.convert("RGBA"), clear, subject(image.size))


def enlarged(image: Image.Image, size_px: tuple[int, int]) -> Image.Image:
    """The same image in another size, with sharp edges."""
    return image.resize(size_px, Image.Resampling.LANCZOS)


def placed(image: Image.Image, size_px: tuple[int, int], corner_px: tuple[int, int] | None) -> tuple[Image.Image, ...]:
    """The image on a canvas of ``size_px``, and a mask that is 255 where the canvas is new.

    ``corner_px`` is where its upper left corner lies; by default it lies in the middle, shrunk where it would fill
    the canvas.
    """
    if corner_px is None:
        if image.width > CENTRED_SHARE * size_px[0] and image.height > CENTRED_SHARE * size_px[1]:
            scale = CENTRED_SHARE * min(size_px[0] / image.width, size_px[1] / image.height)
        else:
            scale = min(1.0, size_px[0] / image.width, size_px[1] / image.height)
        image = enlarged(image, (max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        corner_px = ((size_px[0] - image.width) // 2, (size_px[1] - image.height) // 2)
    canvas, new = Image.new("RGB", size_px), Image.new("L", size_px, 255)
    canvas.paste(image.convert("RGB"), corner_px)
    new.paste(0, (*corner_px, corner_px[0] + image.width, corner_px[1] + image.height))
    return canvas, new
