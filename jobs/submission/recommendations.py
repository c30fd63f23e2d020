"""Which models to recommend for an operation, each with its reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from providers.catalog.catalog import Model
from providers.orders.needs import image_range, mask_need

_LETTERING = frozenset({"typography", "text_rendering"})


@dataclass(frozen=True, slots=True)
class Reason:
    """``code`` is stable, ``message`` for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    model: Model
    reasons: Sequence[Reason]


@dataclass(frozen=True, slots=True)
class Offer:
    """Models that can do an operation, in both rankings (``providers.catalog.ranking``). ``default`` is what an order
    without a model gets by the operator's setting; ``price`` is ours in credits, as text; ``service_s`` by id."""

    operation: str
    by_quality: Sequence[Model]
    by_price: Sequence[Model]
    default: Model | None
    price: Callable[[Model], str]
    service_s: Mapping[str, float]


def takes(model: Model, operation: str, *, images: int, mask: bool) -> bool:
    """Whether the model takes so many reference images and a mask; that it needs more of them is no objection."""
    return images <= image_range(model, operation)[1] and (not mask or mask_need(model, operation) != "none")


def recommend(offer: Offer) -> list[Recommendation]:
    """One model for each thing that may matter, the most general first; a model may have several reasons."""
    reasons: dict[str, list[Reason]] = {}
    models = {model.id: model for model in offer.by_quality}
    for model, reason in _picks(offer):
        reasons.setdefault(model.id, []).append(reason)
    return [Recommendation(models[model_id], found) for model_id, found in reasons.items()]


def _picks(offer: Offer) -> Iterator[tuple[Model, Reason]]:
    if not offer.by_quality:
        return
    count = len(offer.by_quality)
    if offer.default in offer.by_quality and offer.default is not None:
        yield offer.default, Reason("default", "what an order without a model gets here")
    best, cheapest = offer.by_quality[0], offer.by_price[0]
    yield best, Reason("best_quality", f"first of {count} in the catalogue's ranking by quality")
    yield cheapest, Reason("cheapest", f"least price of {count}: {offer.price(cheapest)} credits an image")
    if offer.service_s:
        fastest = min(offer.service_s, key=lambda model_id: offer.service_s[model_id])
        model = next(each for each in offer.by_quality if each.id == fastest)
        half = f"half of the last hour's jobs took {offer.service_s[fastest]:.1f} s or less"
        yield model, Reason("fastest", f"{half}; measured of {len(offer.service_s)}")
    yield from _abilities(offer)


def _abilities(offer: Offer) -> Iterator[tuple[Model, Reason]]:
    """Abilities that only some models have, each with the best of those."""

    def best(able: Callable[[Model], bool]) -> Model | None:
        found = [model for model in offer.by_quality if able(model)]
        return found[0] if 0 < len(found) < len(offer.by_quality) else None

    def image_count(model: Model) -> int:
        return image_range(model, offer.operation)[1]

    most = max(map(image_count, offer.by_quality))
    if model := best(lambda each: mask_need(each, offer.operation) != "none"):
        yield model, Reason("takes_mask", "takes a mask that says where to change the image")
    if most > 1 and (model := best(lambda each: image_count(each) == most)):
        yield model, Reason("most_pictures", f"takes {most} reference images, the most of all")
    if model := best(lambda each: "transparent_background" in each.capabilities):
        yield model, Reason("transparent", "makes images with a transparent background")
    if model := best(lambda each: not _LETTERING.isdisjoint(each.capabilities)):
        yield model, Reason("lettering", "made for legible lettering in the image")
