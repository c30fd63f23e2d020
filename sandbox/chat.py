"""Text for ``/chat/completions``: a fuller prompt made of the user's own words, whole or as an SSE stream."""

import itertools
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Response, jsonify

from sandbox.drawing import scenery
from sandbox.faults import Script
from sandbox.markers import without_markers
from sandbox.plumbing.calls import Calls, WireError
from sandbox.plumbing.validation import load_yaml
from sandbox.state import current_state

CREATIVE_FROM_TEMPERATURE = 0.55
_CREATIVE = "{twists}; {lights}, {palettes}, {moods}."
_DETAILED = "{views}; {lights}, {palettes}; {finishes} – nothing in the frame by accident."
_PHRASES: dict[str, list[str]] = load_yaml(__file__, "phrases.yaml")


@dataclass(frozen=True)
class Talk:
    """One finished text and how to send it. ``comment`` opens a stream."""

    model: str
    text: str
    asked: str
    include_usage: bool
    comment: str | None = None
    number: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex[:24]}")
    created_at: int = field(default_factory=lambda: int(time.time()))

    @property
    def usage(self) -> dict[str, int]:
        """A plausible token count."""
        read, written = tokens_in(self.asked), tokens_in(self.text)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def document(self, kind: str, choice: dict[str, Any], finish: str | None) -> dict[str, Any]:
        """The answer or one chunk of it, around its one choice."""
        choices = [{"index": 0, **choice, "finish_reason": finish}]
        head = {"id": self.number, "object": kind, "created": self.created_at}
        return {**head, "model": self.model, "choices": choices}


def tokens_in(text: str) -> int:
    """About as many tokens as the real thing would count."""
    return max(1, (len(text) + 3) // 4)


def user_text(messages: object) -> str:
    """The text of the last user message, content given as a string or as parts."""
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            return _content_text(message.get("content"))
    return ""


def _content_text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def serve(
    calls: Calls,
    document: Mapping[str, Any],
    asked: str,
    *,
    barred: WireError | None = None,
    comment: str | None = None,
) -> Response:
    """The answer to a checked request whose last user message is ``asked``: counted, streamed or whole, as scripted.

    ``comment`` opens a stream. Raises ``barred`` once the request is counted, for an account without money.
    """
    here = current_state()
    here.counts.chat(calls.provider)
    if barred is not None:
        raise barred
    call = calls.begin("chat", asked)
    options, warmth = document.get("stream_options"), document.get("temperature")
    text = enhanced(asked, temperature=0.35 if warmth is None else float(warmth))
    with_usage = isinstance(options, dict) and options.get("include_usage") is True
    talk = Talk(str(document["model"]), text, asked, with_usage, comment)
    if document.get("stream") is not True:
        return call.answer(jsonify(_whole(talk, call.script)))
    events = _stream(talk, call.script, delta_pause_s=here.settings.chat_delta_s)
    return call.answer(Response(events, content_type="text/event-stream"))


def enhanced(text: str, *, temperature: float) -> str:
    """A fuller prompt: always the same for the same words, beginning with those words.

    A high temperature gives the creative variant, a low one the detailed.
    """
    subject = without_markers(text).rstrip(" .,;") or "A quiet landscape"
    creative = temperature >= CREATIVE_FROM_TEMPERATURE
    dice = scenery.generator("chat", subject, creative)
    said = {name: dice.choice(phrases) for name, phrases in _PHRASES.items()}
    form = _CREATIVE if creative else _DETAILED
    return f"{subject}, {form.format(**said)}"


def _whole(talk: Talk, script: Script) -> dict[str, Any]:
    """The answer without streaming."""
    finish = "content_filter" if script.get("content_filter") else "stop"
    message = {"role": "assistant", "content": talk.text, "refusal": None}
    return {**talk.document("chat.completion", {"message": message, "logprobs": None}, finish), "usage": talk.usage}


def _stream(talk: Talk, script: Script, *, delta_pause_s: float) -> Iterator[bytes]:
    """The answer as server-sent events, spoilt where ``script`` says so."""
    newline = "\r\n" if script.get("crlf") else "\n"
    pieces = (event.replace("\n", newline).encode() for event in _events(talk, script))
    first_wait = script.get("chat_latency")
    if first_wait:
        time.sleep(first_wait.number(1.0))
    for piece in _split_badly(pieces) if script.get("split") else pieces:
        yield piece
        time.sleep(delta_pause_s)


def _split_badly(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Five bytes at a time, and always between the bytes of one character."""
    for piece in pieces:
        cuts = {
            *range(0, len(piece) + 5, 5),
            *(place + 1 for place, byte in enumerate(piece) if byte >= 0xC0),
        }
        for start, end in itertools.pairwise(sorted(cuts)):
            yield piece[start:end]


def _events(talk: Talk, script: Script) -> Iterator[str]:
    if talk.comment:
        yield f": {talk.comment}\n\n"
    yield _data(_chunk(talk, {"role": "assistant", "content": ""}))
    words = talk.text.split(" ")
    for place, word in enumerate(words):
        if place == len(words) // 2 and (broken := _break(talk, script)) is not None:
            yield from broken
            return
        if script.get("comments"):
            yield ": keep-alive\n\n"
        yield _data(_chunk(talk, {"content": word if place == 0 else f" {word}"}))
    yield from _ending(talk, script)


def _break(talk: Talk, script: Script) -> list[str] | None:
    """What comes instead of the second half, if anything does."""
    if script.get("early_close"):
        return []
    if script.get("stream_error"):
        error = {"message": "The server had an error while processing your request.", "type": "server_error"}
        return [_data({"error": {**error, "param": None, "code": None}})]
    if script.get("content_filter"):
        return [_data(_chunk(talk, {}, finish="content_filter")), "data: [DONE]\n\n"]
    return None


def _ending(talk: Talk, script: Script) -> Iterator[str]:
    yield _data(_chunk(talk, {}, finish="stop"))
    if talk.include_usage:
        yield _data({**_chunk(talk, {}), "choices": [], "usage": talk.usage})
    if not script.get("no_done"):
        yield "data: [DONE]\n\n"


def _chunk(talk: Talk, delta: dict[str, str], *, finish: str | None = None) -> dict[str, Any]:
    return talk.document("chat.completion.chunk", {"delta": delta}, finish)


def _data(document: dict[str, Any]) -> str:
    # Not ASCII-escaped, as the real servers send it: the reader must put UTF-8 together.
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"
