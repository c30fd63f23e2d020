"""OpenAI: requests, and what one synchronous answer means, over real HTTP."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from providers.base import CallRef, Finished, InputImage, UpstreamCancel, UpstreamOrder
from providers.catalog import catalog
from providers.errors import (
    ContentRefused,
    Failed,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
)
from providers.http.client import WireRequest
from providers.upstreams.openai.adapter import Config, OpenAi, build_submit

PNG = InputImage(b"png bytes", "image/png", 8, 8)
WEBP = InputImage(b"webp bytes", "image/webp", 8, 8)
IMAGE = {"b64_json": base64.b64encode(b"image").decode()}
MESSAGES = [{"role": "user", "content": "a kite"}]


MODEL = catalog.load().models["gpt-image-2"]


def order(**facts: Any) -> UpstreamOrder:
    return UpstreamOrder(**{"operation": "generate", "model": MODEL, "prompt": "a red kite", **facts})


# ---------------------------------------------------------------- configuration


def test_blank_variables_count_as_unset() -> None:
    config = Config.from_env({"OPENAI_API_KEY": " sk-secret ", "OPENAI_BASE_URL": " ", "OPENAI_ORG_ID": ""})
    assert config is not None
    assert config.base_url == "https://api.openai.com/v1"
    assert config.headers() == {"Authorization": "Bearer sk-secret"}
    assert "sk-secret" not in repr(config)
    assert Config.from_env({"OPENAI_API_KEY": "  "}) is None


def test_organization_and_project_become_headers() -> None:
    config = Config(api_key=SecretStr("k"), organization="org-1", project="proj-1")
    assert config.headers()["OpenAI-Organization"] == "org-1"
    assert config.headers()["OpenAI-Project"] == "proj-1"


# ---------------------------------------------------------------- requests


def test_what_the_caller_left_out_is_left_out() -> None:
    assert build_submit(order()) == WireRequest(
        "POST", "/images/generations", json={"model": "gpt-image-2", "prompt": "a red kite"}
    )


def test_what_the_caller_set_is_sent() -> None:
    asked = order(n=3, size={"size": "1536x1024"}, params={"quality": "high", "moderation": "low"})
    assert build_submit(asked).json == {
        "model": "gpt-image-2",
        "prompt": "a red kite",
        "n": 3,
        "size": "1536x1024",
        "quality": "high",
        "moderation": "low",
    }


def test_the_number_of_images_is_that_of_the_call_not_of_the_job() -> None:
    request = build_submit(order(n=1, params={"n": 4}))
    assert request.json is not None
    assert "n" not in request.json


def test_one_image_is_called_image_and_several_image_brackets() -> None:
    one = build_submit(order(images=[PNG], mask=PNG))
    assert one.path == "/images/edits"
    assert [part.name for part in one.files] == ["image", "mask"]
    several = build_submit(order(images=[PNG, WEBP]))
    assert [(part.name, part.filename, part.mime) for part in several.files] == [
        ("image[]", "image-1.png", "image/png"),
        ("image[]", "image-2.webp", "image/webp"),
    ]


def test_form_fields_are_text_without_moderation() -> None:
    params = {"output_compression": 80, "moderation": "low"}
    request = build_submit(order(images=[PNG], n=2, params=params, extra={"flag": True}))
    assert request.json is None
    assert dict(request.form) == {
        "model": "gpt-image-2",
        "prompt": "a red kite",
        "n": "2",
        "output_compression": "80",
        "flag": "true",
    }


def test_a_mask_must_be_png() -> None:
    with pytest.raises(RequestRefused):
        build_submit(order(images=[PNG], mask=WEBP))


@pytest.mark.parametrize("name", ["n", "response_format", "stream", "model", "size", "quality"])
def test_extra_fields_cannot_change_what_is_bought_or_how_it_is_answered(name: str) -> None:
    assert build_submit(order(extra={"complexity": "low"})).json is not None
    with pytest.raises(RequestRefused):
        build_submit(order(extra={name: "x"}))


# ---------------------------------------------------------------- over HTTP


@dataclass
class Server:
    """Answers every request with the next prepared answer, and records the requests."""

    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)
    port: int = 0

    def will(self, status: int, answer: Any, **headers: str) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, named, data))

    def provider(self) -> OpenAi:
        return OpenAi(Config(api_key=SecretStr("sk-secret"), base_url=f"http://127.0.0.1:{self.port}/v1/"))


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # would keep connections

        def _answer(self) -> None:
            state.connections.add(self.client_address)
            length = int(self.headers.get("Content-Length") or 0)
            state.asked.append((self.path, dict(self.headers), self.rfile.read(length)))
            status, headers, data = state.answers.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.port = running.server_port
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        running.shutdown()


def test_images_come_as_bytes(server: Server) -> None:
    server.will(200, {"created": 1, "data": [IMAGE, IMAGE]})
    done = server.provider().submit(order(n=2), dedupe_key="key")
    assert isinstance(done, Finished)
    assert [image.data for image in done.images] == [b"image", b"image"]
    [(path, headers, _body)] = server.asked
    assert path == "/v1/images/generations"
    assert headers["Authorization"] == "Bearer sk-secret"


def test_a_paid_call_never_uses_a_connection_that_waits_to_be_closed(server: Server) -> None:
    for _ in range(3):
        server.will(200, {"data": [IMAGE]})
    provider = server.provider()
    for _ in range(3):
        provider.submit(order(), dedupe_key="key")
    assert len(server.connections) == 3


def test_fewer_images_are_accepted_and_more_are_not_kept(server: Server) -> None:
    server.will(200, {"data": [IMAGE, {"b64_json": "!"}, {}, None]})
    server.will(200, {"data": [IMAGE] * 4})
    for n, expected in ((3, 1), (2, 2)):
        done = server.provider().submit(order(n=n), dedupe_key="key")
        assert isinstance(done, Finished)
        assert len(done.images) == expected


def test_links_of_compatible_servers_are_taken(server: Server) -> None:
    server.will(200, {"data": [{"url": "/files/a.png", "revised_prompt": "kite"}]})
    server.will(200, b"png")
    provider = server.provider()
    done = provider.submit(order(), dedupe_key="key")
    assert isinstance(done, Finished)
    [image] = done.images
    assert image.url == f"http://127.0.0.1:{server.port}/files/a.png"
    assert provider.download(image.url) == b"png"
    assert "Authorization" not in server.asked[1][1]


@pytest.mark.parametrize("answer", [b"", b"<html>", b'{"data": [', {"data": []}, {"data": "x"}, {}, [1], b"[" * 10**5])
def test_a_200_without_an_image_is_uncertain(server: Server, answer: object) -> None:
    server.will(200, answer)
    with pytest.raises(Uncertain):
        server.provider().submit(order(), dedupe_key="key")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "answer", "error"),
    [
        (
            400,
            {"error": {"code": "moderation_blocked", "type": "image_generation_user_error"}},
            ContentRefused,
        ),
        (
            400,
            {"error": {"code": "unknown_parameter", "message": "Unknown parameter: 'seed'."}},
            RequestRefused,
        ),
        (429, {"error": {"type": "insufficient_quota"}}, OutOfCredit),
        (500, {"error": {"type": "server_error", "message": "The server had an error"}}, Failed),
        (500, b"<html>Internal Server Error</html>", Uncertain),
        (502, b"<html>Bad Gateway</html>", Uncertain),
    ],
)
def test_errors_say_what_to_do_next(server: Server, status: int, answer: object, error: type[ProviderError]) -> None:
    server.will(status, answer)
    with pytest.raises(error):
        server.provider().submit(order(), dedupe_key="key")
    assert len(server.asked) == 1


def test_a_rate_limit_says_how_long(server: Server) -> None:
    server.will(429, {"error": {"code": "rate_limit_exceeded"}}, retry_after="7")
    with pytest.raises(NotRun) as caught:
        server.provider().submit(order(), dedupe_key="key")
    assert caught.value.retry_after_s == 7


def test_a_synchronous_call_is_never_reported_missing(server: Server) -> None:
    provider = server.provider()
    call = CallRef("call-1", "key-1", "gpt-image-2")
    with pytest.raises(Uncertain):
        provider.check(call)
    assert isinstance(provider.check_many([call])["call-1"], Uncertain)
    assert provider.cancel(call) == UpstreamCancel.UNSUPPORTED
    assert provider.lookup(call, datetime.now(UTC), order()) == []
    assert server.asked == []


def test_a_model_that_refuses_a_temperature_is_asked_without(server: Server) -> None:
    server.will(400, {"error": {"param": "temperature", "message": "Unsupported value"}})
    server.will(200, b'data: {"choices":[{"delta":{"content":"kite"}}]}\n\ndata: [DONE]\n\n')
    assert list(server.provider().stream_text(MESSAGES, temperature=0.7)) == ["kite"]
    first, second = (json.loads(body) for _path, _headers, body in server.asked)
    assert first.pop("temperature") == 0.7
    assert first == second


def test_the_most_tokens_have_the_upstreams_name_and_are_left_out_where_it_refuses_them(server: Server) -> None:
    server.will(400, {"error": {"param": "max_completion_tokens", "message": "Unsupported parameter"}})
    server.will(400, {"error": {"param": "temperature", "message": "Unsupported value"}})
    server.will(200, b'data: {"choices":[{"delta":{"content":"kite"}}]}\n\ndata: [DONE]\n\n')
    assert list(server.provider().stream_text(MESSAGES, temperature=0.7, max_tokens=9)) == ["kite"]
    sent = [json.loads(body) for _path, _headers, body in server.asked]
    assert [(each.get("temperature"), each.get("max_completion_tokens")) for each in sent] == [
        (0.7, 9),
        (0.7, None),
        (None, None),
    ]


def test_other_refusals_of_chat_are_not_repeated(server: Server) -> None:
    server.will(400, {"error": {"param": "model", "message": "no"}})
    with pytest.raises(RequestRefused):
        server.provider().stream_text(MESSAGES, temperature=0.7)
    assert len(server.asked) == 1


def test_chat_without_a_stream_is_read(server: Server) -> None:
    answer = {"choices": [{"message": {"content": "A red kite"}}]}
    server.will(200, answer, Content_Type="application/json")
    assert list(server.provider().stream_text(MESSAGES, temperature=0.7)) == ["A red kite"]
