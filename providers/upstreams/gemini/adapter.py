"""Google Gemini: images by ``generateContent``, and by Imagen's ``predict`` where a gateway still has it.

Recovery "never" (section 7): no idempotency key, no cancellation, nothing to look up, so a lost answer
may be a paid image and is never sent again. Most refusals come with HTTP 200.

Source: providers/upstreams/gemini/CONTRACT.md (package google-genai 3.3.0, checked 2026-11-20); sections are
named where used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import SecretStr, field_validator

from providers.base import Accepted, Finished, UpstreamOrder
from providers.catalog.size_rules import ResolutionRule
from providers.configured import value_of
from providers.errors import RequestRefused
from providers.http.client import WireRequest
from providers.shared.account import AccountConfig, UpstreamAccount
from providers.shared.encoding import bare_base64
from providers.shared.extra import refuse_extra
from providers.shared.order_fields import nested, path_of, placed_images, wire_fields
from providers.shared.unsupported import OneAnswer, WithoutText
from providers.upstreams.gemini.answers import classify, read_cost, read_generated, read_predicted

NAME: Final = "gemini"
DEFAULT_BASE_URL: Final = "https://generativelanguage.googleapis.com"
DEFAULT_VERSION: Final = "v1beta"  # has every alias; section 1

CALL_TOTAL_S: Final = 300.0  # 3 Pro thinks for minutes (section 9)
SERVER_TOTAL_S: Final = 290  # sent to the upstream (section 1), so that its own time-out comes before ours
MAX_ANSWER_BYTES = 96 * 1024 * 1024  # the largest image we keep, in base64
MAX_IMAGES_BYTES = 100 * 1000 * 1000  # 100 MB in one request, counted in base64 to be safe (section 1)

_VERSION = re.compile(r"v\d+(?:(?:alpha|beta)\d*)?")
# Fields that decide what is bought or the form of the answer, in lower case without "_": Google reads both spellings.
_NOT_IN_EXTRA = (
    "cachedcontent",
    "contents",
    "continuationtoken",
    "generationconfig.candidatecount",
    "generationconfig.imageconfig",
    "generationconfig.responseformat",
    "generationconfig.responsemodalities",
    "instances",
    "parameters.outputoptions",
    "parameters.samplecount",
    "parameters.sampleimagesize",
    "servicetier",
    "toolconfig",
    "tools",
)


class Config(AccountConfig):
    """One account: key, and where to send it."""

    api_key: SecretStr
    base_url: str = DEFAULT_BASE_URL
    version: str = DEFAULT_VERSION

    @field_validator("version")
    @classmethod
    def _is_a_version(cls, value: str) -> str:
        """``beta`` means v1beta, as it does to Google's client (section 1)."""
        if value == "beta":
            return "v1beta"
        if not _VERSION.fullmatch(value):
            raise ValueError("must be a version such as v1 or v1beta")
        return value

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config | None:
        """None when no key is set; GOOGLE_API_KEY comes first, as in Google's client. Raises ValidationError."""
        api_key = value_of(env, "GOOGLE_API_KEY") or value_of(env, "GEMINI_API_KEY")
        if api_key is None:
            return None
        return cls(
            api_key=SecretStr(api_key),
            base_url=value_of(env, "GOOGLE_GEMINI_BASE_URL") or DEFAULT_BASE_URL,
            version=value_of(env, "GOOGLE_GENAI_API_VERSION") or DEFAULT_VERSION,
        )

    def headers(self) -> dict[str, str]:
        return {"x-goog-api-key": self.api_key.get_secret_value()}


# ---------------------------------------------------------------- requests


def build_submit(order: UpstreamOrder, *, version: str = DEFAULT_VERSION) -> WireRequest:
    """``generateContent`` with images before the text (section 2), or ``predict`` (section 4).

    Raises: RequestRefused for a field in ``extra`` that Darkroom sets itself, or for too many bytes.
    """
    extra = dict(_flat(order.extra))
    refuse_extra(extra, {name for name in extra if _is_ours(name)})
    fields = wire_fields(_without_only_class(replace(order, extra=extra)))
    prompt = str(fields.pop("prompt", ""))
    fields |= _instances(order, prompt) if _predicts(order) else _contents(order, prompt)
    headers = {"X-Server-Timeout": str(SERVER_TOTAL_S)}
    return WireRequest("POST", f"/{version}/{path_of(order)}", json=nested(fields), headers=headers)


def _flat(extra: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """``{"generationConfig": {"topK": 1}}`` as ``generationConfig.topK``: both forms are checked alike."""
    for name, value in extra.items():
        if isinstance(value, Mapping) and _folded(name) in {"generationconfig", "parameters"}:
            yield from ((f"{name}.{inner}", each) for inner, each in value.items())
        else:
            yield name, value


def _is_ours(name: str) -> bool:
    folded = _folded(name)
    return folded in {"generationconfig", "parameters"} or any(
        folded == ours or folded.startswith(f"{ours}.") for ours in _NOT_IN_EXTRA
    )


def _folded(name: str) -> str:
    return name.replace("_", "").lower()


def _without_only_class(order: UpstreamOrder) -> UpstreamOrder:
    """The order without its size class, if the model has only one: Lite should not be sent it (section 2)."""
    classes = order.model.size_rule(ResolutionRule)
    if classes is None or len(classes.enum) > 1:
        return order
    return replace(order, size={name: value for name, value in order.size.items() if name != "resolution"})


def _predicts(order: UpstreamOrder) -> bool:
    return path_of(order).endswith(":predict")


def _contents(order: UpstreamOrder, prompt: str) -> dict[str, Any]:
    images = [image for placed in placed_images(order) for image in placed.images]
    if sum((len(image.data) + 2) // 3 * 4 for image in images) > MAX_IMAGES_BYTES:
        raise RequestRefused("upstream_too_large", "more than 100 MB in one request")
    parts: list[dict[str, Any]] = [
        {"inlineData": {"mimeType": image.mime, "data": bare_base64(image)}} for image in images
    ]
    return {
        "contents": [{"role": "user", "parts": [*parts, {"text": prompt}]}],
        "generationConfig.responseModalities": ["IMAGE"],
    }


def _instances(order: UpstreamOrder, prompt: str) -> dict[str, Any]:
    # The count is always sent: the default is not documented.
    return {"instances": [{"prompt": prompt}], "parameters.sampleCount": order.n, "parameters.includeRaiReason": True}


# ---------------------------------------------------------------- the provider


class Gemini(UpstreamAccount[Config], OneAnswer, WithoutText):
    """One account. Implements :class:`providers.base.Provider`; thread-safe."""

    name = NAME
    config_type = Config
    submit_timeout_s = CALL_TOTAL_S

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:  # noqa: ARG002  # no idempotency
        """Make the images; blocks until they are there. Raises: ProviderError."""
        request = build_submit(order, version=self._config.version)
        answer = self._paid.send(request, total_s=CALL_TOTAL_S, max_bytes=MAX_ANSWER_BYTES)
        if not 200 <= answer.status < 300:
            raise classify(answer.status, answer.headers, answer.body)
        if _predicts(order):
            return Finished(read_predicted(answer.body)[: order.n])  # which reports no usage
        images = read_generated(answer.body, order.model.token_usd)
        return Finished(images[: order.n], read_cost(answer.body, order.model.token_usd))
