"""OpenAI's models and chat completions, by OpenAI's own client: lists, names, text whole and in pieces, faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from app_doubles import MINE, THEIRS, Edge, make_edge
from openai import OpenAI

from app.enhancement import Enhancer
from app.http.held import HOLD, BrokenOff, Hold
from app.orders.idempotency_key import COUNT_HEADER
from app.services import EXTENSION
from jobs.reads import funds
from jobs.reads.funds import Funds
from providers.errors import ContentRefused, NotRun, Uncertain

USER = [{"role": "user", "content": "a fox"}]


@pytest.fixture
def edge() -> Edge:
    return make_edge()


@pytest.fixture
def client(edge: Edge) -> OpenAI:
    http = httpx.Client(transport=httpx.WSGITransport(app=edge.app))  # type: ignore[arg-type]
    return OpenAI(api_key="dk_a_secret", base_url="http://here/v1", http_client=http, max_retries=0)


def post(edge: Edge, **body: Any) -> Any:
    return edge.client.post("/v1/chat/completions", json={"messages": USER, **body}, headers=MINE)


# ---------------------------------------------------------------- models


def test_every_model_that_can_be_used_is_listed_and_the_language_model_too(client: OpenAI) -> None:
    found = {model.id: model for model in client.models.list().data}
    assert found["gpt-image-2"].owned_by == found["gpt-5.4-mini"].owned_by == "openai"
    assert {model.owned_by for model in found.values()} == {"openai"}  # no other provider is configured
    assert all(model.object == "model" and model.created > 1_700_000_000 for model in found.values())
    for name in found:
        assert client.models.retrieve(name).id == name


@pytest.mark.parametrize(
    ("name", "own"),
    [("dall-e-3", "gpt-image-2"), ("GPT-Image-2", "gpt-image-2"), ("gpt-5.4-mini", "gpt-5.4-mini")],
)
def test_an_alias_is_answered_with_the_models_own_id(client: OpenAI, name: str, own: str) -> None:
    assert client.models.retrieve(name).id == own


@pytest.mark.parametrize("name", ["gpt-imge-2", "flux-2-pro", "x" * 300])
def test_a_model_that_cannot_be_used_is_not_found_and_the_nearest_is_named(client: OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve(name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert ("gpt-image-2" in caught.value.message) == (name == "gpt-imge-2")


def test_two_parts_are_no_model_of_openais(edge: Edge) -> None:
    """They are Replicate's ``{owner}/{name}``."""
    found = edge.client.get("/v1/models/openai/gpt-image-2", headers=MINE).json
    assert (found["owner"], found["name"]) == ("openai", "gpt-image-2")
    assert edge.client.get("/v1/models/no/one", headers=MINE).json["status"] == 404


def test_without_a_key_there_is_nothing(edge: Edge) -> None:
    for path in ("/v1/models", "/v1/models/gpt-image-2"):
        assert edge.client.get(path).json["error"]["code"] == "invalid_api_key"
    assert edge.client.post("/v1/chat/completions", json={"messages": USER}).status_code == 401


def test_two_providers_with_one_language_model_are_told_apart() -> None:
    names = Enhancer({"openai": "gpt", "xai": "grok", "chatgpt2api": "gpt"}, lambda name: None).names()  # type: ignore[arg-type, return-value]
    assert names == {"openai/gpt": "openai", "grok": "xai", "chatgpt2api/gpt": "chatgpt2api"}


# ---------------------------------------------------------------- chat


def test_a_completion_is_read_by_the_client(client: OpenAI, edge: Edge) -> None:
    done = client.chat.completions.create(
        model="gpt-5.4-mini",
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a fox"}, {"type": "text", "text": "in snow"}]},
        ],
        temperature=0.3,
        max_tokens=50,
        user="me",
    )
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("A red fox.", "stop")
    assert (done.model, done.usage, done.object) == ("gpt-5.4-mini", None, "chat.completion")
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a fox\nin snow"}]
    assert edge.writer.asked == [(messages, 0.3)]
    assert edge.writer.max_tokens == 50


def test_a_stream_is_read_by_the_client(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="gpt-5.4-mini", messages=USER, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(each.choices[0].delta.content or "" for each in chunks if each.choices) == "A red fox."
    assert [each.choices[0].finish_reason for each in chunks if each.choices][-1] == "stop"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], None)
    assert len({each.id for each in chunks}) == 1


def test_a_stream_ends_with_done_and_is_not_buffered(edge: Edge) -> None:
    answer = post(edge, stream=True)
    assert answer.text.endswith("data: [DONE]\n\n")
    assert (answer.content_type, answer.headers["X-Accel-Buffering"]) == ("text/event-stream", "no")
    assert '"usage"' not in answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_before_the_first_word_has_a_status(client: OpenAI, edge: Edge, *, stream: bool) -> None:
    edge.writer.pieces = [NotRun("rate_limited", "secret words")]
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="gpt-5.4-mini", messages=USER, stream=stream)
    assert caught.value.status_code == 502
    assert "secret" not in str(caught.value)


def test_a_fault_in_the_middle_of_a_stream_raises_in_the_client(client: OpenAI, edge: Edge) -> None:
    edge.writer.pieces = ["A red ", Uncertain("upstream_no_answer", "secret words")]
    read: list[str] = []
    with pytest.raises(openai.APIError, match="upstream_no_answer"):
        for each in client.chat.completions.create(model="gpt-5.4-mini", messages=USER, stream=True):
            read.append(each.choices[0].delta.content or "")
    assert "".join(read) == "A red "
    assert "[DONE]" not in post(edge, stream=True).text


def test_a_fault_in_the_middle_of_a_whole_answer_has_a_status_too(edge: Edge) -> None:
    edge.writer.pieces = ["A red ", Uncertain("upstream_no_answer", "secret words")]
    answer = post(edge)
    assert (answer.status_code, answer.json["error"]["code"]) == (502, "upstream_failed")


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_of_the_language_model_is_a_finish_reason(client: OpenAI, edge: Edge, *, stream: bool) -> None:
    edge.writer.pieces = ["A red ", ContentRefused()]
    made: Any = client.chat.completions.create(model="gpt-5.4-mini", messages=USER, stream=stream)
    last = list(made)[-1] if stream else made
    assert last.choices[0].finish_reason == "content_filter"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": []}, "messages", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, "invalid_value"),
        ({"messages": [{"role": "user", "content": "x" * 32_001}]}, "messages", "invalid_value"),
        ({"n": 2}, "n", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools", "unknown_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unknown_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
    ],
)
def test_what_cannot_be_done_is_refused_in_openais_words(
    edge: Edge, body: dict[str, Any], param: str | None, code: str
) -> None:
    answer = post(edge, **body)
    error = answer.json["error"]
    assert (answer.status_code, error["code"]) == (400, code), answer.json
    assert param is None or error["param"] == param
    assert not edge.writer.asked


def test_an_unknown_model_names_the_language_models(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"gpt-5\.4-mini") as caught:
        client.chat.completions.create(model="gpt-image-2", messages=USER)
    assert caught.value.code == "model_not_found"


def test_fields_without_a_meaning_here_are_named(edge: Edge) -> None:
    answer = post(edge, top_p=0.5, seed=4, **{"odd\nname": 1})
    assert (answer.status_code, answer.headers["X-Darkroom-Ignored-Fields"]) == (200, "seed, top_p")


def test_an_account_without_credits_is_told_as_openai_would(edge: Edge) -> None:
    edge.rows.answers[funds.funds] = lambda account_id: Funds(spendable=0, queued=0, held=0)
    answer = post(edge)
    assert (answer.status_code, answer.json["error"]["code"]) == (429, "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"


def test_chats_are_limited_like_enhancements() -> None:
    edge = make_edge(DARKROOM_RATE_LIMIT_ENHANCE="1/minute")
    assert post(edge).status_code == 200
    refused = post(edge)
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refused.headers["Retry-After"]
    theirs = edge.client.post("/v1/chat/completions", json={"messages": USER}, headers=THEIRS)
    assert theirs.status_code == 200


@pytest.fixture
def slow(edge: Edge) -> Edge:
    """The status cannot wait for the text."""
    edge.app.extensions[HOLD] = Hold(quiet_s=0.0)
    return edge


def test_a_long_whole_answer_is_kept_alive_and_still_json(slow: Edge) -> None:
    answer = post(slow)
    assert answer.text.startswith(" ")
    assert answer.json["choices"][0]["message"]["content"] == "A red fox."


def test_a_failure_behind_white_space_is_an_error_or_a_broken_answer(slow: Edge) -> None:
    slow.writer.pieces = ["A ", Uncertain("upstream_no_answer")]
    assert post(slow).json["error"]["code"] == "upstream_failed"
    with pytest.raises(BrokenOff):
        slow.client.post(
            "/v1/chat/completions", json={"messages": USER}, headers={**MINE, COUNT_HEADER: "0"}
        ).get_data()


def test_no_language_model_is_said_so(edge: Edge) -> None:
    parts = edge.app.extensions[EXTENSION]
    parts.enhancer.models.clear()
    assert post(edge).json["error"]["code"] == "enhancer_not_configured"
    assert [each["id"] for each in edge.client.get("/v1/models", headers=MINE).json["data"]].count("gpt-5.4-mini") == 0


def test_settings_that_an_upstream_refuses_are_left_out(edge: Edge) -> None:
    """None is sent for what the caller left to the model."""
    assert post(edge).status_code == 200
    assert edge.writer.asked[0][1] is None
    assert edge.writer.max_tokens == 8192


def test_a_length_may_have_its_newer_name(edge: Edge) -> None:
    assert post(edge, max_completion_tokens=7, max_tokens=50).status_code == 200
    assert edge.writer.max_tokens == 7
    assert post(edge, max_tokens=100_000).status_code == 200
    assert edge.writer.max_tokens == 8192


def test_the_model_is_let_go_of_once_the_client_has_left(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def endless(*_asked: Any, **_how: Any) -> Iterator[str]:
        try:
            while True:
                yield "and "
        finally:
            let_go.set()

    monkeypatch.setattr(edge.writer, "stream_text", endless)
    answer = post(edge, stream=True)
    next(iter(answer.response))
    answer.close()
    assert let_go.wait(5)
