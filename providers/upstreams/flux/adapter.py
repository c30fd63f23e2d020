"""Black Forest Labs: FLUX.1 (pro 1.1, ultra, Kontext, fill, expand), FLUX.2 and FLUX.3 image models.

Recovery "never" (section 4): the API knows no idempotency key, no list of tasks and no search, so
a submit whose answer was lost cannot be found again, and nothing is sent twice. One task is one
image; a task cannot be cancelled.

Source: providers/upstreams/flux/CONTRACT.md (vendor's OpenAPI document of April 2026 and later sources,
read 2026-11-20); sections are named where used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import SecretStr, field_validator

from core.outbound.urls import origin_of
from providers.base import Accepted, CallRef, CheckResult, Finished, Missing, Running, UpstreamOrder
from providers.configured import value_of
from providers.errors import Uncertain
from providers.http.client import Outgoing, WireRequest
from providers.shared.account import AccountConfig, UpstreamAccount
from providers.shared.encoding import bare_base64
from providers.shared.extra import refuse_extra
from providers.shared.looks import check_each
from providers.shared.order_fields import path_of, reference_fields, wire_fields
from providers.shared.reading import json_object
from providers.shared.unsupported import Unsearchable, WithoutText
from providers.upstreams.flux.answers import classify, cost_in, read_task
from providers.upstreams.flux.hosts import FluxHosts, poll_url_of

NAME: Final = "flux"
DEFAULT_BASE_URL: Final = "https://api.bfl.ai"  # api.eu.bfl.ai and api.us.bfl.ai stay in their region

SUBMIT_TOTAL_S = 60.0  # the task is stored and answered at once; sending up to ten images takes time
CHECK_TOTAL_S = 15.0
MAX_SUBMIT_ANSWER_BYTES = 1024 * 1024
MAX_CHECK_ANSWER_BYTES = 8 * 1024 * 1024  # ``preview`` may contain an image
# A task may be unknown for a while after its submit (section 3); after that "not found" is true.
UNSEEN_FOR_S = 30.0

# Fields that decide the price, besides the catalogue's: further images, and the account's finetunes (section 6).
_DECIDING = frozenset(
    {"image_prompt", "input_image_blob_path", "control_image", "preprocessed_image", "finetune_id", "num_images"}
    | {"input_image", *(f"input_image_{number}" for number in range(2, 11))}
)
_WITHOUT_WEBHOOK = "/v1/flux-3"  # section 5; strict about unknown fields


class Config(AccountConfig):
    """One account. ``webhooks``: send the callback URL, where an order has one, instead of only polling."""

    api_key: SecretStr
    base_url: str = DEFAULT_BASE_URL
    webhooks: bool = False

    @field_validator("base_url")
    @classmethod
    def _is_absolute(cls, value: str) -> str:
        origin_of(value)
        return value.rstrip("/").removesuffix("/v1")  # the catalogue's paths begin with it

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config | None:
        """None when the key is not set. Raises pydantic's ValidationError."""
        api_key = value_of(env, "BFL_API_KEY") or value_of(env, "BLACK_FOREST_LABS_API_KEY")
        if api_key is None:
            return None
        return cls.model_validate(
            {
                "api_key": SecretStr(api_key),
                "base_url": value_of(env, "BFL_API_BASE") or DEFAULT_BASE_URL,
                "webhooks": value_of(env, "BFL_WEBHOOKS") or False,
            }
        )

    def headers(self) -> dict[str, str]:
        return {"x-key": self.api_key.get_secret_value()}  # no Bearer (section 1)


def build_submit(order: UpstreamOrder, *, webhooks: bool = False) -> WireRequest:
    """One task, one image: always JSON, images as bare base64 (sections 1 and 6).

    Raises: RequestRefused for a field in ``extra`` that would change what is bought.
    """
    refuse_extra(order.extra, _DECIDING)
    path = path_of(order)
    # FLUX.3 refuses a ``data:`` prefix and other models are untested, so none is sent (section 6).
    body = wire_fields(order) | reference_fields(order, bare_base64)
    # Without a secret: how it is returned is not documented, and the token in our URL is the proof (section 5).
    if webhooks and order.callback_url is not None and not path.startswith(_WITHOUT_WEBHOOK):
        body["webhook_url"] = order.callback_url
    return WireRequest("POST", path, json=body)


def read_accepted(body: bytes) -> Accepted:
    """The task in the answer to a submit (section 2); the poll URL is missing where a webhook was given.

    The price may be null, where it depends on the result; then the result has it.

    Raises: Uncertain when the answer names no task.
    """
    document = json_object(body) or {}
    task_id = document.get("id")
    if not isinstance(task_id, str) or not task_id.strip():
        raise Uncertain("upstream_broken_answer", "no task in the answer")
    return Accepted(task_id, poll_url_of(document.get("polling_url"), task_id), cost_in(document))


class Flux(UpstreamAccount[Config], Unsearchable, WithoutText):
    """One account. Implements :class:`providers.base.Provider`; thread-safe."""

    name = NAME
    config_type = Config
    submit_timeout_s = SUBMIT_TOTAL_S

    def __init__(self, config: Config, outgoing: Outgoing | None = None, *, label: str = "default") -> None:
        outgoing = outgoing or Outgoing()
        super().__init__(config, outgoing, label=label)
        self._hosts = FluxHosts(self.base_url, config.headers(), self._links, outgoing)

    def submit(self, order: UpstreamOrder, *, dedupe_key: str) -> Finished | Accepted:  # noqa: ARG002  # no idempotency
        """Store the task; the answer comes at once. Raises: ProviderError."""
        request = build_submit(order, webhooks=self._config.webhooks)
        answer = self._paid.send(request, total_s=SUBMIT_TOTAL_S, max_bytes=MAX_SUBMIT_ANSWER_BYTES)
        if not 200 <= answer.status < 300:
            raise classify(answer)
        return read_accepted(answer.body)

    def check(self, call: CallRef) -> Finished | Running | Missing:
        """Look once. A call without an id was never answered and cannot be found. Raises: ProviderError."""
        if call.upstream_id is None:
            raise Uncertain("upstream_cannot_look", "no task id, and the API neither lists nor searches")
        answer = self._hosts.look(call, total_s=CHECK_TOTAL_S, max_bytes=MAX_CHECK_ANSWER_BYTES)
        found = read_task(answer, call.upstream_id)
        return _not_found(call) if isinstance(found, Missing) else found

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        """One by one, host by host: a cluster that is away must not prevent looks at the others."""
        by_host: dict[object, list[CallRef]] = defaultdict(list)
        for call in calls:
            by_host[self._hosts.origin_for(call)].append(call)
        found: dict[str, CheckResult] = {}
        for group in by_host.values():
            found |= check_each(self.check, group)
        return found


def _not_found(call: CallRef) -> Running | Missing:
    """What "Task not found" means for this call (section 3). Raises: Uncertain.

    Just after the submit it means "not visible yet". Without a poll URL the base URL led to any one of the
    clusters, and another one may have the task (section 2).
    """
    if call.poll_url is None:
        raise Uncertain("upstream_cannot_look", "not found here, but another cluster may have the task")
    return Missing() if call.is_older_than(UNSEEN_FOR_S) else Running(step="Task not found")
