"""Field names of other services' APIs for what an order calls otherwise: those of OpenAI, Replicate, fal, diffusers,
and the WebUI that each mean one thing.

Left out are names that mean one thing here and another there: ``batch_size`` (images at once, or of a round),
``scheduler`` (a sampler, or its schedule), ``image_strength`` (the inverse of strength), ``output_quality``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from providers.catalog.entries import Model

_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "n": ("num_images", "num_outputs", "num_images_per_prompt", "number_of_images", "sample_count"),
        "steps": ("num_inference_steps", "inference_steps", "num_steps", "sample_steps", "sampling_steps"),
        "guidance": ("guidance_scale", "cfg_scale", "cfg"),
        "strength": ("denoising_strength", "prompt_strength", "image_prompt_strength"),
        "sampler": ("sampler_name", "sample_method"),
        "style": ("style_preset",),
        "negative_prompt": (),
        "aspect_ratio": (),
        "output_format": (),
        "output_compression": (),
    }
)
_IMAGE_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "images": (
            "image",
            "image_url",
            "image_urls",
            "input_image",
            "input_images",
            "init_image",
            "image_prompt",
            "reference_images",
            "reference_image_urls",
        ),
        "mask": ("mask_url", "mask_image", "mask_image_url"),
        "face": ("face_image", "face_url", "face_image_url"),
    }
)


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def _by_alias(names: Mapping[str, tuple[str, ...]]) -> Mapping[str, str]:
    """Each alias, in snake case and in camel case, and the field it stands for."""
    spelled = {
        alias: name for name, aliases in names.items() for each in (name, *aliases) for alias in (each, _camel(each))
    }
    return MappingProxyType({alias: name for alias, name in spelled.items() if alias != name})


ALIASES: Final = _by_alias(_NAMES)
IMAGE_ALIASES: Final = _by_alias(_IMAGE_NAMES)


def aliases_of(name: str) -> list[str]:
    """The aliases in snake case of a field, for people to read; the camel case of each is one too."""
    return [*_NAMES.get(name, ()), *_IMAGE_NAMES.get(name, ())]


@dataclass(frozen=True, slots=True)
class Clash:
    """One thing said twice, with different values: under ``given`` and under ``other``."""

    given: str
    other: str

    @property
    def message(self) -> str:
        return f"means the same as {self.other}, and says something else; send one of them"


def renamed(
    fields: Mapping[str, Any], aliases: Mapping[str, str], own: Collection[str] = ()
) -> tuple[dict[str, Any], list[Clash]]:
    """``fields`` under the names that an order has, and what was said twice. A field that is None says nothing.

    ``own`` are names that some model has for a setting of its own: those stay.
    """
    found: dict[str, Any] = {}
    said_as: dict[str, str] = {}
    clashes: list[Clash] = []
    # The names that an order has come first: of two that differ, the other one is at fault.
    for given in sorted(fields, key=lambda given: given in aliases):
        name, value = given if given in own else aliases.get(given, given), fields[given]
        if found.get(name) is None:
            found[name], said_as[name] = value, given
        elif value is not None and not same(found[name], value):
            clashes.append(Clash(given, said_as[name]))
    return found, clashes


def same(one: object, other: object) -> bool:
    """Whether two JSON values are equal; true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def lifted(extra: Mapping[str, Any], model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of an order's ``extra``, the aliases of what ``model`` takes as a field, by alias; and the rest."""
    fields = {alias: value for alias, value in extra.items() if ALIASES.get(alias) in {"n", *model.params}}
    return fields, {name: value for name, value in extra.items() if name not in fields}
