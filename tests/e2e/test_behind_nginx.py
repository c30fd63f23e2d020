"""Clients behind a proxy that gives up a silent answer after 2 s, waiting for images that take longer.

The service's first white space goes out after 1 s here (conftest.py), as after 15 s before a proxy of 20 s. The
clients for JavaScript and LiteLLM go through nginx in test_real_clients.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
import requests
from openai import OpenAI

from tests.e2e.conftest import Service
from tests.e2e.nginx import nginx_in_front_of

READ_TIMEOUT_S = 2
SLOW_S = "5"


@pytest.fixture(scope="module", params=["1.1", "1.0"])
def proxy(request: pytest.FixtureRequest, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """By each version of HTTP that nginx speaks to what is behind it; 1.0, its default, knows no chunks."""
    folder = tmp_path_factory.mktemp("nginx") / "nginx"
    upstream = service.running.url
    with nginx_in_front_of(upstream, folder, read_timeout_s=READ_TIMEOUT_S, version=request.param) as address:
        yield address


def _key(service: Service) -> str:
    return service.running.admin_key_path.read_text().strip()


def test_a_silent_answer_is_given_up(service: Service, proxy: str) -> None:
    """The proxy is as impatient as the other tests take it to be."""
    answer = requests.post(
        f"{proxy}/api/images/generate",
        json={"prompt": f"a fox nobody hears of [sandbox:latency={SLOW_S}]"},
        headers={"Authorization": f"Bearer {_key(service)}", "Prefer": "wait=20"},
        timeout=60,
    )
    assert answer.status_code == 504


def test_openai_for_python_lives_through_it(service: Service, proxy: str) -> None:
    client = OpenAI(base_url=f"{proxy}/v1", api_key=_key(service), max_retries=1)
    assert client.images.generate(prompt=f"a slow fox behind nginx [sandbox:latency={SLOW_S}]").data
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt=f"a slow hare behind nginx [sandbox:latency={SLOW_S},fail=moderation]")
    assert refused.value.code == "moderation_blocked"
