"""Which id a model of the Hub has at a routed provider, for models whose catalogue entry does not say.

Source: providers/upstreams/huggingface/CONTRACT.md (section 1: the mapping; section 3: look it up and
cache it for minutes).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

from providers.errors import NotRun, ProviderError, UnknownModel
from providers.http.client import HttpResponse, UpstreamSession, WireRequest
from providers.shared.reading import json_object
from providers.upstreams.huggingface.answers import wait_of

KEPT_S = 600.0
LOOKUP_TOTAL_S = 15.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024
# It becomes part of a path: words separated by slashes, none of which is "." or "..".
_PROVIDER_ID: Final = re.compile(r"(?!\.{1,2}(/|$))[\w.:-]+(/(?!\.{1,2}(/|$))[\w.:-]+)*")


class ProviderIds:
    """Ids by Hub model, provider and task, from the Hub, each requested at most once in ten minutes.

    ``hub`` has no credential: the mapping is public, and the token goes only to the router. Thread-safe:
    two threads at once cost one request too many, no more.
    """

    def __init__(self, hub: UpstreamSession, clock: Callable[[], float] = monotonic) -> None:
        self._hub = hub
        self._clock = clock
        self._kept: dict[str, tuple[float, Mapping[str, Any]]] = {}

    def find(self, hub_id: str, provider: str, task: str) -> str:
        """The provider's own id of the model. The request buys nothing.

        Raises: NotRun when the Hub cannot be asked; UnknownModel when it names no such route.
        """
        try:
            return read_provider_id(self._mapping_of(hub_id), hub_id, provider, task)
        except UnknownModel:
            self._kept.pop(hub_id, None)  # so that a corrected route works at once
            raise

    def _mapping_of(self, hub_id: str) -> Mapping[str, Any]:
        asked_at, known = self._kept.get(hub_id, (-KEPT_S, {}))
        if self._clock() - asked_at < KEPT_S:
            return known
        try:
            found = read_mapping(self._ask(hub_id), hub_id)
        except NotRun:
            if not known:
                raise
            return known  # outdated, but the Hub is away
        self._kept[hub_id] = (self._clock(), found)
        return found

    def _ask(self, hub_id: str) -> HttpResponse:
        path = f"/api/models/{quote(hub_id)}?expand[]=inferenceProviderMapping"
        try:
            return self._hub.send(WireRequest("GET", path), total_s=LOOKUP_TOTAL_S, max_bytes=MAX_ANSWER_BYTES)
        except ProviderError as error:
            raise NotRun("upstream_unreachable", f"the Hub: {error.code} {error.detail}") from error


def read_mapping(answer: HttpResponse, hub_id: str) -> Mapping[str, Any]:
    """The mapping in the Hub's answer, keyed by provider. Raises: NotRun, UnknownModel."""
    body = json_object(answer.body)
    found = (body or {}).get("inferenceProviderMapping")
    if answer.status == 200 and isinstance(found, dict):
        return found
    if body is not None and answer.status in {200, 401, 404}:  # 401: private, or it does not exist
        raise UnknownModel("upstream_model_unknown", f"no provider mapping of {hub_id}, HTTP {answer.status}")
    wait_s = wait_of(answer.headers)
    raise NotRun("upstream_unreachable", f"the Hub: HTTP {answer.status}", retry_after_s=wait_s)


def read_provider_id(mapping: Mapping[str, Any], hub_id: str, provider: str, task: str) -> str:
    """The id in a mapping. Raises: UnknownModel; a mapping for another task counts as none (section 1)."""
    entry = mapping.get(provider)
    found = entry.get("providerId") if isinstance(entry, dict) and entry.get("task") == task else None
    if not isinstance(found, str) or not _PROVIDER_ID.fullmatch(found):
        raise UnknownModel("upstream_model_unknown", f"{provider} has no {task} for {hub_id}")
    return found
