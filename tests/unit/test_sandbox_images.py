"""The sandbox's images: made to order, deterministic, and edited nowhere but inside the mask."""

import io
from dataclasses import replace

import pytest
from PIL import Image, ImageChops

from sandbox.drawing import bad_files
from sandbox.drawing import scenery as scenes
from sandbox.drawing.images import Gallery, NotAnImage, Recipe, dimensions, partial, render
from sandbox.drawing.lettering import font
from sandbox.drawing.sizes import pixels, pixels_if_asked
from sandbox.markers import Fault

KITE = Recipe("a red kite over the sea", "gpt-image-2", 96, 64)


def opened(blob: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(blob))
    image.load()
    return image


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("1536x1024", (1536, 1024)),
        ("640X480", (640, 480)),
        ("1:1", (1024, 1024)),
        ("16:9", (1360, 768)),
        ("9:16", (768, 1360)),
        ("auto", (1024, 1024)),
        ("", (1024, 1024)),
        (None, (1024, 1024)),
        ("0:0", (1024, 1024)),
        ("a postcard", (1024, 1024)),
        ("99999x1", (4096, 16)),
    ],
)
def test_a_size_string_names_pixels(size, expected):
    assert pixels(size) == expected


def test_no_size_is_told_apart_from_a_size():
    assert pixels_if_asked("auto") is None
    assert pixels_if_asked("") is None
    assert pixels_if_asked("64x32") == (64, 32)


@pytest.mark.parametrize("scenery", sorted(scenes.SCENERY))
@pytest.mark.parametrize("size", [(96, 64), (16, 16), (1, 1), (16, 2048), (2048, 16), (300, 1000), (17, 93)])
def test_the_image_has_exactly_the_size_asked(size, scenery, monkeypatch):
    monkeypatch.setattr(scenes, "SCENERY", {scenery: scenes.SCENERY[scenery]})
    monkeypatch.setattr(scenes, "_SCENERY_WORDS", {})
    assert opened(render(replace(KITE, width_px=size[0], height_px=size[1]))).size == size


def test_the_same_order_gives_the_same_bytes_and_another_seed_model_or_prompt_does_not():
    same = render(replace(KITE))
    assert render(KITE) == same
    assert render(replace(KITE, seed=1)) != same
    assert render(replace(KITE, model="gpt-image-1-mini")) != same
    assert render(replace(KITE, prompt="a blue boat at night")) != same


def test_the_words_show_and_a_marker_does_not():
    plain = replace(KITE, width_px=256, height_px=256)
    assert render(replace(plain, prompt=f"{KITE.prompt} [sandbox:latency=2]")) == render(plain)
    lower_third = opened(render(plain)).crop((0, 170, 256, 240))
    assert lower_third.convert("L").getextrema()[1] == 255  # white letters


@pytest.mark.parametrize(("file_format", "name"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_the_format_is_the_one_asked(file_format, name):
    assert opened(render(replace(KITE, file_format=file_format))).format == name


def test_a_transparent_background_is_transparent():
    image = opened(render(replace(KITE, transparent=True)))
    assert image.mode == "RGBA"
    assert image.getchannel("A").getextrema() == (0, 255)
    assert image.getpixel((95, 0))[3] == 0


def test_a_gif_moves():
    image = opened(render(replace(KITE, file_format="gif", frames=3)))
    assert (image.format, image.n_frames) == ("GIF", 3)


def test_an_edit_changes_the_inside_of_the_mask_and_not_one_pixel_outside():
    base = opened(render(replace(KITE, width_px=200, height_px=160)))
    mask = Image.new("RGBA", base.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (40, 30, 160, 120))
    edit = replace(KITE, prompt="snow", width_px=200, height_px=160, inputs=(png(base),), mask=png(mask))
    changed = ImageChops.difference(base, opened(render(edit)).convert("RGB"))
    left, top, right, bottom = changed.getbbox()
    assert (left >= 40, top >= 30, right <= 160, bottom <= 120) == (True,) * 4
    assert (right - left) * (bottom - top) > 0.8 * 120 * 90


def test_an_edit_keeps_the_alpha_of_its_input():
    base = Image.new("RGBA", (80, 60), (200, 10, 10, 77))
    mask = Image.new("RGBA", base.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 20, 20))
    image = opened(render(Recipe("x", "m", 80, 60, inputs=(png(base),), mask=png(mask))))
    assert image.getpixel((50, 50)) == (200, 10, 10, 77)


def test_an_edit_without_a_mask_changes_the_whole_image_and_resizes_when_asked():
    base = Image.new("RGB", (120, 80), (10, 60, 200))
    image = opened(render(Recipe("autumn", "m", 240, 160, inputs=(png(base),))))
    assert image.size == (240, 160)
    assert image.convert("RGB").getpixel((120, 60)) != (10, 60, 200)


def test_further_inputs_show_in_the_result():
    base, extra = Image.new("RGB", (200, 200), "white"), Image.new("RGB", (50, 50), (255, 0, 0))
    image = opened(render(Recipe("x", "m", 200, 200, inputs=(png(base), png(extra)))))
    assert image.getpixel((175, 25)) == (255, 0, 0)


def test_what_is_no_image_is_told_apart():
    with pytest.raises(NotAnImage):
        dimensions(b"not an image")
    with pytest.raises(NotAnImage):
        render(Recipe("x", "m", 64, 64, inputs=(png(Image.new("RGB", (64, 64)))[:60],)))
    with pytest.raises(NotAnImage):
        dimensions(bad_files.png_bomb())


def test_dimensions_are_upright():
    sideways, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(sideways, "JPEG", exif=exif)
    assert dimensions(sideways.getvalue()) == (20, 30)


def test_partial_images_have_the_full_size():
    assert opened(partial(KITE, 1, 3)).size == (96, 64)


def test_prepared_images_are_few_and_of_the_right_size():
    gallery = Gallery()
    files = {gallery.file(replace(KITE, prompt=f"job {n}"), prepared=True) for n in range(40)}
    assert 1 < len(files) <= 4
    assert {opened(blob).size for blob in files} == {(96, 64)}


def test_a_bound_on_the_sides_keeps_the_shape():
    gallery = Gallery(edge_max_px=lambda: 48)
    assert opened(gallery.file(KITE, prepared=False)).size == (48, 32)
    assert opened(gallery.file(replace(KITE, width_px=40, height_px=30), prepared=False)).size == (40, 30)


def test_the_bomb_is_small_valid_and_huge_inside():
    bomb = bad_files.png_bomb(1200, 700)
    image = opened(bomb)
    assert (image.size, image.getextrema()) == ((1200, 700), ((0, 0),) * 3)
    assert len(bad_files.png_bomb()) < 400_000


@pytest.mark.parametrize(
    ("fault", "begins"),
    [("svg", b"<svg"), ("html", b"<!doctype"), ("frames", b"GIF89a"), ("bomb", b"\x89PNG")],
)
def test_an_image_fault_serves_another_file(fault, begins):
    assert bad_files.spoil(Fault(fault), b"good")[0].startswith(begins)


def test_truncated_and_polyglot_files_grow_from_the_good_one():
    good = render(KITE)
    assert good.startswith(bad_files.spoil(Fault("truncated"), good)[0])
    assert bad_files.spoil(Fault("polyglot"), good)[0].startswith(good + b"<!doctype")
    assert bad_files.spoil(None, good) == (good, None)


def test_the_gif_of_many_frames_really_has_them():
    assert opened(bad_files.gif_of_frames(500)).n_frames == 500


# ---------------------------------------------------------------- what tools do to an image that goes in

LETTERED = replace(KITE, prompt="Füchse in Łódź", width_px=320, height_px=240)


def treated(effect: str, size: tuple[int, int], **facts) -> tuple[Image.Image, Image.Image]:
    """The lettered image, and what a tool made of it."""
    base = render(LETTERED)
    recipe = Recipe("a valley", "tool", *size, inputs=(base,), effect=effect, **facts)
    return opened(base), opened(render(recipe))


def test_a_cut_out_has_alpha_and_keeps_the_middle_to_the_last_bit():
    base, made = treated("cut_out", (320, 240))
    assert made.mode == "RGBA"
    corners = [made.getpixel(at)[3] for at in ((0, 0), (319, 0), (0, 239), (319, 239))]
    assert corners == [0] * 4
    box = (60, 60, 260, 180)
    assert made.getchannel("A").crop(box).getextrema() == (255, 255)
    assert ImageChops.difference(made.convert("RGB").crop(box), base.crop(box)).getbbox() is None


def test_outpainting_keeps_the_image_where_it_belongs_and_draws_around_it():
    base, made = treated("outpaint", (500, 300), corner_px=(100, 40))
    assert ImageChops.difference(made.crop((100, 40, 420, 280)), base).getbbox() is None
    assert len(made.crop((0, 0, 100, 300)).getcolors(30_000)) > 3
    _, shifted = treated("outpaint", (500, 300), corner_px=(180, 60))
    assert ImageChops.difference(shifted.crop((180, 60, 500, 300)), base).getbbox() is None


def test_outpainting_without_margins_puts_the_image_in_the_middle():
    base, made = treated("outpaint", (320, 240))
    middle = made.crop((64, 48, 256, 192))
    assert ImageChops.difference(middle, base.resize((192, 144), Image.Resampling.LANCZOS)).getbbox() is None
    larger, made = treated("outpaint", (640, 640))
    assert ImageChops.difference(made.crop((160, 200, 480, 440)), larger).getbbox() is None


def test_an_enlarged_image_is_the_image_in_another_size():
    base, made = treated("enlarge", (640, 480))
    assert made.size == (640, 480)
    assert ImageChops.difference(made, base.resize((640, 480), Image.Resampling.LANCZOS)).getbbox() is None


def test_a_new_background_keeps_the_middle():
    base, made = treated("new_background", (320, 240))
    box = (60, 60, 260, 180)
    assert ImageChops.difference(made.crop(box), base.crop(box)).getbbox() is None
    assert ImageChops.difference(made.crop((0, 60, 10, 180)), base.crop((0, 60, 10, 180))).getbbox() is not None


def test_the_words_of_an_edit_hide_those_of_the_image_behind_them():
    plain = replace(LETTERED, prompt="x")
    edits = [
        opened(render(replace(LETTERED, prompt="snow", inputs=(render(base),)))).crop((30, 170, 290, 220))
        for base in (LETTERED, plain)
    ]
    assert ImageChops.difference(*edits).getbbox() is None


def test_an_edit_without_words_has_no_panel():
    made = opened(render(replace(LETTERED, prompt="", inputs=(png(Image.new("RGB", (320, 240), "white")),))))
    assert made.convert("RGB").getpixel((160, 200)) == made.convert("RGB").getpixel((160, 120))


@pytest.mark.parametrize("letter", "üßŁźçéñİøşığΩжЙ€—„")
def test_letters_with_accents_and_other_alphabets_have_a_glyph(letter):
    missing = font(40).getmask("\ufdd0")
    assert bytes(font(40).getmask(letter)) != bytes(missing)


def test_an_accent_of_its_own_is_drawn_on_its_letter():
    composed, apart = (replace(KITE, prompt=word, width_px=200, height_px=200) for word in ("\u00e9", "e\u0301"))
    panels = [opened(render(recipe)).crop((20, 140, 180, 190)) for recipe in (composed, apart)]
    whites = [panel.convert("L").point(lambda level: 255 * (level > 250)).getbbox() for panel in panels]
    assert whites[0] == whites[1]
