"""xAI's Imagine models, and chat for prompt enhancement: OpenAI's paths with xAI's own bodies.

Recovery "never" (section 5): one call is one answer, without an id or an idempotency key, and a call
whose caller has left is still billed. A lost answer is never sent for again.

Source: providers/upstreams/xai/CONTRACT.md (package xai-sdk 1.21.0, read 2026-11-20); sections are named
where used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import SecretStr, field_validator

from core.outbound.urls import origin_of
from providers.base import Accepted, Finished, ResultImage, UpstreamOrder
from providers.configured import value_of
from providers.errors import ContentRefused, RequestRefused, Uncertain
from providers.http.client import WireRequest
from providers.shared import results
from providers.shared.account import AccountConfig, UpstreamAccount
from providers.shared.chat import stream_chat
from providers.shared.encoding import data_uri
from providers.shared.extra import refuse_extra
from providers.shared.order_fields import placed_images, wire_fields
from providers.shared.reading import json_object
from providers.shared.unsupported import OneAnswer
from providers.upstreams.xai.errors import classify, cost_of, was_billed

NAME: Final = "xai"
DEFAULT_BASE_URL: Final = "https://api.x.ai"
DEFAULT_PROMPT_MODEL: Final = "grok-4.3"

CALL_TOTAL_S: Final = 300.0  # section 1
MAX_BYTES_PER_IMAGE = 32 * 1024 * 1024  # 4 MP as PNG, in base64
MAX_ENVELOPE_BYTES = 1024 * 1024
MAX_IMAGES_BYTES = 19 * 1024 * 1024  # in data URLs; with the words below the 20 MiB of the vendor's client (section 4)

# Other spellings of what Darkroom sets, and fields that would publish or store the images (sections 3 and 4).
_NOT_IN_EXTRA = frozenset({"file_id", "image_url", "storage_options"})


class Config(AccountConfig):
    """One account: key, and where to send it."""

    api_key: SecretStr
    base_url: str = DEFAULT_BASE_URL
    prompt_model: str = DEFAULT_PROMPT_MODEL

    @field_validator("base_url")
    @classmethod
    def _is_absolute(cls, value: str) -> str:
        """With or without the version, which is part of the paths."""
        origin_of(value)
        return value.rstrip("/").removesuffix("/v1")

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config | None:
        """None when the key is not set. Raises pydantic's ValidationError."""
        api_key = value_of(env, "XAI_API_KEY")
        if api_key is None:
            return None
        return cls(
            api_key=SecretStr(api_key),
            base_url=value_of(env, "XAI_BASE_URL") or DEFAULT_BASE_URL,
            prompt_model=value_of(env, "XAI_PROMPT_MODEL") or DEFAULT_PROMPT_MODEL,
        )

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key.get_secret_value()}"}


# ---------------------------------------------------------------- requests


def build_submit(order: UpstreamOrder) -> WireRequest:
    """Always JSON: generations, or edits for anything with an image, which generations would bill and ignore.

    Bytes are requested, not links: how long those are valid is not documented (section 3).
    Raises: RequestRefused for a field in ``extra`` that Darkroom sets itself, or for too many bytes.
    """
    refuse_extra(order.extra, _NOT_IN_EXTRA)
    body = {**wire_fields(order), "model": order.model.path, "response_format": "b64_json"}
    if not order.images:
        return WireRequest("POST", "/v1/images/generations", json=body)
    if len(order.images) == 1:
        body.pop("aspect_ratio", None)  # the image decides (section 4)
    return WireRequest("POST", "/v1/images/edits", json=body | _images(order))


def _images(order: UpstreamOrder) -> dict[str, Any]:
    """``image`` for one and ``images`` for several; never both (section 4)."""
    fields: dict[str, Any] = {}
    size_bytes = 0
    for placed in placed_images(order):
        links = [data_uri(image) for image in placed.images]
        size_bytes += sum(map(len, links))
        found = [{"type": "image_url", "url": link} for link in links]
        fields[placed.field] = found if placed.is_list else found[0]
    if size_bytes > MAX_IMAGES_BYTES:
        raise RequestRefused("upstream_too_large", "more than 19 MiB of images in one request")
    return fields


# ---------------------------------------------------------------- answers


def read_images(body: bytes, base_url: str) -> list[ResultImage]:
    """The images of a 200, at least one, without those that moderation withheld (section 3).

    Raises: ContentRefused when it withheld all; Uncertain for an answer in another form.
    """
    answer = json_object(body) or {}
    items = answer.get("data")
    if not isinstance(items, list):
        raise Uncertain("upstream_broken_answer", "no list of images")
    passed = [item for item in items if not _is_withheld(item)]
    images = results.read_images(passed, base_url)
    if images:
        return images
    if passed:
        raise Uncertain("upstream_broken_answer", "an image that cannot be read")
    detail = "moderation withheld every image"
    raise ContentRefused(detail=detail, stage="output", charged=was_billed(answer), cost=cost_of(answer))


def _is_withheld(item: object) -> bool:
    """Whether moderation withheld it: marked so, perhaps with a placeholder, or without link and bytes (section 7)."""
    if not isinstance(item, dict):
        return False
    return item.get("respect_moderation") is False or not (item.get("url") or item.get("b64_json"))


# ---------------------------------------------------------------- the provider


class Xai(UpstreamAccount[Config], OneAnswer):
    """One account. Implements :class:`providers.base.Provider`; thread-safe."""

    name = NAME
    config_type = Config
    submit_timeout_s = CALL_TOTAL_S

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:  # noqa: ARG002  # no idempotency
        """Make the images; blocks until they are there. Raises: ProviderError."""
        max_bytes = MAX_ENVELOPE_BYTES + order.n * MAX_BYTES_PER_IMAGE
        answer = self._paid.send(build_submit(order), total_s=CALL_TOTAL_S, max_bytes=max_bytes)
        if not 200 <= answer.status < 300:
            raise classify(answer.status, answer.headers, answer.body)
        images = read_images(answer.body, self.base_url)[: order.n]
        return Finished(images, cost_of(json_object(answer.body)))

    def stream_text(self, messages: Sequence[Mapping[str, str]], *, temperature: float) -> Iterator[str]:
        path = "/v1/chat/completions"
        return stream_chat(self._session, path, self._config.prompt_model, messages, temperature, classify=classify)
