"""OpenAI's Images API, and chat for prompt enhancement. Also for servers that copy it.

Recovery "never": one call is one answer. There is no id to look up and no idempotency key, so a lost
answer may be a paid image, and nothing is ever sent again after :class:`Uncertain`.

Source: providers/upstreams/openai/CONTRACT.md (package openai 3.51.0, read 2026-11-20); sections are named where used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic import SecretStr

from providers.base import Accepted, Finished, UpstreamOrder
from providers.catalog.entries import TokenPrices
from providers.configured import value_of
from providers.errors import RequestRefused, Uncertain
from providers.http.client import WireRequest
from providers.reported_cost import ReportedCost
from providers.shared import results, usage
from providers.shared.account import AccountConfig, UpstreamAccount
from providers.shared.chat import stream_chat
from providers.shared.encoding import form_fields, image_parts
from providers.shared.extra import extra_fields
from providers.shared.openai_errors import classify
from providers.shared.order_fields import own_params, size_text
from providers.shared.reading import json_object
from providers.shared.unsupported import OneAnswer

NAME: Final = "openai"
DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
DEFAULT_PROMPT_MODEL: Final = "gpt-5.4-mini"

CALL_TOTAL_S = 600.0  # large images at high quality take minutes (section 1)
MAX_BYTES_PER_IMAGE = 48 * 1024 * 1024  # 4K as PNG, in base64
MAX_ENVELOPE_BYTES = 1024 * 1024

# Settings of generations that edits do not have (section 4.1).
_NOT_IN_FORMS = frozenset({"moderation", "style"})


class Config(AccountConfig):
    """One account: key, and where to send it."""

    api_key: SecretStr
    base_url: str = DEFAULT_BASE_URL
    organization: str | None = None
    project: str | None = None
    prompt_model: str = DEFAULT_PROMPT_MODEL

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config | None:
        """None when the key is not set. Raises pydantic's ValidationError."""
        api_key = value_of(env, "OPENAI_API_KEY")
        if api_key is None:
            return None
        return cls(
            api_key=SecretStr(api_key),
            base_url=value_of(env, "OPENAI_BASE_URL") or DEFAULT_BASE_URL,
            organization=value_of(env, "OPENAI_ORG_ID"),
            project=value_of(env, "OPENAI_PROJECT_ID"),
            prompt_model=value_of(env, "OPENAI_PROMPT_MODEL") or DEFAULT_PROMPT_MODEL,
        )

    def headers(self) -> dict[str, str]:
        named = {"OpenAI-Organization": self.organization, "OpenAI-Project": self.project}
        chosen = {name: value for name, value in named.items() if value}
        return {"Authorization": f"Bearer {self.api_key.get_secret_value()}", **chosen}


def build_submit(order: UpstreamOrder) -> WireRequest:
    """Generations as JSON, anything with an image as a multipart edit (sections 3 and 4).

    ``n`` is sent only above one, and ``response_format`` never: GPT image models refuse it.
    Raises: RequestRefused for a mask that is not PNG, or a field in ``extra`` that Darkroom sets itself.
    """
    if order.mask is not None and order.mask.mime != "image/png":
        raise RequestRefused("mask_not_png", "the mask needs an alpha channel, as PNG")
    body: dict[str, Any] = {
        **extra_fields(order),
        **own_params(order),
        "model": order.model.path,
        "prompt": order.prompt or "",
    }
    if order.n > 1:
        body["n"] = order.n
    size = size_text(order.size)
    if size is not None:
        body["size"] = size
    if not order.images:
        return WireRequest("POST", "/images/generations", json=body)
    fields = {name: value for name, value in body.items() if name not in _NOT_IN_FORMS}
    files = image_parts(order.images, order.mask)
    return WireRequest("POST", "/images/edits", form=form_fields(fields), files=files)


def _named(order: UpstreamOrder, call: str) -> WireRequest:
    """The request with an id by which the upstream's support finds it: unique per call, and ours."""
    name = f"{order.request_id}:{call}" if order.request_id else call
    return replace(build_submit(order), headers={"X-Client-Request-Id": name})


def read_cost(answer: Mapping[str, Any], prices: TokenPrices | None) -> ReportedCost | None:
    """What the call cost, by the tokens of its answer (section 3).

    Money only where every kind is counted and has a price: how much cheaper cached tokens are is not
    documented, and an SVG is also billed by another model.
    """
    told = usage.counts(answer.get("usage"))
    usd = None if "svg_usage" in answer else usage.price_usd(_tokens(told), prices)
    return usage.reported(told, usd=usd)


def _tokens(told: Mapping[str, Any]) -> usage.Tokens | None:
    given, made = told.get("input_tokens"), told.get("output_tokens")
    seen, drawn = told.get("input_tokens_details"), told.get("output_tokens_details", {"image_tokens": made})
    if not isinstance(seen, dict) or not isinstance(drawn, dict) or seen.get("cached_tokens"):
        return None
    kinds = [each.get(name, 0) for each in (seen, drawn) for name in ("text_tokens", "image_tokens")]
    tokens = usage.Tokens(*kinds) if all(usage.whole(count) is not None for count in kinds) else None
    if tokens is None or (sum(tokens[:2]), sum(tokens[2:])) != (given, made):
        return None
    return tokens


class OpenAi(UpstreamAccount[Config], OneAnswer):
    """One account. Implements :class:`providers.base.Provider`; thread-safe."""

    name = NAME
    config_type = Config
    submit_timeout_s = CALL_TOTAL_S

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:
        """Make the images; blocks until they are there. The key is only named in the upstream's log, for there is no
        idempotency. Raises: ProviderError."""
        max_bytes = MAX_ENVELOPE_BYTES + order.n * MAX_BYTES_PER_IMAGE
        answer = self._paid.send(_named(order, dedupe_key), total_s=CALL_TOTAL_S, max_bytes=max_bytes)
        if not 200 <= answer.status < 300:
            raise classify(answer.status, answer.headers, answer.body)
        document = json_object(answer.body) or {}
        images = results.read_images(document.get("data"), self.base_url)[: order.n]
        if not images:
            raise Uncertain("upstream_broken_answer", f"HTTP {answer.status} without an image")
        return Finished(images, read_cost(document, order.model.token_usd))

    def stream_text(
        self, messages: Sequence[Mapping[str, str]], *, temperature: float | None, max_tokens: int | None = None
    ) -> Iterator[str]:
        path = "/chat/completions"
        return stream_chat(
            self._session,
            path,
            self._config.prompt_model,
            messages,
            temperature,
            max_tokens=max_tokens,
            max_tokens_field="max_completion_tokens",  # section 8
        )
