"""What a model needs for an operation, and the limits where its entry states none.

The order check and the JSON Schema both take them from here, so that they cannot differ.
"""

from __future__ import annotations

from providers.catalog.entries import Model, Need, ParamSpec

MAX_RESULTS = 10
MAX_PROMPT_CHARS = 32_000
MAX_TEXT_CHARS = 10_000
# Where an upstream states no limit of input images.
MAX_IMAGES = 16
MAX_LIST_ITEMS = 50
# JSON numbers beyond this are not exact in every client.
MAX_WHOLE = 2**53 - 1

# Limits for settings whose model states none: the work of every upstream must be limited.
OUR_LIMITS: dict[str, tuple[float, float]] = {"steps": (1, 500), "guidance": (0, 100), "strength": (0, 1)}

_MAKE_FROM_NOTHING = frozenset({"generate", "text_to_3d"})


def max_prompt_chars(model: Model) -> int:
    """The longest prompt, in characters."""
    return model.inputs.prompt_max_len or MAX_PROMPT_CHARS


def image_range(model: Model, operation: str) -> tuple[int, int]:
    """Fewest and most input images, the face included."""
    if operation == "generate" and _generates_apart(model):
        return 0, 0
    stated = model.inputs.images
    most = MAX_IMAGES if stated.max is None else stated.max
    fewest = stated.min if operation in _MAKE_FROM_NOTHING else max(1, stated.min)
    return fewest, most


def most_results(model: Model) -> int:
    """Most results of one order. One for a text: the model would repeat it, for the same price."""
    return 1 if model.output == "text" else MAX_RESULTS


def places(model: Model) -> tuple[str, ...]:
    """The upstream's names for what each image of an order is, where each has a field of its own.

    In the order in which :func:`providers.shared.order_fields.placed_images` fills them; empty where there is
    nothing to distinguish.
    """
    roles = model.inputs.roles
    own = [name for name, spec in model.inputs.image_fields.items() if name != roles.get("face") and not spec.is_list]
    own.sort(key=lambda name: name != roles.get("base"))
    return tuple(own) if len(own) > 1 else ()


def face_need(model: Model) -> Need:
    """Whether an order needs a ``face``, or may not have one."""
    return "required" if "face" in model.inputs.roles else "none"


def mask_need(model: Model, operation: str) -> Need:
    """Whether a mask is taken: never to generate; always to inpaint, if the model also edits without one."""
    if operation in _MAKE_FROM_NOTHING:
        return "none"
    if operation == "inpaint" and model.operation != "inpaint" and model.inputs.mask == "optional":
        return "required"
    return model.inputs.mask


def bounds(name: str, spec: ParamSpec) -> tuple[float, float]:
    """Least and most of a number; ours where the model states none."""
    low, high = OUR_LIMITS.get(name, (-MAX_WHOLE, MAX_WHOLE))
    return (low if spec.min is None else spec.min), (high if spec.max is None else spec.max)


def max_text_chars(name: str, spec: ParamSpec) -> int:
    """The longest text of a setting, in characters."""
    return spec.max_len or (MAX_PROMPT_CHARS if name == "negative_prompt" else MAX_TEXT_CHARS)


def _generates_apart(model: Model) -> bool:
    """Whether edits have a path of their own, so that the path for generating takes no images."""
    generate = model.paths.get("generate")
    return generate is not None and generate != model.paths.get("edit", generate)
