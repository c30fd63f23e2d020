"""WaveSpeed: requests, what its answers mean, and which task of the history is ours. Only uploads use a network."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from core.outbound.urls import origin_of
from providers.base import Accepted, CallRef, Finished, InputImage, ResultImage, Running, UpstreamCancel, UpstreamOrder
from providers.catalog import catalog
from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    Misconfigured,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
    UnknownModel,
)
from providers.http.client import HttpResponse, Outgoing
from providers.shared import wavespeed_tasks
from providers.shared.encoding import data_uri
from providers.upstreams.wavespeed.adapter import Config, WaveSpeed
from providers.upstreams.wavespeed.history import build_history, has_token, is_same_order
from providers.upstreams.wavespeed.requests import MAX_INLINE_BYTES, build_check, build_submit, file_name, must_upload
from providers.upstreams.wavespeed.uploads import MAX_UPLOAD_BYTES, build_ticket, read_ticket

MODELS = catalog.load().models
PNG = InputImage(b"png bytes", "image/png", 8, 8)
BASE = "https://api.wavespeed.ai"


def order(model: str = "ws-flux-dev", operation: str = "generate", **facts: Any) -> UpstreamOrder:
    return UpstreamOrder(operation, MODELS[model], facts.pop("prompt", "a red kite"), **facts)


# ---------------------------------------------------------------- configuration


def test_blank_variables_count_as_unset() -> None:
    config = Config.from_env({"WAVESPEED_API_KEY": " wsk_secret ", "WAVESPEED_BASE_URL": " "})
    assert config is not None
    assert config.base_url == BASE
    assert config.headers() == {"Authorization": "Bearer wsk_secret"}
    assert "wsk_secret" not in repr(config)
    assert Config.from_env({"WAVESPEED_API_KEY": " "}) is None


def test_a_base_url_may_end_in_the_api_and_a_client_may_have_a_name() -> None:
    env = {
        "WAVESPEED_API_KEY": "k",
        "WAVESPEED_BASE_URL": "http://localhost:8900/wavespeed/api/v3/",
        "WAVESPEED_CLIENT_NAME": "studio",
        "WAVESPEED_API_KEY_2": "other",
    }
    first, second = WaveSpeed.from_env(env, Outgoing())
    assert (first.base_url, second.credential_id) == ("http://localhost:8900/wavespeed", "wavespeed/2")
    config = Config.from_env(env)
    assert config is not None
    assert config.headers()["X-Client-Name"] == "studio"


# ---------------------------------------------------------------- requests


def test_a_submit_is_the_models_flat_input() -> None:
    asked = order(n=2, size={"size": "768x512"}, params={"steps": 20, "guidance": 3, "seed": 7}, images=[PNG], mask=PNG)
    request = build_submit(asked)
    assert (request.method, request.path) == ("POST", "/api/v3/wavespeed-ai/flux-dev")
    assert request.json == {
        "prompt": "a red kite",
        "size": "768*512",
        "num_images": 2,
        "num_inference_steps": 20,
        "guidance_scale": 3,
        "seed": 7,
        "image": data_uri(PNG),
        "mask_image": data_uri(PNG),
    }


def test_the_webhook_is_a_query_parameter() -> None:
    request = build_submit(order(callback_url="https://d.example/hooks?token=a&b"))
    assert request.path.endswith("/flux-dev?webhook=https%3A%2F%2Fd.example%2Fhooks%3Ftoken%3Da%26b")
    assert request.json == {"prompt": "a red kite"}


@pytest.mark.parametrize(
    "name", ["enable_sync_mode", "enable_base64_output", "max_images", "num_images", "webhook", "image", "mask_image"]
)
def test_extra_cannot_change_what_is_bought_or_how_it_is_answered(name: str) -> None:
    with pytest.raises(RequestRefused):
        build_submit(order("step1x-edit", "edit", images=[PNG], extra={name: 1}))


def test_a_look_is_built_only_from_the_id() -> None:
    assert build_check("0f3a/../x").path == "/api/v3/predictions/0f3a%2F..%2Fx/result"


def test_the_history_is_requested_by_model_and_time() -> None:
    since = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
    assert build_history(order(), since, 2).json == {
        "page": 2,
        "page_size": 100,
        "model": "wavespeed-ai/flux-dev",
        "created_after": "2026-11-20T12:00:30Z",
    }


@pytest.mark.parametrize(
    ("model", "images", "expected"),
    [
        ("ws-flux-dev", [], False),
        ("ws-flux-dev", [PNG], False),
        ("qwen-edit-plus", [InputImage(bytes(MAX_INLINE_BYTES // 2 + 1), "image/png", 8, 8)] * 2, True),
        ("tripo3d-v2.5-multiview", [PNG], True),
    ],
)
def test_images_are_uploaded_when_too_large_or_not_taken_inline(
    model: str, images: list[InputImage], expected: bool
) -> None:
    assert must_upload(order(model, images=images)) is expected


def test_a_ticket_names_an_image_by_its_content() -> None:
    ticket = build_ticket(PNG).json
    assert ticket == {"filename": file_name(PNG), "size": 9, "content_type": "image/png"}
    assert file_name(PNG).endswith(".png")
    assert file_name(PNG) != file_name(InputImage(b"other", "image/png", 8, 8))
    with pytest.raises(RequestRefused):
        build_ticket(InputImage(bytes(MAX_UPLOAD_BYTES + 1), "image/png", 8, 8))


UPLOAD = {"method": "PUT", "url": "https://s.example/a", "headers": {"Content-Type": "image/png"}}


def test_a_ticket_is_read() -> None:
    ticket = read_ticket({"download_url": "https://c.example/a.png", "upload": UPLOAD})
    assert (ticket.put_url, ticket.headers, ticket.download_url) == (
        UPLOAD["url"],
        UPLOAD["headers"],
        "https://c.example/a.png",
    )


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"upload": UPLOAD},
        {"download_url": "", "upload": UPLOAD},
        {"download_url": "https://c.example/a", "upload": {**UPLOAD, "method": "POST"}},
        {"download_url": "https://c.example/a", "upload": {**UPLOAD, "headers": ["a"]}},
        {"download_url": "https://c.example/a", "upload": {**UPLOAD, "headers": {"a": 1}}},
        {"download_url": "https://c.example/a", "upload": "https://s.example"},
    ],
)
def test_any_other_ticket_is_refused(data: object) -> None:
    with pytest.raises(Uncertain):
        read_ticket(data)


# ---------------------------------------------------------------- answers


def answer(status: int, body: object, **headers: str) -> HttpResponse:
    return HttpResponse(status, headers, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "data"),
    [
        ({"code": 200, "message": "success", "data": {"id": "a"}}, {"id": "a"}),
        ({"data": {"id": "a"}}, {"id": "a"}),
        ({"id": "a", "status": "failed", "code": 1200}, {"id": "a", "status": "failed", "code": 1200}),
    ],
)
def test_a_prediction_comes_in_the_envelope_or_bare(body: object, data: object) -> None:
    assert wavespeed_tasks.read_data(answer(200, body)) == data


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"null", {}, {"code": "x", "data": {}}, {"code": 200}])
def test_a_200_without_the_envelope_is_uncertain(body: object) -> None:
    with pytest.raises(Uncertain):
        wavespeed_tasks.read_data(answer(200, body))


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (400, "size is wrong", RequestRefused),
        (400, "Insufficient balance", OutOfCredit),
        (400, "flagged as NSFW", ContentRefused),
        (401, "", BadCredentials),
        (402, "", OutOfCredit),
        (403, "top up to use this model", OutOfCredit),
        (403, "no permission", BadCredentials),
        (404, "product not found", UnknownModel),
        (413, "", RequestRefused),
        (429, "", NotRun),
        (500, "", Uncertain),
        (504, "", Uncertain),
        (1200, "sensitive", ContentRefused),
        (1401, "", RequestRefused),
        (5000, "", Uncertain),
    ],
)
def test_the_code_of_the_envelope_counts_as_the_status(status: int, message: str, error: type[ProviderError]) -> None:
    body = {"code": status, "message": message}
    for http in {200, status if status < 600 else 200}:
        with pytest.raises(error):
            wavespeed_tasks.read_data(answer(http, body))


def test_credentials_are_not_credits() -> None:
    with pytest.raises(RequestRefused):
        wavespeed_tasks.read_data(answer(400, {"code": 400, "message": "bad credentials in the link"}))


def test_a_404_of_a_proxy_says_nothing_of_the_model_or_the_task() -> None:
    page = answer(404, b"<html>Not Found</html>")
    assert not wavespeed_tasks.is_unknown_task(page)
    with pytest.raises(Misconfigured) as caught:
        wavespeed_tasks.read_data(page)
    assert caught.value.code == "upstream_not_found"
    assert wavespeed_tasks.is_unknown_task(answer(200, {"code": 404, "message": "task not found"}))
    assert not wavespeed_tasks.is_unknown_task(answer(404, {"code": 404, "message": "product not found"}))


@pytest.mark.parametrize("prediction", [None, [], {}, {"id": 5}, {"id": ""}, {"id": "a/b"}, {"id": "x" * 200}])
def test_a_task_without_a_usable_id_is_uncertain(prediction: object) -> None:
    with pytest.raises(Uncertain):
        wavespeed_tasks.task_id_of(prediction)


IMAGE = b"\xff\xd8\xff" + bytes(60)
B64 = base64.b64encode(IMAGE).decode()
LINK = "https://cdn.example/a.png"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"outputs": [LINK, LINK]}, [ResultImage(url=LINK)] * 2),
        ({"outputs": [B64]}, [ResultImage(data=IMAGE)]),
        ({"outputs": [f"data:image/jpeg;base64,{B64}"]}, [ResultImage(data=IMAGE)]),
        ({"outputs": [{"url": LINK}, {"image_url": LINK}, {"output": LINK}]}, [ResultImage(url=LINK)] * 3),
        ({"outputs": {"output": [{"url": LINK}]}}, [ResultImage(url=LINK)]),
        ({"outputs": None, "output": LINK}, [ResultImage(url=LINK)]),
        ({"output": [LINK]}, [ResultImage(url=LINK)]),
        ({"outputs": ["/media/a.png"]}, [ResultImage(url=f"{BASE}/media/a.png")]),
        ({"outputs": ["bird"]}, [ResultImage(data=b"bird")]),
        (
            {"outputs": ["Ein Vogel über https://see.example"]},
            [ResultImage(data="Ein Vogel über https://see.example".encode())],
        ),
        ({"outputs": [{"text": "a bird"}]}, [ResultImage(data=b"a bird")]),
        ({"outputs": [5, None, "", LINK]}, [ResultImage(url=LINK)]),
    ],
)
def test_outputs_come_in_many_forms(told: Mapping[str, Any], expected: list[ResultImage]) -> None:
    assert wavespeed_tasks.read_prediction({"status": "Completed", **told}, BASE) == Finished(expected)


@pytest.mark.parametrize("outputs", [None, [], {}, [[[[[[LINK]]]]]], [{}], 5])
def test_success_without_an_output_is_a_failure(outputs: object) -> None:
    with pytest.raises(Failed) as caught:
        wavespeed_tasks.read_prediction({"status": "completed", "outputs": outputs}, BASE)
    assert caught.value.code == "upstream_empty_result"


def test_success_whose_outputs_were_withheld_is_a_refusal() -> None:
    with pytest.raises(ContentRefused):
        wavespeed_tasks.read_prediction({"status": "completed", "outputs": [], "has_nsfw_contents": [True]}, BASE)


def test_a_flag_alone_takes_no_image_away() -> None:
    told = {"status": "completed", "outputs": [LINK], "has_nsfw_contents": [True]}
    assert wavespeed_tasks.read_prediction(told, BASE) == Finished([ResultImage(url=LINK)])


@pytest.mark.parametrize(
    ("told", "step"),
    [
        ({"status": "created"}, "created"),
        ({"status": "Queued"}, "queued"),
        ({"status": "processing", "code": 5004, "error": "Sync mode timed out"}, "processing"),
        ({"status": None}, None),
        ({}, None),
    ],
)
def test_what_has_not_ended_goes_on(told: Mapping[str, Any], step: str | None) -> None:
    assert wavespeed_tasks.read_prediction(told, BASE) == Running(step=step)


@pytest.mark.parametrize(
    ("status", "code", "text", "error", "name"),
    [
        ("failed", 1200, "flagged", ContentRefused, "content_refused"),
        ("failed", "1200", "", ContentRefused, "content_refused"),
        ("failed", None, "violates our policy", ContentRefused, "content_refused"),
        ("failed", 1405, "NSFW", ContentRefused, "content_refused"),
        ("failed", 1400, "sensitive parameter", RequestRefused, "upstream_rejected"),
        ("failed", 1402, "", Failed, "upstream_failed"),
        ("failed", 5004, "", Failed, "upstream_timeout"),
        ("failed", 9999, "", Failed, "upstream_failed"),
        ("failed", {}, "", Failed, "upstream_failed"),
        ("cancelled", None, "", Failed, "upstream_cancelled"),
        ("timeout", None, "", Failed, "upstream_timeout"),
        ("deleted", None, "", Failed, "upstream_lost"),
    ],
)
def test_a_failed_end_has_a_class(status: str, code: object, text: str, error: type[ProviderError], name: str) -> None:
    with pytest.raises(error) as caught:
        wavespeed_tasks.read_prediction({"status": status, "code": code, "error": text}, BASE)
    assert caught.value.code == name
    assert not isinstance(caught.value, Failed) or caught.value.retryable


# ---------------------------------------------------------------- history


def item(**told: Any) -> dict[str, Any]:
    return {"id": "a", "model": "wavespeed-ai/flux-dev", "input": {"prompt": "a red kite", **told}}


@pytest.mark.parametrize(
    ("told", "same"),
    [
        ({}, True),
        ({"seed": -1, "size": "1024*1024", "num_images": 1, "enable_sync_mode": False, "image": ""}, True),
        ({"seed": 5}, False),
        ({"size": "512*512"}, False),
        ({"image": data_uri(PNG)}, False),
        ({"prompt": "a blue kite"}, False),
    ],
)
def test_a_task_is_ours_if_its_input_is(told: Mapping[str, Any], same: bool) -> None:
    assert is_same_order(item(**told), order()) is same


@pytest.mark.parametrize(
    ("link", "same"),
    [
        (data_uri(PNG), True),
        (f"https://c.example/u/{file_name(PNG)}", True),
        (f"https://c.example/u/{file_name(PNG)}?sig=1", True),
        ("https://c.example/u/another.png", False),
        (data_uri(InputImage(b"other", "image/png", 8, 8)), False),
        ([data_uri(PNG)] * 2, False),
        (None, False),
    ],
)
def test_an_image_has_to_be_recognised(link: object, same: bool) -> None:
    assert is_same_order(item(image=link), order(images=[PNG])) is same


@pytest.mark.parametrize("told", [{}, {"input": None}, {"input": {"prompt": "a red kite"}, "model": "other"}])
def test_an_item_without_its_input_is_not_a_candidate(told: dict[str, Any]) -> None:
    assert not is_same_order({"id": "a", "model": "wavespeed-ai/flux-dev", **told}, order())


def test_our_token_decides_wherever_it_is_shown() -> None:
    asked = order(callback_url="https://d.example/hooks/token")
    assert has_token({"id": "a", "webhook": asked.callback_url}, asked)
    assert not has_token({"id": "a", "webhook": "https://d.example/hooks/other"}, asked)
    assert not has_token({"id": "a", "webhook": None}, order())


# ---------------------------------------------------------------- uploads over HTTP


@dataclass
class Server:
    """Answers every request with the next prepared answer, and records the requests."""

    answers: list[tuple[int, object]] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""
    connections: set[tuple[str, int]] = field(default_factory=set)


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """The API, and its storage on another host."""
    api, storage = Server(), Server()
    running = [_running(each) for each in (api, storage)]
    yield api, storage
    for each in running:
        each.shutdown()
        each.server_close()


def _running(state: Server) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # would keep connections

        def _answer(self) -> None:
            state.connections.add(self.client_address)
            length = int(self.headers.get("Content-Length") or 0)
            state.asked.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
            status, body = state.answers.pop(0)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _answer  # noqa: N815

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    return server


def provider(api: Server, *trusted: Server) -> WaveSpeed:
    outgoing = Outgoing(result_origins=frozenset(origin_of(each.url) for each in trusted))
    return WaveSpeed(Config(api_key=SecretStr("wsk_secret"), base_url=api.url), outgoing)


def ticket_for(storage: Server) -> dict[str, object]:
    upload = {"method": "PUT", "url": f"{storage.url}/put?sig=1", "headers": {"x-token": "t"}}
    return {"code": 200, "data": {"download_url": f"{storage.url}/got.png", "upload": upload}}


LARGE = InputImage(bytes(MAX_INLINE_BYTES + 1), "image/png", 8, 8)
BIG = order("tripo3d-v2.5-image", "image_to_3d", prompt=None, images=[LARGE])


def test_an_image_goes_to_a_foreign_place_without_the_key(servers: tuple[Server, Server]) -> None:
    api, storage = servers
    api.answers = [(200, ticket_for(storage)), (200, {"code": 200, "data": {"id": "t1", "status": "created"}})]
    storage.answers = [(204, "")]
    provider(api, storage).submit(BIG, dedupe_key="key")
    [(method, path, headers, body)] = storage.asked
    assert (method, path, headers["x-token"], body) == ("PUT", "/put?sig=1", "t", LARGE.data)
    assert "wsk_secret" not in json.dumps(headers)
    assert json.loads(api.asked[1][3]) == {"image": f"{storage.url}/got.png"}


@pytest.mark.parametrize(("status", "error"), [(403, NotRun), (500, NotRun), (302, NotRun), (413, RequestRefused)])
def test_nothing_is_bought_when_the_storage_refuses(
    servers: tuple[Server, Server], status: int, error: type[ProviderError]
) -> None:
    api, storage = servers
    api.answers, storage.answers = [(200, ticket_for(storage))], [(status, "")]
    with pytest.raises(error):
        provider(api, storage).submit(BIG, dedupe_key="key")
    assert len(api.asked) == 1


def test_a_ticket_to_a_private_place_is_not_followed(servers: tuple[Server, Server]) -> None:
    api, storage = servers
    api.answers = [(200, ticket_for(storage))]
    with pytest.raises(Misconfigured):
        provider(api).submit(BIG, dedupe_key="key")
    assert storage.asked == []


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (500, {}, NotRun),
        (200, {"code": 500, "message": "no"}, NotRun),
        (200, {"code": 200, "data": {}}, NotRun),
        (429, {}, NotRun),
        (401, {}, BadCredentials),
        (404, {"code": 404, "message": "not found"}, Misconfigured),
    ],
)
def test_nothing_is_bought_without_a_ticket(
    servers: tuple[Server, Server], status: int, body: object, error: type[ProviderError]
) -> None:
    api, _storage = servers
    api.answers = [(status, body)]
    with pytest.raises(error) as caught:
        provider(api).submit(BIG, dedupe_key="key")
    assert not isinstance(caught.value, UnknownModel)
    assert len(api.asked) == 1


def test_a_paid_call_never_uses_a_connection_that_waits_to_be_closed(servers: tuple[Server, Server]) -> None:
    api, _storage = servers
    api.answers = [(200, {"code": 200, "data": {"id": "t1", "status": "created"}})] * 2
    patient = provider(api)
    for _ in range(2):
        patient.submit(order(), dedupe_key="key")
    assert len(api.connections) == 2


def test_there_is_no_way_to_stop_a_task_and_no_text_model() -> None:
    idle = WaveSpeed(Config(api_key=SecretStr("k")))
    assert idle.cancel(CallRef("c", "k", "qwen-image")) == UpstreamCancel.UNSUPPORTED
    with pytest.raises(Misconfigured):
        idle.stream_text([], temperature=0.5)


def test_a_link_in_an_answer_is_never_followed_with_the_key(servers: tuple[Server, Server]) -> None:
    api, storage = servers
    told = {"id": "t1", "status": "created", "urls": {"get": f"{storage.url}/steal"}}
    api.answers = [(200, {"code": 200, "data": told})] * 2
    accepted = provider(api, storage).submit(order(), dedupe_key="key")
    assert isinstance(accepted, Accepted)
    ref = CallRef("c", "k", "ws-flux-dev", upstream_id=accepted.upstream_id, poll_url=accepted.poll_url)
    assert provider(api, storage).check(ref) == Running(step="created")
    assert api.asked[1][1] == "/api/v3/predictions/t1/result"
    assert storage.asked == []
