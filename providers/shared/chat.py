"""Streaming chat completions of OpenAI-shaped upstreams: the text of prompt enhancement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from providers.errors import ContentRefused, ProviderError, Uncertain
from providers.http.client import StreamedResponse, UpstreamSession, WireRequest
from providers.http.sse import EventTooLongError, events
from providers.shared import openai_errors
from providers.shared.openai_errors import classify_in_stream, read_fault
from providers.shared.reading import json_object

TOTAL_S = 120.0
MAX_STREAM_BYTES = 4 * 1024 * 1024

Classify = Callable[[int, Mapping[str, str], bytes], ProviderError]


def chat_request(
    path: str, model: str, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]
) -> WireRequest:
    """A streamed chat completion; a setting that is left out is the model's own."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [dict(message) for message in messages],
        "stream": True,
        **settings,
    }
    return WireRequest("POST", path, json=body)


def stream_chat(
    session: UpstreamSession,
    path: str,
    model: str,
    messages: Sequence[Mapping[str, str]],
    temperature: float | None,
    *,
    max_tokens: int | None = None,
    max_tokens_field: str = "max_tokens",
    classify: Classify = openai_errors.classify,
) -> Iterator[str]:
    """The text of one completion, piece by piece. The request is sent by the call, not by the first piece.

    A model that refuses a setting by its name is asked once more without it. ``max_tokens_field``: the upstream's name
    for the most tokens to write. ``classify`` reads the upstream's errors.
    Raises: ProviderError, at the call and between pieces.
    """
    asked = {"temperature": temperature, max_tokens_field: max_tokens}
    settings = {name: value for name, value in asked.items() if value is not None}
    answer = _open(session, chat_request(path, model, messages, settings))
    while answer.status == 400:
        body = b"".join(answer)
        refused = _named(body, settings)
        if refused is None:
            raise classify(400, answer.headers, body)
        del settings[refused]
        answer = _open(session, chat_request(path, model, messages, settings))
    if answer.status != 200:
        raise classify(answer.status, answer.headers, b"".join(answer))
    return _read(answer)


def _open(session: UpstreamSession, request: WireRequest) -> StreamedResponse:
    return session.stream(request, total_s=TOTAL_S, max_bytes=MAX_STREAM_BYTES)


def _named(body: bytes, settings: Iterable[str]) -> str | None:
    """The setting that a refusal is about; None where it names none that was sent."""
    fault = read_fault(json_object(body))
    words = (fault.param or fault.message).lower() if fault else ""
    return next((name for name in settings if name in words), None)


def _read(answer: StreamedResponse) -> Iterator[str]:
    try:
        if "json" in answer.headers.get("Content-Type", ""):
            yield _whole(b"".join(answer))
        else:
            yield from deltas(answer)
    finally:
        answer.close()  # the reader may stop early; then the upstream should stop too


def _whole(body: bytes) -> str:
    """The text of an answer that is not streamed."""
    answer = json_object(body)
    fault = read_fault(answer)
    if fault is not None:
        raise classify_in_stream(fault)
    text = _choice(answer or {}).get("message", {})
    content = text.get("content") if isinstance(text, dict) else None
    if not isinstance(content, str):
        raise Uncertain("upstream_broken_answer", "no text in the completion")
    return content


def deltas(chunks: Iterable[bytes]) -> Iterator[str]:
    """The pieces of text of a chat stream, without empty ones.

    Raises: the error that an error object in the stream means; ContentRefused for a refusal; Uncertain when
        the stream ends before the model said that it is done.
    """
    done = False
    try:
        for data in events(chunks):
            if data.strip() == "[DONE]":
                return
            chunk = json_object(data.encode())
            if chunk is None:
                raise Uncertain("upstream_broken_answer", "an event is not a JSON object")
            text, reason = _delta(chunk)
            if text:
                yield text
            done = done or reason is not None
    except EventTooLongError as error:
        raise Uncertain("upstream_answer_too_large", "one event") from error
    if not done:
        raise Uncertain("upstream_broken_answer", "the stream was cut")


def _delta(chunk: Mapping[str, Any]) -> tuple[str, str | None]:
    """Text and finish reason of one chunk."""
    fault = read_fault(chunk)
    if fault is not None:
        raise classify_in_stream(fault)
    choice = _choice(chunk)
    delta = choice.get("delta")
    delta = delta if isinstance(delta, dict) else {}
    reason = choice.get("finish_reason")
    if delta.get("refusal") or reason == "content_filter":
        raise ContentRefused(detail="the chat model refused", stage="output")
    content = delta.get("content")
    return (content if isinstance(content, str) else "", reason if isinstance(reason, str) else None)


def _choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}
