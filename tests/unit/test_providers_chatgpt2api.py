"""chatgpt2api: requests, what the answers mean, and a few calls over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from providers.base import Accepted, CallRef, Finished, InputImage, Missing, Running, UpstreamCancel, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.entries import Model, ParamSpec
from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    Misconfigured,
    NotRun,
    ProviderError,
    RequestRefused,
    Uncertain,
    UnknownModel,
)
from providers.http.client import WireRequest
from providers.upstreams.chatgpt2api.adapter import ChatGpt2Api, Config, task_api_root
from providers.upstreams.chatgpt2api.answers import at_own_address, read_task
from providers.upstreams.chatgpt2api.errors import classify_answer, classify_task_error
from providers.upstreams.chatgpt2api.requests import batches, build_check, build_submit

KEY = "4f0c1a5e-0000-4000-8000-000000000001"


MODEL = catalog.load().models["chatgpt2api-gpt-image-2"]


def model(path: str = "gpt-image-2", **params: str | None) -> Model:
    known = {name: ParamSpec(type="str", field=wire_name) for name, wire_name in params.items()}
    return MODEL.model_copy(update={"id": f"chatgpt2api-{path}", "path": path, "params": known})


def order(path: str = "gpt-image-2", **facts: Any) -> UpstreamOrder:
    return UpstreamOrder(**{"operation": "generate", "model": model(path), "prompt": "a red kite", **facts})


def call(number: int = 0, **facts: Any) -> CallRef:
    return CallRef(**{"id": f"call-{number}", "dedupe_key": f"key-{number}", "model": "m", **facts})


PNG = InputImage(b"png bytes", "image/png", 8, 8)
JPEG = InputImage(b"jpeg bytes", "image/jpeg", 8, 8)


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("base_url", "chat", "tasks"),
    [
        ("http://127.0.0.1:3200/v1", "http://127.0.0.1:3200/v1", "http://127.0.0.1:3200"),
        ("http://127.0.0.1:3200", "http://127.0.0.1:3200/v1", "http://127.0.0.1:3200"),
        (" http://h:3000/v1/// ", "http://h:3000/v1", "http://h:3000"),
        ("https://h/proxy/", "https://h/proxy/v1", "https://h/proxy"),
        ("https://h/v1/v1", "https://h/v1/v1", "https://h/v1"),
    ],
)
def test_both_roots_follow_from_one_base_url(base_url: str, chat: str, tasks: str) -> None:
    assert task_api_root(base_url) == tasks
    assert f"{task_api_root(base_url)}/v1" == chat  # so that one session serves both


def test_blank_variables_count_as_unset() -> None:
    env = {"CHATGPT2API_BASE_URL": "http://h", "CHATGPT2API_API_KEY": "k", "CHATGPT2API_PROMPT_MODEL": " "}
    config = Config.from_env(env)
    assert config is not None
    assert (config.image_model, config.prompt_model) == (None, "gpt-5.5")
    assert Config.from_env({**env, "CHATGPT2API_API_KEY": "  "}) is None
    assert Config.from_env({}) is None


@pytest.mark.parametrize("url", ["127.0.0.1:3000", "ftp://h", "http://user:hunter22@h/v1"])
def test_an_invalid_base_url_is_named_without_its_value(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        Config.from_env({"CHATGPT2API_BASE_URL": url, "CHATGPT2API_API_KEY": "topsecret"})
    assert "base_url" in str(caught.value)
    assert "topsecret" not in str(caught.value)
    assert "hunter22" not in str(caught.value)


# ---------------------------------------------------------------- requests


def test_what_the_caller_left_out_is_left_out() -> None:
    assert build_submit(order(), dedupe_key=KEY) == WireRequest(
        "POST",
        "/api/image-tasks/generations",
        json={"client_task_id": KEY, "prompt": "a red kite", "model": "gpt-image-2"},
    )


def test_size_and_quality_are_sent_as_hints() -> None:
    request = build_submit(order(size={"size": "16:9"}, params={"quality": "high"}), dedupe_key=KEY)
    assert request.json is not None
    assert (request.json["size"], request.json["quality"]) == ("16:9", "high")


@pytest.mark.parametrize(
    ("path", "size", "sent"),
    [
        ("gpt-image-2", {"width": 1536, "height": 864}, "1536x864"),
        ("gpt-image-2", {"aspect_ratio": "3:4"}, "3:4"),
        ("gpt-image-2", {"size": "auto"}, None),
        ("gpt-image-2", {}, None),
        ("plus-codex-gpt-image-2", {"size": "1024x1024"}, "1024x1024"),
        ("codex-gpt-image-2", {"aspect_ratio": "16:9"}, None),
    ],
)
def test_codex_models_take_only_pixels(path: str, size: dict[str, str | int], sent: str | None) -> None:
    request = build_submit(order(path, size=size), dedupe_key=KEY)
    assert request.json is not None
    assert request.json.get("size") == sent


def test_the_operators_model_replaces_the_default_one_only() -> None:
    for path, expected in {"gpt-image-2": "gpt-image-2.5", "codex-gpt-image-2": "codex-gpt-image-2"}.items():
        request = build_submit(order(path), dedupe_key=KEY, image_model="gpt-image-2.5")
        assert request.json is not None
        assert request.json["model"] == expected


def test_parameters_go_by_their_wire_names() -> None:
    renamed = UpstreamOrder("generate", model(quality="q"), "a kite", params={"quality": "high", "seed": 7})
    request = build_submit(renamed, dedupe_key=KEY)
    assert request.json is not None
    assert (request.json["q"], request.json["seed"]) == ("high", 7)


def test_an_edit_is_multipart_with_the_mask() -> None:
    request = build_submit(order(operation="edit", images=[PNG], mask=PNG), dedupe_key=KEY)
    assert (request.path, request.json) == ("/api/image-tasks/edits", None)
    assert ("client_task_id", KEY) in request.form
    assert [(part.name, part.filename, part.mime) for part in request.files] == [
        ("image", "image-1.png", "image/png"),
        ("mask", "mask.png", "image/png"),
    ]
    several = build_submit(order(operation="edit", images=[PNG, JPEG]), dedupe_key=KEY)
    assert [(part.name, part.filename) for part in several.files] == [
        ("image[]", "image-1.png"),
        ("image[]", "image-2.jpg"),
    ]


def test_extra_fields_pass_but_never_those_that_decide_what_is_bought() -> None:
    request = build_submit(order(extra={"history_disabled": True}), dedupe_key=KEY)
    assert request.json is not None
    assert request.json["history_disabled"] is True
    with pytest.raises(RequestRefused):
        build_submit(order(extra={"client_task_id": "other"}), dedupe_key=KEY)


@pytest.mark.parametrize("key", ["a,b", "a/b", "", "a b", "x" * 200])
def test_a_key_that_cannot_be_sent_is_a_programming_error(key: str) -> None:
    with pytest.raises(ValueError):
        build_submit(order(), dedupe_key=key)


def test_checks_are_batched_by_count_and_by_length() -> None:
    short = [call(number) for number in range(250)]
    assert [len(batch) for batch in batches(short)] == [100, 100, 50]
    long = [call(number, dedupe_key=f"{number:0>100}") for number in range(100)]
    sizes = [len(batch) for batch in batches(long)]
    assert sum(sizes) == 100
    assert max(sizes) < 40
    for batch in batches(long):
        assert len(build_check([found.dedupe_key for found in batch]).path) < 4000
    assert list(batches([])) == []


def test_a_look_without_ids_would_list_everything() -> None:
    with pytest.raises(ValueError):
        build_check([])


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("task", "state"),
    [
        ({"status": "queued"}, Running(step="queued")),
        ({"status": "running", "progress": "receiving_image"}, Running(step="receiving_image")),
        ({"status": "running", "progress": {"odd": 1}}, Running()),
        ({"status": "a word of tomorrow"}, Running(step="queued")),
        ({}, Running(step="queued")),
    ],
)
def test_a_task_in_progress(task: dict[str, Any], state: Running) -> None:
    assert read_task(task, "http://h") == state


@pytest.mark.parametrize("status", ["success", "completed"])
@pytest.mark.parametrize(
    ("link", "url"),
    [
        ("http://c2a.example:3000/images/a.png", "http://c2a.example:3000/images/a.png"),
        ("/images/a.png", "http://h:3000/images/a.png"),
        ("images/a.png", "http://h:3000/images/a.png"),
    ],
)
def test_a_finished_task_gives_absolute_links(status: str, link: str, url: str) -> None:
    done = read_task({"status": status, "data": [{"url": link, "revised_prompt": "kite"}]}, "http://h:3000")
    assert isinstance(done, Finished)
    assert [(image.url, image.revised_prompt) for image in done.images] == [(url, "kite")]


def test_bytes_win_over_the_link_and_odd_items_are_skipped() -> None:
    items = [{"b64_json": "aGk=", "url": "/a.png"}, {"b64_json": "!"}, None, {"url": " "}, {"url": 7}]
    done = read_task({"status": "success", "data": items}, "http://h")
    assert isinstance(done, Finished)
    assert [(image.data, image.url) for image in done.images] == [(b"hi", None)]


@pytest.mark.parametrize("data", [None, [], [{}], "a.png", [{"url": ""}]])
def test_success_without_an_image_may_be_tried_again(data: object) -> None:
    with pytest.raises(Failed) as caught:
        read_task({"status": "success", "data": data}, "http://h")
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("text", "error", "code", "retryable"),
    [
        ("ChatGPT 生图超时（已等待 120 秒）…账号被限流…", Failed, "upstream_timeout", True),
        ("no available image quota (tried 3 tokens)", Failed, "upstream_pool_empty", True),
        ("No available plus image quota", Failed, "upstream_pool_empty", True),
        ("no available codex image quota", Failed, "upstream_pool_empty", True),
        ("号池中没有可用账号", Failed, "upstream_pool_empty", True),
        ("no account in the pool", Failed, "upstream_pool_empty", True),
        ("服务已重启，未完成的图片任务已中断", Failed, "upstream_restarted", True),
        ("Upstream connection timed out", Failed, "upstream_failed", True),
        ("No image result found", Failed, "upstream_failed", True),
        ("Image generation failed", Failed, "upstream_failed", True),
        ("Image generation failed because I would rather not", Failed, "upstream_said_no", True),
        ("unsupported image model: gpt-image-9", UnknownModel, "upstream_model_unknown", None),
        ("/backend-api/f failed: status=429, body=<html>", Failed, "upstream_rate_limited", True),
        ("/backend-api/f failed: status=503, body=policy", Failed, "upstream_failed", True),
        ("/backend-api/f failed: status=401, body={}", Failed, "upstream_account_trouble", True),
        ("Request was rejected by upstream policy", ContentRefused, "content_refused", None),
        ("该请求违反了内容政策", ContentRefused, "content_refused", None),
        ("unsupported image model,supported models: codex-gpt-image-2", UnknownModel, "upstream_model_unknown", None),
        ("/backend-api/f failed: HTTP 502", Failed, "upstream_failed", True),
        ("token invalidated (/backend-api/me)", Failed, "upstream_account_trouble", True),
        ("Could you tell me which kite you mean?", Failed, "upstream_said_no", True),
        ("a fault of tomorrow", Failed, "upstream_said_no", True),
        ("", Failed, "upstream_failed", True),
    ],
)
def test_the_text_of_a_failed_task_decides_in_order(
    text: str, error: type[ProviderError], code: str, retryable: bool | None
) -> None:
    found = classify_task_error(text)
    assert (type(found), found.code, getattr(found, "retryable", None)) == (error, code, retryable)


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"Failed to perform, curl: ({code}) {words}. See the documentation for more details."
            for code, words in (
                (6, "Could not resolve host: chatgpt.com"),
                (7, "Failed to connect to chatgpt.com port 443"),
                (18, "end of response with 4096 bytes missing"),
                (52, "Empty reply from server"),
                (56, "Recv failure: Connection reset by peer"),
                (92, "HTTP/2 stream 1 was not closed cleanly: INTERNAL_ERROR (err 2)"),
            )
        ),
        "Image generation started upstream but the response was incomplete. Please try again.",
        "Image generation completed upstream but the result could not be retrieved. The image may still be processing.",
        "HTTPSConnectionPool(host='dav.example', port=443): Max retries exceeded with url: /policy/blocked",
        "[Errno 28] No space left on device: '/app/data/images/2026/a.png'",
        "'NoneType' object has no attribute 'get'",
        "cannot identify image file <_io.BytesIO object at 0x7f0000000000>",
        "I was unable to generate the image because something went wrong.",
    ],
)
def test_a_fault_of_the_gateway_itself_is_tried_again(text: str) -> None:
    found = classify_task_error(text)
    assert isinstance(found, Failed)
    assert (found.code, found.retryable, found.billed) == ("upstream_failed", True, False)


@pytest.mark.parametrize(
    "text",
    [
        *("不能生成", "无法生成", "不能帮助", "无法帮助", "裸体", "裸露", "色情", "性内容", "未成年"),
        *("抱歉，我不能", "内容政策", "防护限制", "违反"),
        "We're so sorry, but the prompt may violate our content policies. Please try again or edit your prompt.",
        "This image may violate our guardrails around nudity.",
        "Sorry, I can’t help with that request.",
        "I'm unable to generate an image of a real person.",
        "I cannot create that.",
    ],
)
def test_a_refusal_in_words_is_final(text: str) -> None:
    found = classify_task_error(f"... {text} ...")
    assert isinstance(found, ContentRefused)
    assert found.code == "content_refused"


@pytest.mark.parametrize(
    "text",
    [
        "no available image quota",
        "You've reached your image creation limit. Upgrade to ChatGPT Plus or try again tomorrow after 3:12 PM.",
        "You’ve hit the plus plan limit for image generations requests.",
        "生图额度已用完",
    ],
)
def test_an_empty_pool_waits_long(text: str) -> None:
    found = classify_task_error(text)
    assert (found.code, found.retry_after_s) == ("upstream_pool_empty", 300)


def test_error_texts_are_redacted() -> None:
    found = classify_task_error("status=500, body=https://h/x?token=abcdef someone@example.com")
    assert "abcdef" not in found.detail
    assert "someone" not in found.detail


@pytest.mark.parametrize(
    ("status", "answer", "error", "code"),
    [
        (400, {"detail": {"error": "prompt is required"}}, RequestRefused, "upstream_rejected"),
        (400, {"detail": {"error": "检测到敏感词，拒绝本次任务"}}, ContentRefused, "content_refused"),
        (400, {"detail": {"error": "AI 审核未通过，拒绝本次任务"}}, ContentRefused, "content_refused"),
        (
            400,
            {"detail": {"error": "ai review config is incomplete"}},
            Misconfigured,
            "upstream_misconfigured",
        ),
        (
            401,
            {"detail": {"error": "密钥无效或已失效，请重新登录"}},
            BadCredentials,
            "upstream_bad_credentials",
        ),
        (403, {}, BadCredentials, "upstream_forbidden"),
        (404, {"detail": "Not Found"}, Misconfigured, "upstream_not_found"),
        (409, {"detail": {"code": "task_state_conflict"}}, Uncertain, "upstream_error"),
        (
            422,
            {"detail": [{"loc": ["body", "prompt"], "msg": "missing"}]},
            RequestRefused,
            "upstream_rejected",
        ),
        (429, {}, NotRun, "upstream_rate_limited"),
        (500, {}, Uncertain, "upstream_error"),
        (502, {"detail": {"error": "upstream_error"}}, Uncertain, "upstream_error"),
        (503, {"detail": {"error": "AI 审核服务暂时不可用，请稍后重试"}}, NotRun, "upstream_overloaded"),
        (503, {"detail": {"code": "image_queue_unavailable"}}, NotRun, "upstream_overloaded"),
        (503, {}, Uncertain, "upstream_error"),
        (302, {}, Misconfigured, "upstream_redirects"),
    ],
)
def test_every_status_has_its_class(status: int, answer: dict[str, Any], error: type[ProviderError], code: str) -> None:
    found = classify_answer(status, {}, json.dumps(answer).encode())
    assert (type(found), found.code) == (error, code)


def test_a_refused_word_was_in_the_prompt() -> None:
    found = classify_answer(400, {}, json.dumps({"detail": {"error": "检测到敏感词"}}).encode())
    assert isinstance(found, ContentRefused)
    assert (found.stage, found.charged) == ("input", False)


def test_a_validation_fault_names_its_field() -> None:
    answer = {"detail": [{"loc": ["body", "prompt"], "msg": "Field required"}]}
    found = classify_answer(422, {}, json.dumps(answer).encode())
    assert "prompt" in found.detail
    assert "Field required" in found.detail


# ---------------------------------------------------------------- over HTTP


@dataclass
class Gateway:
    """Answers every request with the next prepared answer, and records the requests."""

    answers: list[tuple[int, Any]] = field(default_factory=list)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    port: int = 0

    def provider(self) -> ChatGpt2Api:
        config = Config(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=SecretStr("topsecret"))
        return ChatGpt2Api(config)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    state = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            state.asked.append((self.command, self.path, self.rfile.read(length)))
            status, answer = state.answers.pop(0)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        server.shutdown()


def test_a_submit_is_accepted_under_our_own_key(gateway: Gateway) -> None:
    gateway.answers = [(200, {"id": KEY, "status": "queued"})]
    assert gateway.provider().submit(order(), dedupe_key=KEY) == Accepted(KEY)
    [(method, path, body)] = gateway.asked
    assert (method, path) == ("POST", "/api/image-tasks/generations")
    assert json.loads(body)["client_task_id"] == KEY


def test_sending_a_known_key_again_returns_the_state_of_its_task(gateway: Gateway) -> None:
    gateway.answers = [
        (200, {"id": KEY, "status": "success", "data": [{"url": "/a.png"}]}),
        (200, {"id": KEY, "status": "error", "error": "服务已重启"}),
    ]
    provider = gateway.provider()
    assert isinstance(provider.submit(order(), dedupe_key=KEY), Finished)
    with pytest.raises(Failed):
        provider.submit(order(), dedupe_key=KEY)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b'{"id": "' + KEY.encode(),
        [],
        {"id": "another job's"},
        {"status": "queued"},
        b"[" * 100_000,
    ],
)
def test_an_answer_that_is_not_our_task_is_uncertain(gateway: Gateway, answer: object) -> None:
    gateway.answers = [(200, answer)]
    with pytest.raises(Uncertain):
        gateway.provider().submit(order(), dedupe_key=KEY)


def test_an_edit_is_sent_as_a_form(gateway: Gateway) -> None:
    gateway.answers = [(200, {"id": KEY, "status": "queued"})]
    gateway.provider().submit(order(images=[PNG], mask=PNG), dedupe_key=KEY)
    [(_method, path, body)] = gateway.asked
    assert path == "/api/image-tasks/edits"
    assert b'name="image"; filename="image-1.png"\r\nContent-Type: image/png\r\n\r\npng bytes\r\n' in body
    assert b'name="client_task_id"\r\n\r\n' + KEY.encode() in body


def test_many_calls_are_looked_at_in_one_request(gateway: Gateway) -> None:
    gateway.answers = [
        (
            200,
            {
                "items": [
                    {"id": "key-0", "status": "running", "progress": "generating"},
                    {"id": "key-1", "status": "success", "data": [{"url": "/a.png"}]},
                    {"id": "key-2", "status": "error", "error": "rejected by upstream policy"},
                    {"id": "another one's", "status": "success"},
                    "garbage",
                ],
                "missing_ids": ["key-3", 7],
            },
        )
    ]
    found = gateway.provider().check_many([call(number) for number in range(5)])
    [(method, path, _body)] = gateway.asked
    assert method == "GET"
    assert parse_qs(urlsplit(path).query) == {"ids": ["key-0,key-1,key-2,key-3,key-4"]}
    assert found["call-0"] == Running(step="generating")
    assert isinstance(found["call-1"], Finished)
    assert isinstance(found["call-2"], ContentRefused)
    assert found["call-3"] == Missing()
    assert isinstance(found["call-4"], NotRun)  # left out of the answer, which does not mean missing


@pytest.mark.parametrize("answer", [(401, {}), (404, {}), (500, {}), (200, b"<html>"), (200, {"items": 7})])
def test_a_failed_look_never_ends_a_call(gateway: Gateway, answer: tuple[int, Any]) -> None:
    gateway.answers = [answer]
    found = gateway.provider().check_many([call(number) for number in range(150)])
    assert len(found) == 150
    assert all(isinstance(result, NotRun | Uncertain) for result in found.values())
    assert len(gateway.asked) == 1  # the second batch was not sent


def test_check_raises_what_ended_the_call(gateway: Gateway) -> None:
    gateway.answers = [(200, {"items": [{"id": "theirs", "status": "error", "error": "x"}], "missing_ids": []})]
    with pytest.raises(Failed):
        gateway.provider().check(call(upstream_id="theirs"))


def test_a_result_on_the_gateway_is_fetched_without_the_key(gateway: Gateway) -> None:
    provider = gateway.provider()
    link = f"http://127.0.0.1:{gateway.port}/images/a.png"
    gateway.answers = [(200, b"png"), (404, b""), (503, b""), (200, b"")]
    assert provider.download(link) == b"png"
    with pytest.raises(Failed) as caught:
        provider.download(link)
    assert (caught.value.code, caught.value.billed) == ("result_gone", True)
    for _ in range(2):
        with pytest.raises(NotRun):
            provider.download(link)


@pytest.mark.parametrize(
    ("base_url", "link", "own"),
    [
        ("http://h:3000", "https://img.example/images/a.png?x=1", "http://h:3000/images/a.png?x=1"),
        ("http://h:3000", "http://user:pw@10.0.0.1/images/a.png#top", "http://h:3000/images/a.png"),
        ("http://h/c2a", "https://img.example/images/a.png", "http://h/c2a/images/a.png"),
        ("http://h/c2a", "https://img.example/c2a/images/a.png", "http://h/c2a/images/a.png"),
        ("http://h:3000", "http://h:3000/images/a.png", None),
        ("http://h:3000", "http://169.254.169.254/latest/meta-data/", None),
    ],
)
def test_only_path_and_query_of_a_foreign_link_are_taken(base_url: str, link: str, own: str | None) -> None:
    assert at_own_address(link, base_url) == own


@pytest.mark.parametrize("host", ["10.255.255.1", "127.0.0.1:9", "192.168.0.9:3000"])
def test_a_file_named_by_another_host_is_fetched_at_the_configured_one(gateway: Gateway, host: str) -> None:
    provider = gateway.provider()
    gateway.answers = [(200, b"png")]
    assert provider.download(f"http://{host}/images/2026/a.png?w=1") == b"png"
    assert [(method, path) for method, path, _body in gateway.asked] == [("GET", "/images/2026/a.png?w=1")]


def test_a_foreign_link_stays_refused_where_the_configured_host_has_no_such_file(gateway: Gateway) -> None:
    provider = gateway.provider()
    gateway.answers = [(404, b""), (503, b"")]
    with pytest.raises(Failed) as caught:
        provider.download("http://10.255.255.1/images/a.png")
    assert caught.value.code == "result_url_refused"
    with pytest.raises(NotRun):  # the gateway is away for a moment: the next try may find the file
        provider.download("http://10.255.255.1/images/a.png")


def test_a_result_elsewhere_on_the_local_network_is_not_fetched(gateway: Gateway) -> None:
    with pytest.raises(Failed) as caught:
        gateway.provider().download("http://169.254.169.254/latest/meta-data/")
    assert caught.value.code == "result_url_refused"


def test_a_gateway_that_is_away_did_not_run_the_call(gateway: Gateway) -> None:
    config = Config(base_url="http://127.0.0.1:9", api_key=SecretStr("k"))
    provider = ChatGpt2Api(config)
    with pytest.raises(NotRun):
        provider.submit(order(), dedupe_key=KEY)


def test_text_streams_from_the_openai_shaped_route(gateway: Gateway) -> None:
    chunk = b'data: {"choices":[{"delta":{"content":"kite"}}]}\r\n\r\n'
    gateway.answers = [(200, b": stream-open\r\n\r\n" + chunk + b"data: [DONE]\r\n\r\n")]
    deltas = gateway.provider().stream_text([{"role": "user", "content": "a kite"}], temperature=0.35)
    assert list(deltas) == ["kite"]
    [(_method, path, body)] = gateway.asked
    assert path == "/v1/chat/completions"
    sent = json.loads(body)
    assert (sent["model"], sent["temperature"], sent["stream"]) == ("gpt-5.5", 0.35, True)


def test_there_is_no_cancel_and_no_search(gateway: Gateway) -> None:
    provider = gateway.provider()
    assert provider.cancel(call()) == UpstreamCancel.UNSUPPORTED
    assert provider.credential_id == "chatgpt2api/default"
    assert "topsecret" not in repr(provider)
