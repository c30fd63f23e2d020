"""What the scripted outcome of accepted work makes of its images: how many, which, how spoilt, under which link."""

import base64
from collections.abc import Iterator
from dataclasses import replace

from sandbox.drawing import bad_files
from sandbox.drawing.images import Recipe
from sandbox.faults import Script
from sandbox.state import State, current_state

EDGE_MIN_PX = 16
NO_HOST = "http://127.0.0.1:1"


def count_of(asked: int, fate: Script) -> int:
    """How many of the images asked for come: none with ``empty``, n fewer with ``fewer=n`` (more if negative)."""
    fewer = fate.get("fewer")
    return 0 if fate.get("empty") else max(0, asked - int(fewer.number(1) if fewer else 0))


def altered(recipe: Recipe, fate: Script) -> Recipe:
    """Half the size with ``wrong_size``; with ``wrong_format`` JPEG, or PNG where JPEG was asked."""
    if fate.get("wrong_size"):
        width_px, height_px = (max(EDGE_MIN_PX, side // 2) for side in (recipe.width_px, recipe.height_px))
        recipe = replace(recipe, width_px=width_px, height_px=height_px)
    if fate.get("wrong_format"):
        recipe = replace(recipe, file_format="png" if recipe.file_format == "jpeg" else "jpeg")
    return recipe


def recipes(first: Recipe, asked: int, fate: Script) -> Iterator[Recipe]:
    """A recipe for each image that comes, seeds counting up from the first one's."""
    first = altered(first, fate)
    for place in range(count_of(asked, fate)):
        yield replace(first, seed=first.seed + place)


def file_of(recipe: Recipe, fate: Script, here: State | None = None) -> tuple[bytes, str | None]:
    """The file, drawn now and spoilt where scripted, and its content type where that is not the recipe's.

    ``here`` is the state, for a stream that runs when its request is over. Raises NotAnImage where an input of the
    recipe cannot be decoded.
    """
    return bad_files.spoil(fate.get(*bad_files.IMAGE_FAULTS), (here or current_state()).draw(recipe))


def base64_of(recipe: Recipe, fate: Script, here: State | None = None) -> str:
    """``file_of`` in base64. Raises NotAnImage."""
    return base64.b64encode(file_of(recipe, fate, here)[0]).decode()


def kept_s(usual_s: float, fate: Script) -> float:
    """Seconds that a finished task or its file is kept: ``usual_s``, or as ``expire=s`` says (0 if it does not)."""
    expire = fate.get("expire")
    return usual_s if expire is None else expire.number(0)


def link_of(good: str, fate: Script, *, host_url: str, nowhere: str) -> str:
    """The link to a file, broken by ``dead_link``: to ``nowhere``, ``=relative`` to its host, or ``=host`` unserved."""
    dead = fate.get("dead_link")
    if dead is None:
        return good
    if dead.value == "relative":
        return good.removeprefix(host_url)
    return good.replace(host_url, NO_HOST) if dead.value == "host" else nowhere
