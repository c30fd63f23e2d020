"""Finding a call in the account's history: one page of it, and which of its tasks are ours. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from providers.base import InputImage, UpstreamOrder
from providers.http.client import WireRequest
from providers.shared.encoding import data_uri
from providers.shared.order_fields import Placed, path_of, placed_images
from providers.upstreams.wavespeed.requests import API, build_input, file_name

HISTORY_PAGE_SIZE = 100


def build_history(order: UpstreamOrder, since: datetime, page: int) -> WireRequest:
    """One page of the account's tasks of this model (section 2, history list)."""
    asked = {
        "page": page,
        "page_size": HISTORY_PAGE_SIZE,
        "model": path_of(order),
        "created_after": since.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    return WireRequest("POST", f"{API}/predictions", json=asked)


def shows_input(item: Mapping[str, Any]) -> bool:
    """Whether an item tells what was asked for. The documented ones do not (section 2)."""
    return isinstance(item.get("input"), dict)


def is_same_order(item: Mapping[str, Any], order: UpstreamOrder) -> bool:
    """Whether a task of the history was made by the same input.

    Everything that was sent must be there unchanged, each image as the same data URI or as a link that ends
    in its :func:`file_name`; fields that the upstream added must be defaults. An item without its input is
    no candidate: delivering another order's image is worse than delivering none.
    """
    told = item.get("input")
    if item.get("model") != path_of(order) or not isinstance(told, dict):
        return False
    references = placed_images(order)
    sent = build_input(order, file_name)
    added = {name: value for name, value in told.items() if name not in sent}
    plain = sent.keys() - {placed.field for placed in references}
    return (
        all(told.get(name) == sent[name] for name in plain)
        and all(_shows(told.get(placed.field), placed) for placed in references)
        and all(_is_default(order, name, value) for name, value in added.items())
    )


def _shows(told: object, placed: Placed) -> bool:
    links = told if isinstance(told, list) else [told]
    if len(links) != len(placed.images):
        return False
    return all(
        isinstance(link, str) and _leads_to(link, image) for link, image in zip(links, placed.images, strict=True)
    )


def _leads_to(link: str, image: InputImage) -> bool:
    if link.startswith("data:"):
        return link == data_uri(image)
    return link.partition("?")[0].endswith(file_name(image))


def _is_default(order: UpstreamOrder, field: str, value: object) -> bool:
    """Whether an added field changes nothing: unset, random, or what the catalogue gives as the default."""
    if value in (None, "", [], {}) or value is False or value == -1:
        return True
    params = order.model.params
    defaults = [spec.default for name, spec in params.items() if (spec.field or name) == field]
    rules = {} if isinstance(order.model.size, str) else order.model.size
    sizes = [getattr(rule, "default", None) for rule in rules.values()]
    spelled = str(value).replace("*", "x") if field == "size" else value
    return spelled in [*defaults, *sizes]


def has_token(item: Mapping[str, Any], order: UpstreamOrder) -> bool:
    """Whether the item has the callback URL of this call, in any of its fields."""
    return order.callback_url is not None and order.callback_url in item.values()
