"""llama-swap, a proxy that loads local models on demand, and stable-diffusion.cpp's sd-server behind it.

Three routes make images. The model's path in the catalogue names one of the two that answer with them:
OpenAI's (settings go in a tag inside the prompt) and the WebUI's (plain fields, returns the seed). With
``LLAMASWAP_ASYNC`` all orders become jobs of sd-server instead, which are looked up.

Recovery "never": no route knows an id of ours, so the image of a lost answer cannot be found.

Source: providers/upstreams/llamaswap/CONTRACT.md (llama-swap 0bdb3720, stable-diffusion.cpp 97d29908, read 2026-11-20);
sections are named where used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal
from urllib.parse import quote

from pydantic import SecretStr, field_validator

from core.outbound.urls import origin_of
from providers.base import Accepted, CallRef, CheckResult, Finished, Missing, Running, UpstreamCancel, UpstreamOrder
from providers.catalog.entries import Model
from providers.configured import value_of
from providers.errors import Misconfigured, RequestRefused, Uncertain
from providers.http.client import HttpResponse, WireRequest
from providers.shared import results
from providers.shared.account import AccountConfig, UpstreamAccount
from providers.shared.chat import stream_chat
from providers.shared.encoding import bare_base64, form_fields, image_parts
from providers.shared.extra import extra_fields, refuse_extra
from providers.shared.looks import check_each
from providers.shared.order_fields import nested, path_of, wire_fields, wire_name
from providers.shared.unsupported import OneAnswer
from providers.upstreams.llamaswap import answers
from providers.upstreams.llamaswap.errors import classify
from providers.upstreams.llamaswap.tags import scrubbed, with_tag, without_tags

NAME: Final = "llamaswap"
ANY_MODEL: Final = "*"

CALL_TOTAL_S = 900.0  # includes loading a model and waiting in its queue (section 2)
CHECK_TOTAL_S = 30.0
MAX_BYTES_PER_IMAGE = 96 * 1024 * 1024  # 4096 x 4096 as PNG, in base64
MAX_ENVELOPE_BYTES = 1024 * 1024
MAX_SEED = 2**31 - 1

# The canonical settings as keys of the tag, and of sd-server's jobs (section 3).
_KEYS: Final = {
    "seed": "seed",
    "negative_prompt": "negative_prompt",
    "steps": "sample_params.sample_steps",
    "guidance": "sample_params.guidance.txt_cfg",
    "sampler": "sample_params.sample_method",
    "strength": "strength",
}
# Other spellings of what Darkroom sets itself: in a tag or a job they would override the order.
_OURS: Final = frozenset(
    {
        "batch_count", "batch_size", "control_image", "denoising_strength", "extra_images", "height", "init_image",
        "init_images", "inpainting_mask_invert", "mask_image", "ref_images", "sample_method", "sample_params",
        "sampler_name", "seed", "strength", "width",
    }
)  # fmt: skip


class Config(AccountConfig):
    """One llama-swap. ``models``: its names of models, by our ids; ``"*"`` for all others."""

    base_url: str
    api_key: SecretStr | None = None
    models: Mapping[str, str] = {}
    prompt_model: str | None = None
    extra_args: Literal["embed", "top_level", "both"] = "both"
    run_async: bool = False

    @field_validator("base_url")
    @classmethod
    def _is_root(cls, value: str) -> str:
        origin_of(value)
        return value.rstrip("/").removesuffix("/v1")  # section 1

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config | None:
        """None when the base URL is not set. Raises pydantic's ValidationError."""
        base_url = value_of(env, "LLAMASWAP_BASE_URL")
        if base_url is None:
            return None
        given = {
            "api_key": value_of(env, "LLAMASWAP_API_KEY"),
            "models": read_models(value_of(env, "LLAMASWAP_MODELS") or ""),
            "prompt_model": value_of(env, "LLAMASWAP_PROMPT_MODEL"),
            "extra_args": value_of(env, "LLAMASWAP_EXTRA_ARGS"),
            "run_async": value_of(env, "LLAMASWAP_ASYNC"),
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        return cls.model_validate({"base_url": base_url, **chosen})

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key.get_secret_value()}"} if self.api_key else {}

    def name_of(self, order: UpstreamOrder) -> str:
        """What the order's model is called on this llama-swap."""
        return self.called(order.model)

    def called(self, model: Model) -> str:
        """What a model of the catalogue is called on this llama-swap."""
        return self.models.get(model.id) or self.models.get(ANY_MODEL) or model.path


def read_models(text: str) -> dict[str, str]:
    """``sdxl, llamaswap-z-image=z-image-turbo``: a name for every model, and one for that model."""
    pairs = (part.rpartition("=") for part in text.split(",") if part.strip())
    return {model.strip() or ANY_MODEL: name.strip() for model, _, name in pairs}


# ---------------------------------------------------------------- requests


def build_submit(order: UpstreamOrder, config: Config, *, dedupe_key: str) -> WireRequest:
    """The one request that makes the images, by the route of the model or as a job.

    The OpenAI route and jobs do not return the seed, and the route's default is always 42: where the caller
    set none, the call gets its own (sections 3 and 5).
    Raises: RequestRefused.
    """
    order = _guarded(order)
    if config.run_async:
        return _job(seeded(order, dedupe_key), config)
    if path_of(order).startswith("/sdapi/"):
        return _web_ui(order, config)
    return _open_ai(seeded(order, dedupe_key), config)


def seeded(order: UpstreamOrder, dedupe_key: str) -> UpstreamOrder:
    """The order with a seed: the caller's, or one that depends only on the call's key."""
    return replace(order, params={**order.params, "seed": seed_of(order, dedupe_key)})


def seed_of(order: UpstreamOrder, dedupe_key: str) -> int:
    """The seed of a call where the server's default would repeat the image; each image is shown with its own."""
    asked = int(order.params.get("seed", -1))
    digest = hashlib.sha256(dedupe_key.encode()).digest()
    return asked if asked >= 0 else int.from_bytes(digest[:4]) & MAX_SEED


def _guarded(order: UpstreamOrder) -> UpstreamOrder:
    """The order without tags in any text of the caller. Raises: RequestRefused for fields that Darkroom sets."""
    prompt = without_tags(order.prompt or "")
    if not prompt:
        raise RequestRefused("upstream_rejected", "nothing is left of the prompt")
    order = replace(order, prompt=prompt, params=scrubbed(order.params), extra=scrubbed(order.extra))
    refuse_extra(extra_fields(order), _OURS)
    return order


def _options(order: UpstreamOrder) -> dict[str, Any]:
    """The caller's settings as keys of the tag; ``extra`` may contain more."""
    own = nested({key: order.params[name] for name, key in _KEYS.items() if name in order.params})
    return {**order.extra, **own}


def _open_ai(order: UpstreamOrder, config: Config) -> WireRequest:
    """Generations as JSON, anything with an image as a form (section 3).

    sd-server reads settings only from the tag; other wrappers read plain fields, which sd-server ignores.
    """
    fields = {**wire_fields(order), "model": config.name_of(order)}
    fields.pop(wire_name(order, "strength"), None)  # has no plain field
    if config.extra_args == "embed":
        for name in (*order.extra, *(wire_name(order, name) for name in _KEYS)):
            fields.pop(name, None)
    if config.extra_args != "top_level":
        fields["prompt"] = with_tag(order.prompt or "", _options(order))
    if not order.images:
        return WireRequest("POST", path_of(order), json=fields)
    if fields.get("output_format") == "webp":
        raise RequestRefused("upstream_rejected", "edits are PNG or JPEG")
    return WireRequest("POST", path_of(order), form=form_fields(fields), files=image_parts(order.images, order.mask))


def _web_ui(order: UpstreamOrder, config: Config) -> WireRequest:
    """Plain fields and bare base64 (section 4). Only the first of ``init_images`` is read."""
    fields = {**wire_fields(order), "model": config.name_of(order)}
    sources = [bare_base64(image) for image in order.images]
    if sources:
        fields["init_images"] = sources[:1]
    if sources[1:]:
        fields["extra_images"] = sources[1:]
    if order.mask is not None:
        fields["mask"] = bare_base64(order.mask)
    return WireRequest("POST", path_of(order), json=fields)


def _job(order: UpstreamOrder, config: Config) -> WireRequest:
    """The keys of the tag at the top level, and the images (section 5)."""
    fields = {**_options(order), "prompt": order.prompt, **_width_and_height(order)}
    fields |= {name: order.params[name] for name in ("output_format", "output_compression") if name in order.params}
    if order.n > 1:
        fields["batch_count"] = order.n
    sources = [bare_base64(image) for image in order.images]
    # As on the synchronous routes: on OpenAI's the first image is a reference too.
    references = sources[1:] if path_of(order).startswith("/sdapi/") else sources
    if sources:
        fields["init_image"] = sources[0]
    if references:
        fields["ref_images"] = references
    if order.mask is not None:
        fields["mask_image"] = bare_base64(order.mask)
    return WireRequest("POST", f"/upstream/{quote(config.name_of(order))}{answers.JOB_ROUTES}/img_gen", json=fields)


def _width_and_height(order: UpstreamOrder) -> dict[str, int]:
    if "size" not in order.size:
        return {name: int(order.size[name]) for name in ("width", "height") if name in order.size}
    width, _, height = str(order.size["size"]).partition("x")
    return {"width": int(width), "height": int(height)}


# ---------------------------------------------------------------- the provider


class LlamaSwap(UpstreamAccount[Config], OneAnswer):
    """One llama-swap. Implements :class:`providers.base.Provider`; thread-safe."""

    name = NAME
    config_type = Config
    submit_timeout_s = CALL_TOTAL_S

    def hosted_name(self, model: Model) -> str:
        """What a model of the catalogue is called on this llama-swap."""
        return self._config.called(model)

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:
        """Make the images; blocks until they are there, or until the job is accepted. Raises: ProviderError."""
        request = build_submit(order, self._config, dedupe_key=dedupe_key)
        answer = self._send(request, CALL_TOTAL_S, order.n)
        if not 200 <= answer.status < 300:
            raise classify(answer)
        if self._config.run_async:
            return answers.read_accepted(answer.body, request.path, answers.Seeds(seed_of(order, dedupe_key), order.n))
        if request.path.startswith("/sdapi/"):
            return answers.read_web_ui(answer.body, order.n)
        return answers.read_open_ai(answer.body, self.base_url, order.n, seed_of(order, dedupe_key))

    def check(self, call: CallRef) -> Finished | Running | Missing:
        """Look once at a job. Its images are bytes, and links that :meth:`download` reads with the key.

        Raises: ProviderError.
        """
        if call.poll_url is None:
            return super().check(call)
        path, seeds = answers.split_poll_url(call.poll_url)
        answer = self._send(WireRequest("GET", path), CHECK_TOTAL_S)
        return answers.read_look(answer, f"{self.base_url}{path}", seeds)

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        return check_each(self.check, calls)  # section 5: no look at many

    def cancel(self, call: CallRef) -> UpstreamCancel:
        """Stop a waiting job; neither a running one nor a synchronous call can be stopped. Raises: ProviderError."""
        if call.poll_url is None:
            return UpstreamCancel.UNSUPPORTED
        path, _ = answers.split_poll_url(call.poll_url)
        return answers.read_cancel(self._send(WireRequest("POST", f"{path}/cancel"), CHECK_TOTAL_S))

    def download(self, url: str) -> bytes:
        """The bytes of an image of a job, read with the key, or of any other link, without it.

        Raises: NotRun when another try may succeed; Failed for a result that is gone.
        """
        path, _, number = url.removeprefix(self.base_url).partition("#")
        if not url.startswith(f"{self.base_url}/upstream/") or not number.isdecimal():
            return results.download(url, self._links)
        try:
            answer = self._send(WireRequest("GET", path), results.TOTAL_S)
        except Uncertain as error:
            raise answers.unreachable(error) from error
        return answers.read_image(answer, int(number))

    def stream_text(self, messages: Sequence[Mapping[str, str]], *, temperature: float) -> Iterator[str]:
        if self._config.prompt_model is None:
            raise Misconfigured("upstream_has_no_text", "LLAMASWAP_PROMPT_MODEL is not set")
        return stream_chat(self._session, "/v1/chat/completions", self._config.prompt_model, messages, temperature)

    def _send(self, request: WireRequest, total_s: float, image_count: int = 8) -> HttpResponse:
        max_bytes = MAX_ENVELOPE_BYTES + image_count * MAX_BYTES_PER_IMAGE
        return self._paid.send(request, total_s=total_s, max_bytes=max_bytes)
