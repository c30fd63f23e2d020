"""Hugging Face Inference Providers: one router, and behind it the wire format of each provider.

``hf_provider`` in the catalogue selects the route of a model. hf-inference and nscale answer with the image;
fal-ai (by its queue) and WaveSpeed answer with a task, which is looked up through the router.

Recovery "never": the router has no idempotency keys, no webhooks and no list of calls (section 4), so a lost
answer may be a paid image, and nothing is ever sent again after :class:`Uncertain`.

Source: providers/upstreams/huggingface/CONTRACT.md (package huggingface_hub 2.4.0, read 2026-11-20); sections are named
where used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from pydantic import SecretStr, field_validator

from core.outbound.urls import origin_of
from providers.base import Accepted, CallRef, CheckResult, Finished, Missing, Running, UpstreamOrder
from providers.configured import value_of
from providers.errors import Misconfigured, ProviderError, Uncertain
from providers.http.client import HttpResponse, Outgoing, UpstreamSession, WireRequest
from providers.shared import wavespeed_tasks
from providers.shared.account import AccountConfig, UpstreamAccount
from providers.shared.encoding import data_uri
from providers.shared.extra import refuse_extra
from providers.shared.looks import check_each, failed_look
from providers.shared.order_fields import placed_images, wire_fields
from providers.shared.unsupported import OneAnswer, WithoutText
from providers.upstreams.huggingface import answers
from providers.upstreams.huggingface.mapping import ProviderIds

NAME: Final = "huggingface"
DEFAULT_BASE_URL: Final = "https://router.huggingface.co"
DEFAULT_HUB_URL: Final = "https://huggingface.co"
TASKS: Final = MappingProxyType({"generate": "text-to-image", "edit": "image-to-image"})
QUEUE: Final = "?_subdomain=queue"

CALL_TOTAL_S = 300.0  # hf-inference and nscale answer with the image
CHECK_TOTAL_S = 30.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_CHECK_ANSWER_BYTES = 4 * 1024 * 1024

# Fields that decide how many images are made or how they are returned, or that would break a route's request.
_OURS: Final = frozenset(
    {
        "enable_base64_output", "enable_sync_mode", "height", "inputs", "num_images", "num_outputs", "options",
        "parameters", "sync_mode", "target_size", "width",
    }
)  # fmt: skip


class Config(AccountConfig):
    """One token, and where to send it. ``bill_to``: an organisation or resource group (section 1)."""

    token: SecretStr
    base_url: str = DEFAULT_BASE_URL
    hub_url: str = DEFAULT_HUB_URL
    bill_to: str | None = None

    @field_validator("hub_url")
    @classmethod
    def _hub_is_absolute(cls, value: str) -> str:
        origin_of(value)
        return value.rstrip("/")

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config | None:
        """None when the token is not set. Raises pydantic's ValidationError."""
        token = value_of(env, "HF_TOKEN")
        if token is None:
            return None
        return cls(
            token=SecretStr(token),
            base_url=value_of(env, "HF_ROUTER_BASE_URL") or DEFAULT_BASE_URL,
            hub_url=value_of(env, "HF_ENDPOINT") or DEFAULT_HUB_URL,
            bill_to=value_of(env, "HF_BILL_TO"),
        )

    def headers(self) -> dict[str, str]:
        payer = {"X-HF-Bill-To": self.bill_to} if self.bill_to else {}
        return {"Authorization": f"Bearer {self.token.get_secret_value()}", **payer}


# ---------------------------------------------------------------- routes


def _hf_inference(order: UpstreamOrder, model: str) -> WireRequest:
    """Settings apart from the prompt, and the image's format by ``Accept`` (section 3)."""
    settings = wire_fields(order)
    body = {"inputs": settings.pop("prompt")}
    if settings:
        body["parameters"] = settings
    return WireRequest("POST", f"/hf-inference/models/{quote(model)}", json=body, headers={"Accept": "image/png"})


def _fal(order: UpstreamOrder, model: str) -> WireRequest:
    """By the queue for every task: a submit is short, and the task survives a worker. An image has two names
    (section 4).
    """
    sources = [data_uri(image) for placed in placed_images(order) for image in placed.images]
    placed = {"image_url": sources[0], "image_urls": sources} if sources else {}
    return WireRequest("POST", f"/fal-ai/{quote(model)}{QUEUE}", json={**wire_fields(order), **placed})


def _nscale(order: UpstreamOrder, model: str) -> WireRequest:
    body = {**wire_fields(order), "model": model, "response_format": "b64_json"}
    return WireRequest("POST", "/nscale/v1/images/generations", json=body)


def _wavespeed(order: UpstreamOrder, model: str) -> WireRequest:
    """The image under ``image``, with its true type (section 4)."""
    sources = {placed.field: data_uri(placed.images[0]) for placed in placed_images(order)}
    return WireRequest("POST", f"/wavespeed/api/v3/{quote(model)}", json={**wire_fields(order), **sources})


def _read_wavespeed(answer: HttpResponse, base_url: str) -> Finished | Accepted:
    task = wavespeed_tasks.read_data(answer)
    if not isinstance(task, dict):
        raise Uncertain("upstream_broken_answer", "no task")
    state = wavespeed_tasks.read_prediction(task, base_url)
    return state if isinstance(state, Finished) else answers.read_wavespeed_task(task)


@dataclass(frozen=True, slots=True)
class Route:
    """How one routed provider is called: its request, and how its 2xx is read."""

    build: Callable[[UpstreamOrder, str], WireRequest]
    read: Callable[[HttpResponse, str], Finished | Accepted]


ROUTES: Final[Mapping[str, Route]] = MappingProxyType(
    {
        "hf-inference": Route(_hf_inference, answers.read_raw),
        "fal-ai": Route(_fal, lambda answer, _base_url: answers.read_fal_task(answer)),
        "nscale": Route(_nscale, answers.read_listed),
        "wavespeed": Route(_wavespeed, _read_wavespeed),
    }
)


def route_of(order: UpstreamOrder) -> Route:
    """The route of the order's model. Raises: Misconfigured where the catalogue names no known route."""
    route = ROUTES.get(order.model.hf_provider or "")
    if route is None:
        raise Misconfigured("upstream_misconfigured", f"no route for hf_provider {order.model.hf_provider}")
    return route


def build_submit(order: UpstreamOrder, provider_model: str) -> WireRequest:
    """The one paid request; ``provider_model`` is the routed provider's id of the model (section 2).

    Raises: RequestRefused, Misconfigured.
    """
    refuse_extra(order.extra, _OURS)
    return route_of(order).build(order, provider_model)


# ---------------------------------------------------------------- the provider


class HuggingFace(UpstreamAccount[Config], OneAnswer, WithoutText):
    """One token. Implements :class:`providers.base.Provider`; thread-safe."""

    name = NAME
    config_type = Config
    submit_timeout_s = CALL_TOTAL_S

    def __init__(self, config: Config, outgoing: Outgoing | None = None, *, label: str = "default") -> None:
        outgoing = outgoing or Outgoing()
        super().__init__(config, outgoing, label=label)
        self._hub = UpstreamSession(config.hub_url, {}, outgoing)
        self._ids = ProviderIds(self._hub)

    def ask(self, request: WireRequest, *, total_s: float, max_bytes: int) -> HttpResponse:
        """As the base class has it, of the Hub and without the token: it knows what the router serves."""
        return self._hub.send(request, total_s=total_s, max_bytes=max_bytes)

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:  # noqa: ARG002  # no idempotency
        """Make the image, or start the task that does. Raises: ProviderError."""
        request = build_submit(order, self._provider_model(order))
        answer = self._paid.send(request, total_s=CALL_TOTAL_S, max_bytes=MAX_ANSWER_BYTES)
        if not 200 <= answer.status < 300:
            raise answers.classify(answer)
        return route_of(order).read(answer, self.base_url)

    def _provider_model(self, order: UpstreamOrder) -> str:
        """The provider's id of the model: the catalogue's, else the Hub's, which changes with every provider."""
        model = order.model
        if model.provider_model is not None:
            return model.provider_model
        return self._ids.find(model.path, model.hf_provider or "", TASKS[order.operation])

    def check(self, call: CallRef) -> Finished | Running | Missing:
        """Look once at a task; in fal's queue with a second request, once it is over. Raises: ProviderError.

        Never ``Missing``: no source says how the router answers for a task that it does not know.
        """
        if call.poll_url is None:
            return super().check(call)
        if call.poll_url.startswith("/wavespeed/"):
            return self._look_at_wavespeed(call)
        waiting = answers.read_fal_status(self._look(f"{call.poll_url}/status{QUEUE}"))
        return waiting or answers.read_fal_result(self._look(f"{call.poll_url}{QUEUE}"), self.base_url)

    def _look_at_wavespeed(self, call: CallRef) -> Finished | Running:
        answer = self._look(call.poll_url or "")
        if not 200 <= answer.status < 300:
            raise failed_look(answers.classify(answer))
        try:
            task = wavespeed_tasks.read_data(answer)
        except ProviderError as error:
            raise failed_look(error) from error
        if not isinstance(task, dict) or task.get("id") != call.upstream_id:
            raise Uncertain("upstream_broken_answer", "not the task that was asked for")
        return wavespeed_tasks.read_prediction(task, self.base_url)

    def _look(self, path: str) -> HttpResponse:
        request = WireRequest("GET", path)
        return self._session.send(request, total_s=CHECK_TOTAL_S, max_bytes=MAX_CHECK_ANSWER_BYTES)

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        return check_each(self.check, calls)  # section 4: no look at many
