"""A look at a full batch of tasks is one long URL, and must be sent."""

from __future__ import annotations

from core.ids import new_id
from core.outbound.urls import MAX_URL_CHARS, origin_of
from providers.base import CallRef
from providers.upstreams.chatgpt2api.requests import MAX_IDS_PER_CHECK, batches, build_check

BASE = "http://127.0.0.1:9"


def test_a_look_at_a_full_batch_keeps_to_the_base_urls_origin() -> None:
    keys = [f"dr-{new_id('call').removeprefix('call_').lower()}" for _ in range(MAX_IDS_PER_CHECK)]
    calls = [CallRef(id=key, dedupe_key=key, model="m", upstream_id=None, poll_url=None) for key in keys]
    [batch] = batches(calls)
    url = BASE + build_check([call.dedupe_key for call in batch]).path

    assert len(url) > MAX_URL_CHARS
    assert origin_of(url) == origin_of(BASE)
