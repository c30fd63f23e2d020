"""Replicate: requests, and what its answers mean. No network except a local server for links to other hosts."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from providers.base import Accepted, CallRef, Finished, InputImage, Missing, Running, UpstreamCancel, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.entries import Recovery
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
from providers.http.client import WireRequest
from providers.upstreams.replicate.adapter import CANCEL_AFTER, Config, Replicate
from providers.upstreams.replicate.answers import (
    classify,
    classify_create,
    classify_failure,
    read_output,
    read_prediction,
    unpaid,
)
from providers.upstreams.replicate.requests import (
    INLINE_MAX_BYTES,
    build_check,
    build_list,
    build_submit,
    build_upload,
    inputs_to_upload,
)

CATALOG = catalog.load()
PNG = InputImage(b"png bytes", "image/png", 8, 8)
MASK = InputImage(b"mask bytes", "image/png", 8, 8)
LARGE = InputImage(b"x" * INLINE_MAX_BYTES, "image/jpeg", 800, 600)
PNG_URL = f"data:image/png;base64,{base64.b64encode(b'png bytes').decode()}"
MASK_URL = f"data:image/png;base64,{base64.b64encode(b'mask bytes').decode()}"
SDXL_VERSION = CATALOG.models["replicate-sdxl"].path.partition(":")[2]
SINCE = datetime(2026, 11, 21, 10, 0, 0, 250_000, tzinfo=UTC)


def order(model: str = "replicate-flux-schnell", operation: str = "generate", **facts: Any) -> UpstreamOrder:
    return UpstreamOrder(**{"operation": operation, "model": CATALOG.models[model], "prompt": "a red kite", **facts})


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("base_url", ["http://h:1/replicate", "http://h:1/replicate/", "http://h:1/replicate/v1"])
def test_a_base_url_may_end_in_v1_or_not(base_url: str) -> None:
    config = Config.from_env({"REPLICATE_API_TOKEN": " r8_secret ", "REPLICATE_BASE_URL": base_url})
    assert config is not None
    assert config.base_url == "http://h:1/replicate/v1"
    assert config.headers() == {"Authorization": "Bearer r8_secret"}
    assert "r8_secret" not in repr(config)


def test_blank_variables_count_as_unset() -> None:
    assert Config.from_env({"REPLICATE_API_TOKEN": "  "}) is None
    config = Config.from_env({"REPLICATE_API_TOKEN": "r8_secret", "REPLICATE_BASE_URL": " "})
    assert config is not None
    assert config.base_url == "https://api.replicate.com/v1"


def test_the_adapter_and_the_catalogue_agree_on_class_and_times() -> None:
    spec = CATALOG.providers["replicate"]
    assert spec.recovery is Recovery.SEARCH
    assert f"{spec.deadline_s // 60}m" == CANCEL_AFTER
    assert Replicate.submit_timeout_s <= spec.call_timeout_s


# ---------------------------------------------------------------- requests


def test_what_the_caller_left_out_is_left_out() -> None:
    assert build_submit(order()) == WireRequest(
        "POST", "/models/black-forest-labs/flux-schnell/predictions", json={"input": {"prompt": "a red kite"}}
    )


def test_settings_size_and_count_go_into_the_input_under_their_own_names() -> None:
    asked = order(n=3, size={"aspect_ratio": "16:9"}, params={"steps": 2, "seed": 7}, extra={"lora_weights": "x"})
    assert build_submit(asked).json == {
        "input": {
            "prompt": "a red kite",
            "aspect_ratio": "16:9",
            "num_inference_steps": 2,
            "seed": 7,
            "num_outputs": 3,
            "lora_weights": "x",
        }
    }


def test_of_a_model_with_a_version_only_the_version_is_sent() -> None:
    request = build_submit(order("replicate-sdxl", "inpaint", images=[PNG], mask=MASK, params={"sampler": "DDIM"}))
    assert len(SDXL_VERSION) == 64
    assert request.path == "/predictions"
    assert request.json == {
        "version": SDXL_VERSION,
        "input": {"prompt": "a red kite", "scheduler": "DDIM", "image": PNG_URL, "mask": MASK_URL},
    }


@pytest.mark.parametrize(
    ("model", "placed"),
    [
        ("replicate-flux-2-pro", {"input_images": [PNG_URL]}),
        ("replicate-flux-2-klein-4b", {"images": [PNG_URL]}),
        ("replicate-flux-1.1-pro", {"image_prompt": PNG_URL}),
        ("replicate-flux-dev", {"image": PNG_URL}),
    ],
)
def test_images_go_where_the_model_wants_them(model: str, placed: dict[str, Any]) -> None:
    body = build_submit(order(model, images=[PNG])).json
    assert body is not None
    assert body["input"] == {"prompt": "a red kite", **placed}


def test_a_callback_url_asks_only_for_the_end() -> None:
    body = build_submit(order(callback_url="https://darkroom.example/hooks/1")).json
    assert body is not None
    assert (body["webhook"], body["webhook_events_filter"]) == ("https://darkroom.example/hooks/1", ["completed"])


@pytest.mark.parametrize(
    "name", ["webhook", "version", "num_outputs", "width", "resolution", "megapixels", "prompt", "stream"]
)
def test_extra_fields_cannot_change_what_is_bought_or_how_it_is_answered(name: str) -> None:
    for model in ("replicate-flux-schnell", "replicate-flux-1.1-pro"):
        with pytest.raises(RequestRefused):
            build_submit(order(model, extra={name: "x"}))


def test_images_too_large_for_data_urls_are_uploaded_all_of_them_and_each_once() -> None:
    pro = "replicate-flux-2-pro"
    assert inputs_to_upload(order(pro, images=[LARGE])) == []
    assert inputs_to_upload(order(pro, images=[LARGE, PNG, LARGE])) == [LARGE, PNG]
    links = {LARGE: "https://files/1", PNG: "https://files/2"}
    body = build_submit(order(pro, images=[LARGE, PNG, LARGE]), links).json
    assert body is not None
    assert body["input"]["input_images"] == ["https://files/1", "https://files/2", "https://files/1"]


def test_a_file_is_uploaded_as_content() -> None:
    [part] = build_upload(LARGE).files
    assert (part.name, part.filename, part.mime) == ("content", "input.jpeg", "image/jpeg")


def test_ids_and_moments_are_quoted() -> None:
    assert build_check("../account").path == "/predictions/..%2Faccount"
    assert build_list(SINCE).path == "/predictions?created_after=2026-11-21T10%3A00%3A00.250Z"


# ---------------------------------------------------------------- predictions


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (["https://d/0.webp", "https://d/1.webp"], ["https://d/0.webp", "https://d/1.webp"]),
        ("https://d/0.png", ["https://d/0.png"]),
        (
            {"image": "https://d/a.png", "views": ["https://d/b.png"], "note": "fine"},
            ["https://d/a.png", "https://d/b.png"],
        ),
        (PNG_URL, [b"png bytes"]),
        ([PNG_URL, "https://d/1.webp"], [b"png bytes", "https://d/1.webp"]),
        (["data:image/png;base64,!!", "ftp://d/0.png", "words", None, 7, True], []),
        ([], []),
        (None, []),
        ([[[[[[[[[["https://too/deep"]]]]]]]]]], []),
    ],
)
def test_every_form_of_output_is_read(output: object, found: list[object]) -> None:
    assert [image.data or image.url for image in read_output(output)] == found


def test_endless_outputs_are_not_kept() -> None:
    assert len(read_output([f"https://d/{number}" for number in range(10_000)])) < 100


@pytest.mark.parametrize(
    ("prediction", "state"),
    [
        ({"status": "starting"}, Running(step="starting")),
        ({"status": "processing", "logs": None}, Running(step="processing")),
        (
            {"status": "processing", "logs": "Using seed: 7\n 25%|##  | 1/4 [00:00<00:01]\n 50%|##  | 2/4 [0\nhm"},
            Running(0.5, "processing"),
        ),
        # More images may follow: only a terminal status ends it.
        ({"status": "processing", "output": ["https://d/0.webp"]}, Running(step="processing")),
        ({"status": "paused"}, Running(step="paused")),
        ({"status": 42}, Running()),
        ({}, Running()),
    ],
)
def test_what_has_not_ended_is_running(prediction: dict[str, Any], state: Running) -> None:
    assert read_prediction(prediction) == state


@pytest.mark.parametrize(
    ("prediction", "seed"),
    [
        ({"logs": "Using seed: 7\n"}, 7),
        ({"logs": "Using seed: 7\n", "input": {"seed": 5}}, 7),
        ({"logs": "", "input": {"seed": 5}}, 5),
        ({"input": {"seed": True}}, None),
        ({"input": {"seed": 2**70}}, None),
        ({"logs": 3}, None),
    ],
)
def test_the_seed_is_kept_where_it_is_reported(prediction: dict[str, Any], seed: int | None) -> None:
    done = read_prediction({"status": "succeeded", "output": "https://d/0.png", **prediction})
    assert isinstance(done, Finished)
    assert done.images[0].seed == seed


@pytest.mark.parametrize(
    ("prediction", "error", "code", "billed"),
    [
        ({"status": "succeeded", "output": None, "data_removed": True}, Failed, "result_gone", True),
        ({"status": "succeeded", "output": None}, Failed, "upstream_empty_result", True),
        ({"status": "succeeded", "output": "done"}, Failed, "upstream_empty_result", True),
        ({"status": "succeeded", "output": []}, ContentRefused, "content_refused", True),
        ({"status": "canceled"}, Failed, "upstream_cancelled", False),
        ({"status": "aborted"}, Failed, "upstream_timeout", False),
        ({"status": "failed", "error": {"why": "E1000"}}, Failed, "upstream_failed", False),
        ({"status": "failed"}, Failed, "upstream_failed", False),
    ],
)
def test_ends_without_an_image(prediction: dict[str, Any], error: type[ProviderError], code: str, billed: bool) -> None:
    with pytest.raises(error) as caught:
        read_prediction(prediction)
    assert caught.value.code == code
    assert getattr(caught.value, "billed", getattr(caught.value, "charged", False)) is billed


@pytest.mark.parametrize(
    ("text", "error", "code", "retryable"),
    [
        ("NSFW content detected", ContentRefused, "content_refused", None),
        ("The input or output was flagged as sensitive. (E005)", ContentRefused, "content_refused", None),
        ("Blocked by content policy", ContentRefused, "content_refused", None),
        ("Unknown error (E1000)", Failed, "upstream_failed", True),
        ("Service is unavailable due to high demand. (E003)", Failed, "upstream_overloaded", True),
        ("The model is in high demand, try again later", Failed, "upstream_overloaded", True),
        ("CUDA out of memory (E1001)", Failed, "upstream_failed", False),
        ("timed out while starting E6716", Failed, "upstream_timeout", True),
        ("webhook is empty (E4875)", Misconfigured, "upstream_misconfigured", None),
        ("Prediction interrupted; please retry (code: PA)", Failed, "upstream_restarted", True),
        ("Director: E8765", Failed, "upstream_failed", True),
        ("list index out of range", Failed, "upstream_failed", False),
        ("", Failed, "upstream_failed", False),
    ],
)
def test_the_words_of_a_failed_prediction(
    text: str, error: type[ProviderError], code: str, retryable: bool | None
) -> None:
    found = classify_failure(text)
    assert (type(found), found.code, getattr(found, "retryable", None)) == (error, code, retryable)


# ---------------------------------------------------------------- HTTP errors


def problem(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (400, problem(detail="Malformed"), RequestRefused, "upstream_rejected"),
        (401, problem(title="Unauthenticated", detail="no"), BadCredentials, "upstream_bad_credentials"),
        (402, problem(title="Insufficient credit", detail="no"), OutOfCredit, "upstream_out_of_credit"),
        (403, b"", BadCredentials, "upstream_forbidden"),
        (404, problem(detail="The requested resource could not be found."), UnknownModel, "upstream_model_unknown"),
        (404, b"<html>", Misconfigured, "upstream_not_found"),
        (413, problem(error="too large"), RequestRefused, "upstream_too_large"),
        (422, problem(title="Input validation failed", detail="- input: x"), RequestRefused, "upstream_rejected"),
        (422, problem(title="Invalid version or not permitted", detail="x"), UnknownModel, "upstream_model_unknown"),
        (429, problem(detail="throttled"), NotRun, "upstream_rate_limited"),
        (500, problem(detail="Internal server error"), Uncertain, "upstream_error"),
        (502, b"<html>", Uncertain, "upstream_error"),
        (503, b"", Uncertain, "upstream_error"),
        (302, b"", Misconfigured, "upstream_redirects"),
    ],
)
def test_errors_of_a_create_say_what_to_do_next(
    status: int, body: bytes, error: type[ProviderError], code: str
) -> None:
    found = classify_create(status, {}, body)
    assert (type(found), found.code) == (error, code)


@pytest.mark.parametrize(
    ("headers", "detail", "wait_s"),
    [
        ({"retry-after": "7"}, "Your rate limit resets in ~30s.", 7),
        ({"ratelimit-reset": "11"}, "Your rate limit resets in ~30s.", 30),
        ({"ratelimit-reset": "11"}, "throttled", 11),
        ({"ratelimit-reset": "0"}, "throttled", None),
        ({"ratelimit-reset": "soon"}, "throttled", None),
        ({}, "resets in ~99999s", 300),
    ],
)
def test_a_rate_limit_says_how_long(headers: dict[str, str], detail: str, wait_s: float | None) -> None:
    assert classify(429, headers, problem(detail=detail)).retry_after_s == wait_s


def test_what_the_upstream_said_is_reported_without_secrets() -> None:
    found = classify(
        422, {}, problem(title="Input validation failed", detail="- image: https://h/a?token=abc r8_abcdefgh")
    )
    assert "Input validation failed - image" in found.detail
    assert "abc" not in found.detail


def test_an_upload_that_went_wrong_bought_nothing() -> None:
    assert isinstance(unpaid(classify(500, {}, b"")), NotRun)
    assert isinstance(unpaid(classify(401, {}, b"")), BadCredentials)
    assert isinstance(unpaid(classify(413, {}, b"")), RequestRefused)


# ---------------------------------------------------------------- over HTTP, against canned answers


@dataclass
class Server:
    """Answers every request with the next prepared answer, and records the requests."""

    answers: list[tuple[int, bytes]] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)
    port: int = 0

    def will(self, http: int, /, **answer: Any) -> None:
        self.answers.append((http, json.dumps(answer).encode()))

    def provider(self) -> Replicate:
        return Replicate(Config(api_token=SecretStr("r8_secret"), base_url=f"http://127.0.0.1:{self.port}"))


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.connections.add(self.client_address)
            state.asked.append((self.command, self.path, dict(self.headers)))
            status, data = state.answers.pop(0)
            self.send_response(status)
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


def call(**facts: Any) -> CallRef:
    return CallRef(**{"id": "c1", "dedupe_key": "k1", "model": "m", "upstream_id": "p1", **facts})


def test_a_submit_has_a_deadline_at_the_upstream_and_a_look_has_none(server: Server) -> None:
    server.will(202, id="p1", status="starting", urls={"get": "http://elsewhere.example/p1"})
    server.will(200, id="p1", status="starting", urls={"get": "http://elsewhere.example/p1"})
    provider = server.provider()
    assert provider.submit(order(), dedupe_key="k1") == Accepted("p1")
    assert provider.check(call(poll_url="http://elsewhere.example/p1")) == Running(step="starting")
    (_, _, submitted), (_, path, looked) = server.asked
    assert submitted["Cancel-After"] == "30m"
    assert (path, "Cancel-After" in looked) == ("/v1/predictions/p1", False)


def test_a_create_never_uses_a_connection_that_waits_to_be_closed(server: Server) -> None:
    provider = server.provider()
    for _ in range(3):
        server.will(201, id="p1", status="starting")
        provider.submit(order(), dedupe_key="k1")
    assert len(server.connections) == 3


def test_a_prediction_that_is_done_at_once_is_finished(server: Server) -> None:
    server.will(201, id="p1", status="succeeded", output=["https://d/0.webp"])
    done = server.provider().submit(order(), dedupe_key="k1")
    assert isinstance(done, Finished)


@pytest.mark.parametrize("answer", [{}, {"id": None}, {"id": ""}, {"id": 7}, {"id": "x" * 200}])
def test_a_201_without_an_id_is_uncertain(server: Server, answer: dict[str, Any]) -> None:
    server.will(201, status="starting", **answer)
    with pytest.raises(Uncertain):
        server.provider().submit(order(), dedupe_key="k1")


@pytest.mark.parametrize("status", [500, 401, 413, 201])
def test_nothing_is_bought_when_an_upload_fails(server: Server, status: int) -> None:
    server.will(status, detail="no", urls={})
    with pytest.raises((NotRun, Misconfigured, RequestRefused)):
        server.provider().submit(order("replicate-flux-2-pro", images=[LARGE, PNG]), dedupe_key="k1")
    assert [path for _, path, _ in server.asked] == ["/v1/files"]


@pytest.mark.parametrize(
    ("sent_ago_s", "gone"),
    [(None, False), (1.0, False), (600.0, True)],
    ids=["unknown", "just made", "long ago"],
)
def test_only_what_was_made_long_ago_can_be_missing(server: Server, sent_ago_s: float | None, gone: bool) -> None:
    server.will(404, detail="The requested resource could not be found.", status=404)
    if gone:
        assert server.provider().check(call(age_s=sent_ago_s)) == Missing()
        return
    with pytest.raises(NotRun):
        server.provider().check(call(age_s=sent_ago_s))


def test_the_age_of_a_prediction_is_the_databases_whatever_our_clock_says(server: Server) -> None:
    for _ in range(2):
        server.will(404, detail="The requested resource could not be found.", status=404)
    ahead, behind = (datetime.now(UTC) + timedelta(days=days) for days in (1, -1))
    assert server.provider().check(call(intended_at=ahead, age_s=600.0)) == Missing()
    with pytest.raises(NotRun):
        server.provider().check(call(intended_at=behind, age_s=1.0))


def test_a_404_that_is_not_replicates_own_never_means_missing(server: Server) -> None:
    server.answers.append((404, b"<html>"))
    with pytest.raises(NotRun):
        server.provider().check(call(age_s=3600.0))


@pytest.mark.parametrize("status", [401, 403, 429, 422, 503])
def test_a_look_that_fails_does_not_end_the_call(server: Server, status: int) -> None:
    server.will(status, detail="no")
    said = server.provider().check_many([call()])["c1"]
    assert isinstance(said, NotRun)


def test_an_answer_about_another_prediction_does_not_count(server: Server) -> None:
    server.will(200, id="p2", status="succeeded", output="https://d/0.png")
    with pytest.raises(Uncertain):
        server.provider().check(call())


@pytest.mark.parametrize(
    ("status", "word", "outcome"),
    [
        (200, "canceled", UpstreamCancel.STOPPED),
        (200, "aborted", UpstreamCancel.STOPPED),
        (200, "succeeded", UpstreamCancel.TOO_LATE),
        (200, "failed", UpstreamCancel.TOO_LATE),
        (422, "", UpstreamCancel.TOO_LATE),
        (200, "processing", NotRun),
        (404, "", NotRun),
        (401, "", NotRun),
        (500, "", NotRun),
    ],
)
def test_only_a_confirmed_cancel_has_stopped_anything(server: Server, status: int, word: str, outcome: Any) -> None:
    server.will(status, id="p1", status=word)
    if isinstance(outcome, UpstreamCancel):
        assert server.provider().cancel(call()) == outcome
        return
    with pytest.raises(outcome):
        server.provider().cancel(call())


def test_without_an_id_nothing_is_asked(server: Server) -> None:
    for ask in (server.provider().check, server.provider().cancel):
        with pytest.raises(Uncertain):
            ask(call(upstream_id=None))
    assert server.asked == []


def row(number: int, **facts: Any) -> dict[str, Any]:
    made = {"id": f"p{number}", "model": "black-forest-labs/flux-schnell", "input": {"prompt": "a red kite"}}
    return {"created_at": "2026-11-21T10:00:05.000Z", "status": "starting", **made, **facts}


def test_the_next_page_is_requested_from_the_configured_upstream_and_old_rows_end_it(server: Server) -> None:
    server.will(200, results=[row(1)], next="http://elsewhere.example/v1/predictions?cursor=abc")
    server.will(200, results=[row(2), row(3, created_at="2026-11-21T09:59:59.000Z"), row(4)], next="x?cursor=3")
    assert server.provider().lookup(call(), SINCE, order()) == [Accepted("p1"), Accepted("p2")]
    assert [path for _, path, _ in server.asked][1] == "/v1/predictions?cursor=abc"


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({}, True),
        ({"model": "black-forest-labs/flux-dev"}, False),
        ({"input": {"prompt": "a red kite", "seed": 1}}, False),
        ({"input": {"prompt": "a blue kite"}}, False),
        ({"input": {}}, False),
        ({"input": None}, False),
        ({"created_at": "?"}, True),
    ],
)
def test_a_candidate_has_the_same_model_and_the_same_input(server: Server, facts: dict[str, Any], found: bool) -> None:
    server.will(200, results=[row(1, **facts), None], next=None)
    assert (server.provider().lookup(call(), SINCE, order()) != []) is found


def test_with_a_callback_url_only_that_decides(server: Server) -> None:
    mine = order(callback_url="https://darkroom.example/hooks/1")
    rows = [row(1), row(2, webhook="https://darkroom.example/hooks/2")]
    # The model may be returned under an internal name, and the input may be gone.
    server.will(200, results=[*rows, row(3, webhook=mine.callback_url, model="internal", input={})], next=None)
    assert server.provider().lookup(call(), SINCE, mine) == [Accepted("p3")]


def test_a_failed_search_is_not_an_empty_one(server: Server) -> None:
    server.will(503)
    server.will(200, results="none")
    for _ in range(2):
        with pytest.raises((NotRun, Uncertain)):
            server.provider().lookup(call(), SINCE, order())


@pytest.mark.parametrize(
    "url", ["https://evil.example/a.png", "https://replicate.delivery.evil.example/a", "x", "http:///"]
)
def test_results_come_from_replicates_own_hosts(server: Server, url: str) -> None:
    with pytest.raises(Failed) as caught:
        server.provider().download(url)
    assert (caught.value.code, caught.value.billed) == ("result_url_refused", True)
