"""Which model and operation fal's name of an application means here.

A name is looked for in models.yaml as it is and without a last word that says an operation, then as
``darkroom/<model>[/<operation>]``, then as any name that the catalogue knows.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import yaml

from app.orders.operations import IN_URL, OPERATIONS
from core.errors import ServiceError
from providers.catalog.catalog import Catalog, Model, UnknownModelError

OWN = "darkroom/"
# Words at the end of a name, and the operation they say; the operations' own names in URLs come on top of these.
_WORDS: Final[Mapping[str, str]] = {
    "text-to-image": "generate",
    "image-to-image": "edit",
    "edit-image": "edit",
    "inpainting": "inpaint",
    "expand": "outpaint",
    "redux": "variations",
    "eraser": "erase",
    "background/remove": "remove_background",
    "background/replace": "replace_background",
    "image-to-3d": "image_to_3d",
    **OPERATIONS,
}
# Workflows and ComfyUI graphs have names of three parts.
NAMESPACES = ("workflows", "comfy")
MAX_NAME_CHARS = 200


class UnknownAppError(ServiceError):
    """No application of fal's that we know, and no model of ours, has this name."""

    code = "unknown_model"


@dataclass(frozen=True, slots=True)
class App:
    """What a name stands for. ``operation`` None: by the images that come with the order."""

    models: Sequence[str]
    operation: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What an order is for: a model of the catalogue, and the catalogue's word for the operation."""

    model: str
    operation: str


@cache
def known() -> Mapping[str, App]:
    """fal's names, by models.yaml."""
    rows = yaml.safe_load(Path(__file__).with_name("models.yaml").read_text(encoding="utf-8"))
    return {name: App(tuple(row["models"]), row.get("operation")) for name, row in rows.items()}


def find(name: str, catalog: Catalog) -> App:
    """The application of a name. Raises UnknownAppError with the nearest names."""
    name = name.strip("/")
    if len(name) <= MAX_NAME_CHARS:
        for base, operation in _readings(name):
            if found := known().get(base.lower()) or _of_catalog(base, catalog):
                return App(found.models, operation or found.operation)
    raise UnknownAppError(f"application {name[:MAX_NAME_CHARS]!r} not found{_nearest(name, catalog)}")


def choose(
    app: App,
    catalog: Catalog,
    configured: Collection[str],
    *,
    has_image: bool,
    has_mask: bool,
    may_use: Callable[[Model], bool] = lambda _: True,
) -> Target:
    """The model that an order goes to: the first of the application's that has the operation and can run here, of
    those that the caller's key may use (``may_use``) if there is one."""
    models = [model for each in app.models if (model := catalog.models.get(each)) and not model.hidden]
    runs = [model for model in models if model.provider in configured]
    wanted = _operations(app.operation, has_image=has_image, has_mask=has_mask)
    # Where none fits that may and can run, the order's own rules say what is wrong with it, or choose where the name
    # leaves it to them.
    for offered in (list(filter(may_use, runs)), runs, models):
        for operation in wanted:
            if fit := next((model for model in offered if operation in model.operations), None):
                return Target(fit.id, operation)
    return Target(next((model.id for model in [*runs, *models]), app.models[0]), wanted[0])


def prefix_of(name: str) -> str:
    """The part of a name that the addresses of its requests begin with: owner and alias."""
    parts = name.strip("/").split("/")
    return "/".join(parts[: 3 if parts[0] in NAMESPACES else 2])


def _readings(name: str) -> list[tuple[str, str | None]]:
    """The name itself, and what is left of it before words that say an operation."""
    found: list[tuple[str, str | None]] = [(name, None)]
    for word, operation in _WORDS.items():
        base = name.removesuffix(f"/{word}")
        if base != name:
            found.append((base, operation))
    return found


def _of_catalog(name: str, catalog: Catalog) -> App | None:
    """A model of ours, by ``darkroom/`` and a name of its own, or by a name with its owner."""
    own = name.removeprefix(OWN)
    if "/" not in own and own == name:
        return None  # an owner alone
    if own.split(":")[0] == "auto":
        return App((own,))
    try:
        return App((catalog.resolve(own).model.id,))
    except UnknownModelError:
        return None


def _operations(said: str | None, *, has_image: bool, has_mask: bool) -> Sequence[str]:
    """The operations that may be meant, the most likely first."""
    if said == "edit" and has_mask:
        return ("inpaint", "edit")
    if said is not None:
        return (said,)
    if has_mask:
        return ("inpaint", "edit", "erase")
    if has_image:
        return ("edit", *(each for each in IN_URL if each not in ("edit", "generate")), "generate")
    return ("generate", "text_to_3d")


def _nearest(name: str, catalog: Catalog) -> str:
    names = [*known(), *(OWN + model.id for model in catalog.select())]
    near = difflib.get_close_matches(name[:MAX_NAME_CHARS].lower(), names, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else ""
