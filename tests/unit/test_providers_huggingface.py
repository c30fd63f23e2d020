"""Hugging Face: the request of each route, and what each answer means, without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from requests.structures import CaseInsensitiveDict

from providers.base import Accepted, InputImage, Running, UpstreamOrder
from providers.catalog import catalog
from providers.errors import (
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
from providers.http.client import HttpResponse
from providers.upstreams.huggingface import answers
from providers.upstreams.huggingface.adapter import Config, build_submit
from providers.upstreams.huggingface.mapping import KEPT_S, ProviderIds

JPEG = InputImage(b"jpeg bytes", "image/jpeg", 64, 64)
JPEG_URI = "data:image/jpeg;base64," + base64.b64encode(JPEG.data).decode()
MODELS = catalog.load().models
ROUTER = "https://router.huggingface.co"


def order(model: str, **facts: Any) -> UpstreamOrder:
    known = MODELS[model]
    return UpstreamOrder(**{"operation": known.operation, "model": known, "prompt": "a red fox", **facts})


def answer(status: int, body: object = b"", **headers: str) -> HttpResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status, CaseInsensitiveDict(named), data)


# ---------------------------------------------------------------- configuration


def test_blank_variables_count_as_unset_and_the_token_is_not_shown() -> None:
    config = Config.from_env({"HF_TOKEN": " hf_secret ", "HF_ROUTER_BASE_URL": " ", "HF_BILL_TO": ""})
    assert config is not None
    assert (config.base_url, config.hub_url) == (ROUTER, "https://huggingface.co")
    assert config.headers() == {"Authorization": "Bearer hf_secret"}
    assert "hf_secret" not in repr(config)
    assert Config.from_env({"HF_TOKEN": " "}) is None


def test_another_account_may_pay() -> None:
    assert Config(token=SecretStr("hf_x"), bill_to="my-org").headers()["X-HF-Bill-To"] == "my-org"


# ---------------------------------------------------------------- requests

ALL = {"negative_prompt": "blurry", "seed": 7, "steps": 20, "guidance": 3.5}
WIRE = {"negative_prompt": "blurry", "seed": 7, "num_inference_steps": 20, "guidance_scale": 3.5}
BOX = {"width": 768, "height": 512}


@pytest.mark.parametrize(
    ("asked", "path", "body"),
    [
        (
            order("hf-sd3-medium", size=BOX, params={**ALL, "sampler": "Euler"}),
            "/hf-inference/models/stabilityai/stable-diffusion-3-medium-diffusers",
            {"inputs": "a red fox", "parameters": {**WIRE, **BOX, "scheduler": "Euler"}},
        ),
        (
            order("hf-sd3-medium"),
            "/hf-inference/models/stabilityai/stable-diffusion-3-medium-diffusers",
            {"inputs": "a red fox"},
        ),
        (
            order("hf-flux-dev", size=BOX, params=ALL),
            "/fal-ai/fal-ai/flux/dev?_subdomain=queue",
            {"prompt": "a red fox", "image_size": BOX, **WIRE},
        ),
        (order("hf-flux-dev"), "/fal-ai/fal-ai/flux/dev?_subdomain=queue", {"prompt": "a red fox"}),
        (
            order("hf-flux-2-klein-9b-edit", images=[JPEG], size=BOX, params={"seed": 7}),
            "/fal-ai/fal-ai/flux-2/klein/9b/edit?_subdomain=queue",
            {"prompt": "a red fox", "image_size": BOX, "seed": 7, "image_url": JPEG_URI, "image_urls": [JPEG_URI]},
        ),
        (
            order("hf-flux-schnell", size={"size": "768x512"}, params={"seed": 7}),
            "/nscale/v1/images/generations",
            {
                "prompt": "a red fox",
                "model": "black-forest-labs/FLUX.1-schnell",
                "response_format": "b64_json",
                "size": "768x512",
                "seed": 7,
            },
        ),
        (
            order("hf-flux-2-dev-edit", images=[JPEG], params={"seed": 7}),
            "/wavespeed/api/v3/wavespeed-ai/flux-2-dev/edit",
            {"prompt": "a red fox", "seed": 7, "image": JPEG_URI},
        ),
    ],
)
def test_what_each_route_is_asked(asked: UpstreamOrder, path: str, body: Mapping[str, Any]) -> None:
    request = build_submit(asked, asked.model.provider_model or "")
    assert (request.method, request.path) == ("POST", path)
    assert request.json == body


def test_only_the_route_of_raw_images_is_sent_a_format() -> None:
    assert build_submit(order("hf-sd3-medium"), "a/b").headers == {"Accept": "image/png"}
    assert build_submit(order("hf-flux-dev"), "a/b").headers == {}


def test_extra_fields_go_where_the_settings_go() -> None:
    assert build_submit(order("hf-sd3-medium", extra={"eta": 0.5}), "a/b").json == {
        "inputs": "a red fox",
        "parameters": {"eta": 0.5},
    }
    assert build_submit(order("hf-flux-dev", extra={"acceleration": "high"}), "a/b").json == {
        "prompt": "a red fox",
        "acceleration": "high",
    }


@pytest.mark.parametrize(
    "name", ["num_images", "sync_mode", "parameters", "inputs", "image_size", "width", "prompt", "n"]
)
def test_extra_fields_cannot_change_what_is_bought(name: str) -> None:
    with pytest.raises(RequestRefused):
        build_submit(order("hf-flux-dev", extra={name: 2}), "a/b")


def test_every_model_of_the_catalogue_has_a_route() -> None:
    for model in MODELS.values():
        if model.provider == "huggingface":
            images = [JPEG] if model.operation == "edit" else []
            assert build_submit(order(model.id, images=images), "a/b").path.startswith(f"/{model.hf_provider}/")


def test_an_unknown_route_is_misconfigured() -> None:
    model = MODELS["hf-flux-dev"].model_copy(update={"hf_provider": "elsewhere"})
    with pytest.raises(Misconfigured):
        build_submit(UpstreamOrder(operation="generate", model=model, prompt="x"), "a/b")


# ---------------------------------------------------------------- the mapping


class Hub:
    """Returns its answers one by one and counts the requests."""

    def __init__(self, *given: HttpResponse | ProviderError) -> None:
        self.given = list(given)
        self.asked: list[str] = []

    def send(self, request: Any, **_limits: object) -> HttpResponse:
        self.asked.append(request.path)
        found = self.given.pop(0)
        if isinstance(found, ProviderError):
            raise found
        return found


def mapped(**entries: object) -> HttpResponse:
    named = {name.replace("_", "-"): entry for name, entry in entries.items()}
    return answer(200, {"id": "org/model", "inferenceProviderMapping": named})


def entry(provider_id: str = "fal-ai/flux/krea", task: str = "text-to-image") -> dict[str, str]:
    return {"status": "live", "providerId": provider_id, "task": task}


def ids(hub: Hub) -> tuple[ProviderIds, SimpleNamespace]:
    clock = SimpleNamespace(now=0.0)
    return ProviderIds(hub, lambda: clock.now), clock  # type: ignore[arg-type]


def test_a_mapping_is_kept_for_ten_minutes() -> None:
    hub = Hub(mapped(fal_ai=entry()), mapped(fal_ai=entry("fal-ai/moved")))
    known, clock = ids(hub)
    for _ in range(2):
        assert known.find("org/model", "fal-ai", "text-to-image") == "fal-ai/flux/krea"
    assert hub.asked == ["/api/models/org/model?expand[]=inferenceProviderMapping"]
    clock.now = KEPT_S
    assert known.find("org/model", "fal-ai", "text-to-image") == "fal-ai/moved"


def test_an_old_mapping_serves_while_the_hub_is_away() -> None:
    hub = Hub(mapped(fal_ai=entry()), Uncertain("upstream_no_answer"), answer(500))
    known, clock = ids(hub)
    known.find("org/model", "fal-ai", "text-to-image")
    for _ in range(2):
        clock.now += KEPT_S
        assert known.find("org/model", "fal-ai", "text-to-image") == "fal-ai/flux/krea"


@pytest.mark.parametrize("away", [NotRun("upstream_unreachable"), Uncertain("x"), answer(500), answer(200, b"<html>")])
def test_without_a_mapping_nothing_is_bought(away: HttpResponse | ProviderError) -> None:
    known, _ = ids(Hub(away))
    with pytest.raises(NotRun):
        known.find("org/model", "fal-ai", "text-to-image")


def test_the_wait_of_the_hub_s_limit_is_kept() -> None:
    known, _ = ids(Hub(answer(429, RateLimit='"api";r=0;t=55')))
    with pytest.raises(NotRun) as caught:
        known.find("org/model", "fal-ai", "text-to-image")
    assert caught.value.retry_after_s == 56


@pytest.mark.parametrize(
    "told",
    [
        mapped(replicate=entry()),
        mapped(fal_ai=entry(task="image-to-image")),
        mapped(fal_ai=entry("../../evil")),
        mapped(fal_ai=entry("fal-ai/../evil")),
        mapped(fal_ai=entry("fal-ai//evil")),
        mapped(fal_ai=entry("fal-ai/flux?x=1")),
        mapped(fal_ai=entry("")),
        mapped(fal_ai="x"),
        answer(200, {"id": "org/model"}),
        answer(404, {"error": "Repository not found"}),
    ],
)
def test_a_model_without_that_route_is_unknown_and_asked_for_again(told: HttpResponse) -> None:
    hub = Hub(told, mapped(fal_ai=entry()))
    known, _ = ids(hub)
    with pytest.raises(UnknownModel):
        known.find("org/model", "fal-ai", "text-to-image")
    assert known.find("org/model", "fal-ai", "text-to-image")


# ---------------------------------------------------------------- images

PNG = b"\x89PNG\r\n\x1a\n..."
ENCODED = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "seen",
    [
        answer(200, PNG, Content_Type="image/png"),
        answer(200, b"whatever", Content_Type="image/jpeg"),
        answer(200, PNG, Content_Type="application/octet-stream"),
        answer(200, PNG),
        answer(200, {"data": [{"b64_json": ENCODED}]}, Content_Type="application/json"),
        answer(200, {"output": ["https://cdn.test/a.png"]}, Content_Type="application/json; charset=utf-8"),
    ],
)
def test_a_raw_image_and_what_was_seen_instead(seen: HttpResponse) -> None:
    [image] = answers.read_raw(seen, ROUTER).images
    assert image.data in (PNG, b"whatever") or image.url == "https://cdn.test/a.png"


@pytest.mark.parametrize(
    "seen",
    [
        answer(200, b"", Content_Type="image/png"),
        answer(200, b"<html>", Content_Type="text/html"),
        answer(200, {"error": "x"}, Content_Type="application/json"),
        answer(200, b"[1]", Content_Type="application/json"),
    ],
)
def test_anything_else_is_uncertain(seen: HttpResponse) -> None:
    with pytest.raises(Uncertain):
        answers.read_raw(seen, ROUTER)


# ---------------------------------------------------------------- tasks


def fal(link: object = "https://queue.fal.run/fal-ai/flux/requests/r1", **facts: object) -> HttpResponse:
    return answer(200, {"request_id": "r1", "status": "IN_QUEUE", "response_url": link, **facts})


def test_of_a_link_only_the_path_is_kept() -> None:
    assert answers.read_fal_task(fal()) == Accepted("r1", poll_url="/fal-ai/fal-ai/flux/requests/r1")
    task = {"id": "t1", "urls": {"get": "https://api.wavespeed.ai/api/v3/predictions/t1/result"}}
    assert answers.read_wavespeed_task(task) == Accepted("t1", poll_url="/wavespeed/api/v3/predictions/t1/result")
    evil = fal("https://evil.test/fal-ai/flux/requests/r1?x=1#y")
    assert answers.read_fal_task(evil).poll_url == "/fal-ai/fal-ai/flux/requests/r1"


@pytest.mark.parametrize(
    "link",
    [None, 7, "", "https://queue.fal.run", "https://q/../../x", "https://q/a/%2e%2e/b", "https://q/a b", "http://[/a"],
)
def test_a_link_of_no_use_is_uncertain(link: object) -> None:
    with pytest.raises(Uncertain):
        answers.read_fal_task(fal(link))


@pytest.mark.parametrize("status", ["IN_QUEUE", "IN_PROGRESS", "DREAMING"])
def test_a_task_that_goes_on(status: str) -> None:
    assert answers.read_fal_status(answer(200, {"status": status})) == Running(step=status.lower())
    assert answers.read_fal_status(answer(200, {"status": "COMPLETED"})) is None


def result(*urls: str, **facts: object) -> HttpResponse:
    return answer(200, {"images": [{"url": url} for url in urls], "seed": 7, **facts})


def test_a_result_has_links_and_a_seed() -> None:
    done = answers.read_fal_result(result("https://v3.fal.media/a.png", has_nsfw_concepts=[False]), ROUTER)
    assert [(image.url, image.seed) for image in done.images] == [("https://v3.fal.media/a.png", 7)]


def test_a_blacked_out_image_does_not_count() -> None:
    one_of_two = result("https://v3.fal.media/a.png", "https://v3.fal.media/b.png", has_nsfw_concepts=[True, False])
    assert [image.url for image in answers.read_fal_result(one_of_two, ROUTER).images] == ["https://v3.fal.media/b.png"]
    with pytest.raises(ContentRefused) as refused:
        answers.read_fal_result(result("https://v3.fal.media/a.png", has_nsfw_concepts=[True]), ROUTER)
    assert (refused.value.stage, refused.value.charged) == ("output", True)


DETAIL = {"detail": [{"loc": ["body", "image_url"], "msg": "too small", "type": "image_too_small", "input": "SECRET"}]}
POLICY = {"detail": [{"loc": ["body", "prompt"], "msg": "flagged", "type": "content_policy_violation"}]}


@pytest.mark.parametrize(
    ("seen", "error"),
    [
        (answer(422, DETAIL), RequestRefused),
        (answer(422, POLICY), ContentRefused),
        (answer(500, {"detail": "x"}), Failed),
        (answer(504, {"detail": [{"type": "generation_timeout"}]}), Failed),
        (result(), Failed),
        # About the request, not about the task:
        (answer(500, b"<html>"), Uncertain),
        (answer(401, {"error": "x"}), NotRun),
        (answer(404, {"detail": "Request not found"}), NotRun),
        (answer(422, {"error": "x"}), NotRun),
        (answer(429, {"error": "x"}), NotRun),
        (answer(200, b"<html>"), Uncertain),
    ],
)
def test_how_a_result_can_be_an_error(seen: HttpResponse, error: type[ProviderError]) -> None:
    with pytest.raises(error) as caught:
        answers.read_fal_result(seen, ROUTER)
    assert "SECRET" not in caught.value.detail


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("seen", "error"),
    [
        (answer(400, {"error": "Model not supported by provider hf-inference"}), UnknownModel),
        (answer(400, {"error": {"message": "bad size"}}), RequestRefused),
        (answer(422, DETAIL), RequestRefused),
        (answer(402, {"error": "You have exceeded your monthly included credits"}), OutOfCredit),
        (answer(404, {"error": "Not Found"}), UnknownModel),
        (answer(410, b"gone", Content_Type="text/plain"), UnknownModel),
        (answer(429, {"error": "x"}), NotRun),
        (answer(500, {"error": "x"}), Uncertain),
        (answer(503, {"error": "Service Unavailable"}), Uncertain),
        (answer(400, {"code": 400, "message": "insufficient balance"}), OutOfCredit),
        (answer(400, {"code": 1200, "message": "nsfw"}), ContentRefused),
    ],
)
def test_errors_in_any_form(seen: HttpResponse, error: type[ProviderError]) -> None:
    assert isinstance(answers.classify(seen), error)


@pytest.mark.parametrize(("told", "wait_s"), [(20.0, 20), (0.2, 1), (900, 60)])
def test_a_model_that_loads_ran_nothing(told: float, wait_s: float) -> None:
    error = answers.classify(answer(503, {"error": "Model x is currently loading", "estimated_time": told}))
    assert isinstance(error, NotRun)
    assert error.retry_after_s == wait_s


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"RateLimit": '"api";r=0;t=55'}, 56),
        ({"RateLimit": '"api";r=3;t=55'}, None),
        ({"RateLimit": '"api";r=3;t=55', "Retry-After": "7"}, 7),
        ({"RateLimit": "nonsense"}, None),
    ],
)
def test_the_wait_of_a_limit(headers: dict[str, str], wait_s: float | None) -> None:
    assert answers.wait_of(CaseInsensitiveDict(headers)) == wait_s


def test_the_request_id_is_in_the_log_and_the_token_is_not() -> None:
    error = answers.classify(answer(400, {"error": "bad token hf_abcdefghijk"}, x_request_id="Root=1-67;abc"))
    assert "Root=1-67;abc" in error.detail
    assert "hf_abcdefghijk" not in error.detail
