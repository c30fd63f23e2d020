"""What is counted of the image decoders."""

from __future__ import annotations

from collections.abc import Callable

from core.metrics.families import Counter, Gauge, Histogram

DECODERS = Gauge("darkroom_decoders", "Image decoders by state: busy, and idle (started or not).", ("process", "state"))
DECODE_SECONDS = Histogram(
    "darkroom_decoder_duration_seconds", "An image's time at a decoder, the wait for one included.", ("verb",)
)
DECODERS_BUSY = Counter("darkroom_decoders_busy_total", "Images refused because every decoder stayed busy.")


def note_decoders(process: str, load: Callable[[], tuple[int, int]]) -> Callable[[], None]:
    """What notes the decoders of a process. ``load``: how many are at work, and how many may be."""

    def note() -> None:
        busy, most = load()
        DECODERS.of(process, "busy").set(busy)
        DECODERS.of(process, "idle").set(most - busy)

    return note
