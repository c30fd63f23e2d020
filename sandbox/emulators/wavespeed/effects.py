"""Which of WaveSpeed's models treat an image otherwise than by repainting it: cut out, enlarge, widen.

Source: providers/upstreams/wavespeed/CONTRACT.md, section 7.
"""

from collections.abc import Mapping

from sandbox.drawing.effects import Effect

_ENLARGES = ("upscale", "increase-resolution", "seedvr2", "real-esrgan")
_EFFECTS: Mapping[str, Effect] = {
    "bria/remove-background": "cut_out",
    "wavespeed-ai/image-background-remover": "cut_out",
    "bria/generate-background": "new_background",
    "bria/expand": "outpaint",
    "wavespeed-ai/image-zoom-out": "outpaint",
}


def effect_of(path: str) -> Effect:
    """What the model at ``path`` does to its image, other than repaint it."""
    if any(word in path for word in _ENLARGES):
        return "enlarge"
    return _EFFECTS.get(path, "")
