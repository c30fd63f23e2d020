"""Flux: which host is asked with which key, and what the answers mean."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from core.outbound.urls import origin_of
from providers.base import Accepted, CallRef, Finished, InputImage, Missing, Running, UpstreamCancel, UpstreamOrder
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
from providers.http.client import HttpResponse, Outgoing, WireRequest
from providers.upstreams.flux.adapter import Config, Flux, build_submit
from providers.upstreams.flux.answers import classify, read_task
from providers.upstreams.flux.hosts import gets_key, poll_url_of

MODELS = catalog.load().models
A, B, C = (InputImage(name.encode(), "image/png", 512, 512) for name in "abc")
TASK = "5f0c2c1e-0d0e-4f57-9d57-0a8f1f6f0c11"
SAMPLE = "https://delivery-eu1.bfl.ai/results/ab/sample.jpeg?se=1&sig=2"
HOOK = "https://queue.example/hooks/flux/tok"


def order(model: str = "flux-2-pro", **facts: Any) -> UpstreamOrder:
    found = MODELS[model]
    return UpstreamOrder(**{"operation": found.operation, "model": found, "prompt": "a red kite", **facts})


def b64(image: InputImage) -> str:
    return base64.b64encode(image.data).decode()


def body(asked: UpstreamOrder, **options: Any) -> dict[str, Any]:
    request = build_submit(asked, **options)
    assert request.json is not None
    return dict(request.json)


# ---------------------------------------------------------------- configuration


def test_either_name_of_the_key_will_do_and_blank_ones_are_unset() -> None:
    config = Config.from_env({"BFL_API_KEY": " ", "BLACK_FOREST_LABS_API_KEY": " k-secret ", "BFL_API_BASE": ""})
    assert config is not None
    assert (config.base_url, config.webhooks) == ("https://api.bfl.ai", False)
    assert config.headers() == {"x-key": "k-secret"}
    assert "k-secret" not in repr(config)
    assert Config.from_env({"BFL_API_BASE": "https://api.eu.bfl.ai"}) is None


@pytest.mark.parametrize("base", ["https://api.eu.bfl.ai", "https://api.eu.bfl.ai/", "https://api.eu.bfl.ai/v1/"])
def test_the_base_is_taken_with_and_without_its_version(base: str) -> None:
    assert Config(api_key=SecretStr("k"), base_url=base).base_url == "https://api.eu.bfl.ai"


def test_an_invalid_setting_is_refused_without_the_key_in_the_message() -> None:
    with pytest.raises(ValidationError) as caught:
        Config.from_env({"BFL_API_KEY": "k-secret", "BFL_WEBHOOKS": "perhaps"})
    assert "k-secret" not in str(caught.value)


def test_one_provider_per_key() -> None:
    env = {"BFL_API_KEY": "one", "BFL_API_KEY_2": "two", "BFL_API_BASE_2": "https://api.us.bfl.ai"}
    found = {provider.credential_id: provider.base_url for provider in Flux.from_env(env, Outgoing())}
    assert found == {"flux/default": "https://api.bfl.ai", "flux/2": "https://api.us.bfl.ai"}


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize("model", sorted(name for name, each in MODELS.items() if each.provider == "flux"))
def test_what_the_caller_left_out_is_left_out(model: str) -> None:
    path = "/v1/flux-tools/erase-v1" if model == "flux-erase" else f"/v1/{model}"
    assert build_submit(order(model)) == WireRequest("POST", path, json={"prompt": "a red kite"})


@pytest.mark.parametrize(
    ("model", "facts", "fields"),
    [
        (
            "flux-2-flex",
            {
                "size": {"width": 1024, "height": 768},
                "params": {"seed": 0, "steps": 20, "guidance": 2.5, "prompt_upsampling": False},
            },
            {"width": 1024, "height": 768, "seed": 0, "steps": 20, "guidance": 2.5, "prompt_upsampling": False},
        ),
        ("flux-2-max", {"images": [A]}, {"input_image": b64(A)}),
        (
            "flux-kontext-pro",
            {"images": [A, B, C], "size": {"aspect_ratio": "4:5"}},
            {"input_image": b64(A), "input_image_2": b64(B), "input_image_3": b64(C), "aspect_ratio": "4:5"},
        ),
        (
            "flux-pro-1.1-ultra",
            {"images": [A], "params": {"strength": 0.4, "raw": True}},
            {"image_prompt": b64(A), "image_prompt_strength": 0.4, "raw": True},
        ),
        ("flux-pro-1.0-fill", {"images": [A], "mask": B}, {"image": b64(A), "mask": b64(B)}),
        ("flux-pro-1.0-expand", {"images": [A], "size": {"left": 64}}, {"image": b64(A), "left": 64}),
        (
            "flux-3-image",
            {"images": [A], "size": {"aspect_ratio": "auto", "resolution": "2k"}, "params": {"grounding": False}},
            {"images": [b64(A)], "aspect_ratio": "auto", "resolution": "2k", "grounding": False},
        ),
    ],
)
def test_what_the_caller_set_is_sent(model: str, facts: dict[str, Any], fields: dict[str, Any]) -> None:
    assert body(order(model, **facts)) == {"prompt": "a red kite", **fields}


def test_an_edit_without_words_sends_no_prompt() -> None:
    assert set(body(order("flux-pro-1.0-fill", prompt=None, images=[A], mask=B))) == {"image", "mask"}


@pytest.mark.parametrize(
    "name",
    ["prompt", "width", "input_image", "input_image_9", "input_image_blob_path", "webhook_url", "webhook_secret"],
)
def test_extra_fields_cannot_change_what_is_bought_or_where_it_is_reported(name: str) -> None:
    assert body(order(extra={"disable_pup": True}))["disable_pup"] is True
    with pytest.raises(RequestRefused):
        build_submit(order(extra={name: "x"}))


def test_a_webhook_is_sent_only_where_it_is_wanted_and_accepted() -> None:
    assert "webhook_url" not in body(order(callback_url=HOOK))
    assert body(order(callback_url=HOOK), webhooks=True) == {"prompt": "a red kite", "webhook_url": HOOK}
    assert "webhook_url" not in body(order(), webhooks=True)
    assert "webhook_url" not in body(order("flux-3-image", callback_url=HOOK), webhooks=True)


# ---------------------------------------------------------------- poll URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.bfl.ai/v1/get_result?id=1", True),
        ("https://api.eu2.bfl.ai/v1/get_result?id=1", True),
        ("https://gateway.bfl.ai/v1/get_result?id=1", True),
        ("https://bfl.ai/v1/get_result?id=1", True),
        ("https://API.EU.BFL.AI/v1/get_result?id=1", True),
        ("http://127.0.0.1:8900/flux/v1/get_result?id=1", True),
        ("http://127.0.0.1:8901/flux/v1/get_result?id=1", False),
        ("https://127.0.0.1:8900/flux/v1/get_result?id=1", False),
        ("http://api.eu2.bfl.ai/v1/get_result?id=1", False),
        ("https://api.eu2.bfl.ai:8443/v1/get_result?id=1", False),
        ("https://evilbfl.ai/v1/get_result?id=1", False),
        ("https://api.bfl.ai.evil.example/v1/get_result?id=1", False),
        ("https://evil.example/api.bfl.ai?id=1", False),
        ("https://api.bfl.ml/v1/get_result?id=1", False),
    ],
)
def test_which_poll_urls_get_the_key(url: str, expected: bool) -> None:
    assert gets_key(origin_of(url), origin_of("http://127.0.0.1:8900/flux")) is expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("https://api.eu2.bfl.ai/v1/get_result?id=t-1", "https://api.eu2.bfl.ai/v1/get_result?id=t-1"),
        (" https://api.eu2.bfl.ai/v1/get_result#x ", "https://api.eu2.bfl.ai/v1/get_result?id=t-1"),
        ("https://api.eu2.bfl.ai/v1/get_result?a=b", "https://api.eu2.bfl.ai/v1/get_result?a=b&id=t-1"),
        (None, None),
        (7, None),
        ("", None),
        ("/v1/get_result?id=t-1", None),
        ("https://user:pw@api.bfl.ai/v1/get_result?id=t-1", None),
        ("file:///etc/passwd", None),
        ("https://api.bfl.ai/v1/get_result?id=t-1&x=" + "y" * 3000, None),
    ],
)
def test_a_poll_url_is_taken_as_it_is_or_not_at_all(found: object, expected: str | None) -> None:
    assert poll_url_of(found, "t-1") == expected


# ---------------------------------------------------------------- answers


def answer(document: object, status: int = 200, **headers: str) -> HttpResponse:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return HttpResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, data)


def task(status: str, **facts: Any) -> dict[str, Any]:
    return {"id": TASK, "status": status, "result": None, "progress": None, "details": None, **facts}


def test_a_ready_task_has_one_link_with_its_seed_and_prompt() -> None:
    ready = task("Ready", result={"sample": SAMPLE, "prompt": "a kite, finely drawn", "seed": 42}, cost=4.0)
    found = read_task(answer(ready), TASK)
    assert isinstance(found, Finished)
    [image] = found.images
    assert (image.url, image.seed, image.revised_prompt) == (SAMPLE, 42, "a kite, finely drawn")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (task("Pending"), Running(step="Pending")),
        (task("Reasoning", progress=0), Running(progress=0.0, step="Reasoning")),
        (task("Generating", progress=0.5), Running(progress=0.5, step="Generating")),
        (task("Warming up", progress=7), Running(step="Warming up")),
        (task("Queued", progress=True), Running(step="Queued")),
        ({"id": TASK, "state": "Pending"}, Running(step="Pending")),
        (task("TASK NOT FOUND"), Missing()),
    ],
)
def test_everything_that_is_not_an_end_goes_on(document: object, expected: object) -> None:
    assert read_task(answer(document), TASK) == expected


@pytest.mark.parametrize("http", [200, 400, 503])
@pytest.mark.parametrize(
    ("document", "error", "facts"),
    [
        (task("Request Moderated", details="flagged"), ContentRefused, {"stage": "input", "charged": False}),
        (task("content moderated", cost=4.0), ContentRefused, {"stage": "output", "charged": True}),
        (task("Error", details={"reason": "x"}), Failed, {"code": "upstream_failed", "retryable": True}),
        (task("Failed", cost=4), Failed, {"code": "upstream_failed", "retryable": False, "billed": True}),
        (task("Ready", result={}), Failed, {"code": "upstream_empty_result", "retryable": False, "billed": True}),
        (task("Ready", result=None), Failed, {"code": "upstream_empty_result", "retryable": False}),
        ({"status": "Error", "details": "no id"}, Failed, {"retryable": True}),
    ],
)
def test_the_body_is_read_before_the_status(
    http: int, document: object, error: type[ProviderError], facts: dict[str, Any]
) -> None:
    with pytest.raises(error) as caught:
        read_task(answer(document, http), TASK)
    assert {name: getattr(caught.value, name) for name in facts} == facts


def test_details_of_every_form_are_complete() -> None:
    for details, told in (("the sky", "the sky"), ({"reason": "no worker", "code": 17}, '"code": 17')):
        with pytest.raises(Failed) as caught:
            read_task(answer(task("Error", details=details)), TASK)
        assert told in caught.value.detail


@pytest.mark.parametrize(
    ("found", "error", "code"),
    [
        (answer({"detail": "Service Unavailable"}, 503), NotRun, "upstream_error"),
        (answer(b"<html>", 502), NotRun, "upstream_error"),
        (answer({"detail": "Not authenticated"}, 403), NotRun, "upstream_bad_credentials"),
        (answer({"detail": "Not Found"}, 404), NotRun, "upstream_model_unknown"),
        (answer(b"", 302), NotRun, "upstream_redirects"),
        (answer({"detail": "x"}, 429, retry_after="9"), NotRun, "upstream_rate_limited"),
        (answer({"status": "error", "message": "a proxy's"}, 502), Uncertain, "upstream_broken_answer"),
        (answer({**task("Ready"), "id": "another"}), Uncertain, "upstream_broken_answer"),
        (answer({"id": TASK, "status": 42}), Uncertain, "upstream_broken_answer"),
        (answer(b"[1]"), Uncertain, "upstream_broken_answer"),
        (answer(b""), Uncertain, "upstream_broken_answer"),
    ],
)
def test_a_look_that_says_nothing_of_the_task_ends_nothing(
    found: HttpResponse, error: type[ProviderError], code: str
) -> None:
    with pytest.raises(error) as caught:
        read_task(found, TASK)
    assert caught.value.code == code


def test_an_old_node_says_pending_by_202() -> None:
    assert read_task(answer(b"", 202), TASK) == Running()


LIST = [{"type": "multiple_of", "loc": ["body", "width"], "msg": "Input should be a multiple of 32"}]


@pytest.mark.parametrize(
    ("found", "error", "code"),
    [
        (answer({"detail": "bad"}, 400), RequestRefused, "upstream_rejected"),
        (answer({"detail": LIST}, 422), RequestRefused, "upstream_rejected"),
        (answer({"detail": "Invalid API key format"}, 422), BadCredentials, "upstream_bad_credentials"),
        (answer({"detail": "Not authenticated"}, 403), BadCredentials, "upstream_bad_credentials"),
        (answer({"detail": "Unauthorized"}, 401), BadCredentials, "upstream_bad_credentials"),
        (answer({"detail": "Insufficient credits"}, 402), OutOfCredit, "upstream_out_of_credit"),
        (answer({"detail": "Not Found"}, 404), UnknownModel, "upstream_model_unknown"),
        (answer(b"<html>nginx", 404), Misconfigured, "upstream_not_found"),
        (answer({"detail": "Too many active tasks"}, 429), NotRun, "upstream_rate_limited"),
        (answer({"detail": "Internal Server Error"}, 500), Uncertain, "upstream_error"),
        (answer({"error": "down", "message": "later"}, 503), Uncertain, "upstream_error"),
    ],
)
def test_errors_of_a_submit(found: HttpResponse, error: type[ProviderError], code: str) -> None:
    raised = classify(found)
    assert (type(raised), raised.code) == (error, code)


def test_the_faults_of_a_body_are_reported_with_their_place() -> None:
    assert "width" in classify(answer({"detail": LIST}, 422)).detail
    assert "later" in classify(answer({"message": "later"}, 400)).detail


def test_a_rate_limit_waits_as_requested_or_five_seconds() -> None:
    assert classify(answer({}, 429)).retry_after_s == 5
    assert classify(answer({}, 429, retry_after="31")).retry_after_s == 31


# ---------------------------------------------------------------- over HTTP


@dataclass
class Server:
    """Answers with the next prepared answer, and records the requests."""

    answers: list[tuple[int, bytes]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    def will(self, document: Any, status: int = 200) -> None:
        self.answers.append((status, document if isinstance(document, bytes) else json.dumps(document).encode()))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def provider(self, **outgoing: Any) -> Flux:
        return Flux(Config(api_key=SecretStr("k-secret"), base_url=f"{self.url}/gateway"), Outgoing(**outgoing))


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.asked.append((self.path, dict(self.headers)))
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


def call(poll_url: str | None = None, upstream_id: str | None = TASK, age_s: float | None = 3600) -> CallRef:
    return CallRef(f"call {poll_url}", "key", "flux-2-pro", upstream_id, poll_url, age_s=age_s)


def test_the_key_goes_to_the_base_as_x_key(server: Server) -> None:
    poll_url = f"{server.url}/elsewhere/get_result?id={TASK}"
    server.will({"id": TASK, "polling_url": poll_url, "cost": 3})
    server.will(task("Pending"))
    provider = server.provider()
    accepted = provider.submit(order(), dedupe_key="key")
    assert accepted == Accepted(TASK, poll_url)
    assert provider.check(call(poll_url)) == Running(step="Pending")
    assert [path for path, _ in server.asked] == ["/gateway/v1/flux-2-pro", f"/elsewhere/get_result?id={TASK}"]
    assert all(headers["x-key"] == "k-secret" and "Authorization" not in headers for _, headers in server.asked)


def test_a_foreign_poll_url_is_requested_without_the_key_and_only_where_it_may_lead(server: Server) -> None:
    foreign = f"http://localhost:{server.port}/v1/get_result?id={TASK}"
    with pytest.raises(Uncertain) as caught:
        server.provider().check(call(foreign))
    assert (caught.value.code, server.asked) == ("upstream_cannot_look", [])
    server.will(task("Pending"))
    trusting = server.provider(result_origins=frozenset({origin_of(foreign)}))
    assert trusting.check(call(foreign)) == Running(step="Pending")
    [(_path, headers)] = server.asked
    assert "x-key" not in headers


def test_a_poll_url_does_not_lead_to_private_addresses(server: Server) -> None:
    with pytest.raises(NotRun) as caught:
        server.provider().check(call(f"https://127.0.0.1/v1/get_result?id={TASK}"))
    assert "resolves to" in caught.value.detail  # judged, not merely refused by the server there


def test_a_poll_is_never_redirected(server: Server) -> None:
    server.will(b"", 302)
    with pytest.raises(NotRun) as caught:
        server.provider().check(call(f"{server.url}/v1/get_result?id={TASK}"))
    assert (caught.value.code, len(server.asked)) == ("upstream_redirects", 1)


@pytest.mark.parametrize("document", [b"", b"<html>", {}, {"id": 7}, {"id": " "}, [1], {"polling_url": "https://x"}])
def test_a_submit_answered_without_a_task_is_uncertain(server: Server, document: object) -> None:
    server.will(document)
    with pytest.raises(Uncertain):
        server.provider().submit(order(), dedupe_key="key")
    assert len(server.asked) == 1


def test_a_call_that_never_got_an_id_is_not_called_missing(server: Server) -> None:
    provider, lost = server.provider(), call(upstream_id=None)
    with pytest.raises(Uncertain) as caught:
        provider.check(lost)
    assert caught.value.code == "upstream_cannot_look"
    assert isinstance(provider.check_many([lost])[lost.id], Uncertain)
    assert provider.lookup(lost, datetime.now(UTC), order()) == []
    assert provider.cancel(lost) == UpstreamCancel.UNSUPPORTED
    assert server.asked == []


def test_not_found_means_missing_only_after_a_while_and_on_the_tasks_own_host(server: Server) -> None:
    own = f"{server.url}/v1/get_result?id={TASK}"
    for _ in range(4):
        server.will(task("Task not found"))
    provider = server.provider()
    assert provider.check(call(own, age_s=2)) == Running(step="Task not found")
    assert provider.check(call(own, age_s=None)) == Running(step="Task not found")
    assert provider.check(call(own)) == Missing()
    with pytest.raises(Uncertain):
        provider.check(call(None))
    assert server.asked[-1][0] == f"/gateway/v1/get_result?id={TASK}"


@pytest.mark.parametrize(("age_s", "wanted"), [(2.0, Running(step="Task not found")), (3600.0, Missing())])
@pytest.mark.parametrize("clock_off_s", [-86_400, 86_400])
def test_the_age_of_a_task_is_the_databases_whatever_our_clock_says(
    server: Server, age_s: float, wanted: Running | Missing, clock_off_s: int
) -> None:
    server.will(task("Task not found"))
    intended_at = datetime.now(UTC) + timedelta(seconds=clock_off_s)
    poll_url = f"{server.url}/v1/get_result?id={TASK}"
    assert server.provider().check(replace(call(poll_url, age_s=age_s), intended_at=intended_at)) == wanted


def test_a_cluster_that_is_away_does_not_hide_the_others(server: Server) -> None:
    """Nothing listens on port 1. There are more calls than one look takes, and that of the other host is last."""
    away = [call(f"http://localhost:1/v1/get_result?id={number}") for number in range(40)]
    there = call(f"{server.url}/v1/get_result?id={TASK}")
    server.will(task("Pending"))
    trusted = frozenset({origin_of("http://localhost:1")})
    found = server.provider(result_origins=trusted).check_many([*away, there])
    assert {type(found[each.id]) for each in away} == {NotRun}
    assert found[there.id] == Running(step="Pending")


def test_the_repr_of_a_provider_hides_the_key(server: Server) -> None:
    assert "k-secret" not in repr(server.provider())
