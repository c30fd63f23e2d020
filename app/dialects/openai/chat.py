"""OpenAI's chat completions with the language model that enhances prompts, whole or as a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, g, request

from app import allowance
from app.dialects.openai.models import not_found
from app.enhancement import Ended, Enhancer, Piece, Reader
from app.http.bodies import read_body, read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import InvalidRequestError, UpstreamFailedError, answer
from app.http.held import BrokenOff, held, hold_here
from app.http.responses import IN_PIECES, json_answer
from app.orders.idempotency_key import COUNT_HEADER
from app.services import Services, services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.openai_chat import MAX_CHARS, ChatBody, ChatCompletion, ChatMessage
from app.text_streams import FIRST_PIECE_S, check_credits, message_of, pieces_of, screen_text
from core.ids import new_id
from core.wire import json_text
from jobs.errors import FieldFault
from providers.errors import ContentRefused, ProviderError

bp = Blueprint("openai_chat", __name__)

# They would change what an answer looks like, which no client would notice in time.
# A chat costs its caller nothing and the operator by the token.
MAX_TOKENS = 8192
_REFUSED = ("tools", "functions", "audio", "prediction", "web_search_options")


@dataclass(frozen=True, slots=True)
class Talk:
    """One completion: what stands in each of its chunks."""

    id: str
    created: int
    model: str

    def document(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }

    def chunk(self, delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _record(self.document("chat.completion.chunk", [choice]))

    def whole(self, text: str, finish: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return self.document("chat.completion", [choice], usage=None)


@bp.post("/v1/chat/completions")
@describe(
    Endpoint(
        "Chat with the language model that enhances prompts",
        "openai",
        (
            Answer(
                200,
                "The completion; with `stream: true` its chunks as server-sent events, `[DONE]` last. A fault in the"
                " middle is a record with `error`, and no `[DONE]`.",
                ChatCompletion,
                media_types=("application/json", "text/event-stream"),
                headers=("X-Darkroom-Ignored-Fields",),
            ),
        ),
        scope="jobs:write",
        pace="enhance",
        errors=(
            "malformed_json",
            "insufficient_credits",
            "invalid_request",
            "unknown_model",
            "model_not_allowed",
            "upstream_failed",
            "enhancer_not_configured",
            "content_refused",
            "screening_unavailable",
        ),
        body=ChatBody,
        description="For text alone. Free, for accounts that hold credits; limited as `POST /api/prompts/enhance` is.",
    )
)
def complete() -> Response:
    read_query(Empty, request.args)
    asked = read_body(ChatBody, request)
    _check(asked)
    parts = services()
    enhancer = allowance.language_model(parts, g.caller, asked.model)
    provider, model = _model(parts, enhancer, asked.model)
    check_credits()
    screen_text("chat", "\n".join(filter(None, map(_text, asked.messages))), field_name="messages")
    source = enhancer.complete(
        provider,
        [_message(each) for each in asked.messages],
        temperature=asked.temperature,
        max_tokens=min(asked.max_completion_tokens or asked.max_tokens or MAX_TOKENS, MAX_TOKENS),
    )
    talk = Talk(f"chatcmpl-{new_id('req').removeprefix('req_')}", int(time.time()), model)
    response = _streamed(source, talk, asked) if asked.stream else _whole(source, talk)
    if ignored := sorted(asked.model_extra or ()):
        response.headers["X-Darkroom-Ignored-Fields"] = ", ".join(name for name in ignored if _is_plain(name))[:500]
    return response


def _check(asked: ChatBody) -> None:
    """Raises InvalidRequestError for what cannot be done here, rather than doing something else."""
    more = asked.model_extra or {}
    faults = [FieldFault(name, "not_supported", "is not served here") for name in _REFUSED if more.get(name)]
    if more.get("n") not in (None, 1):
        faults.append(FieldFault("n", "out_of_range", "one completion is made at a time"))
    wanted = more.get("response_format")
    if wanted is not None and not (isinstance(wanted, dict) and wanted.get("type") == "text"):
        faults.append(FieldFault("response_format", "not_supported", "only text is served here"))
    if sum(len(_text(each)) for each in asked.messages) > MAX_CHARS:
        faults.append(FieldFault("messages", "too_long", f"may have at most {MAX_CHARS} characters in all"))
    elif not any(_text(each).strip() for each in asked.messages if each.role == "user"):
        faults.append(FieldFault("messages", "required", "must have a text of the user"))
    if faults:
        raise InvalidRequestError(faults)


def _model(parts: Services, enhancer: Enhancer, name: str | None) -> tuple[str, str]:
    """Provider and name of the language model. Raises ModelNotFoundError."""
    names = {provider: own for own, provider in enhancer.names().items()}
    provider = next(iter(names)) if name is None else enhancer.provider_of(name)
    if provider is None:
        raise not_found(parts, g.caller, name or "", only=list(names.values()))
    return provider, names[provider]


def _message(message: ChatMessage) -> dict[str, str]:
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": _text(message)}


def _text(message: ChatMessage) -> str:
    if isinstance(message.content, list):
        return "\n".join(part.text for part in message.content)
    return message.content or ""


def _is_plain(name: str) -> bool:
    return name.isascii() and name.isprintable() and len(name) <= 60


# ---------------------------------------------------------------- as a stream


def _streamed(source: Iterator[str], talk: Talk, asked: ChatBody) -> Response:
    reader = Reader(source)
    first = reader.next(FIRST_PIECE_S)
    if isinstance(first, ProviderError) and not isinstance(first, ContentRefused):
        raise _failed(first)
    # Rendered in the request, which the stream outlives.
    error = json.loads(answer("upstream_failed").get_data())["error"]
    with_usage = asked.stream_options is not None and asked.stream_options.include_usage
    records = _records(pieces_of(reader, first), talk, error, with_usage=with_usage)
    response = Response(records, content_type="text/event-stream", headers=IN_PIECES)
    response.call_on_close(reader.close)
    return response


def _records(pieces: Iterator[Piece | None], talk: Talk, error: dict[str, Any], *, with_usage: bool) -> Iterator[str]:
    yield talk.chunk({"role": "assistant", "content": ""})
    finish = "stop"
    for piece in pieces:
        match piece:
            case None:
                yield ": still writing\n\n"
            case str():
                yield talk.chunk({"content": piece})
            case ContentRefused():
                finish = "content_filter"
            case ProviderError():
                yield _record({"error": {**error, "message": message_of(piece)}})
                return
            case Ended():
                pass
    yield talk.chunk({}, finish)
    if with_usage:
        yield _record(talk.document("chat.completion.chunk", [], usage=None))
    yield "data: [DONE]\n\n"


def _record(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


# ---------------------------------------------------------------- whole


def _whole(source: Iterator[str], talk: Talk) -> Response:
    """The whole text: with its true status if it is there soon, else behind white space."""
    reader = Reader(source)
    gather = _gathering(reader)
    hold = hold_here()
    found = gather(hold.quiet_s)
    if found is not None:
        text, end = found
        if isinstance(end, ProviderError) and not isinstance(end, ContentRefused):
            raise _failed(end)
        return json_answer(talk.whole(text, _finish(end)))
    failed = answer("upstream_failed").get_data()
    retries = COUNT_HEADER in request.headers

    def say(found: tuple[str, Piece]) -> bytes:
        text, end = found
        if isinstance(end, ProviderError) and not isinstance(end, ContentRefused):
            message_of(end)
            if retries:  # the SDK would take a 200 for an answer, and tries again after a broken one
                raise BrokenOff
            return failed
        return json_text(talk.whole(text, _finish(end))).encode()

    response = held(gather, say, beat_s=hold.beat_s, content_type="application/json", stopping=hold.stopping)
    response.call_on_close(reader.close)
    return response


def _gathering(reader: Reader) -> Callable[[float], tuple[str, Piece] | None]:
    """A function that waits at most so many seconds for the end, and returns the whole text and how it ended."""
    texts: list[str] = []
    pieces = pieces_of(reader, None, beat_s=1.0)
    next(pieces)  # the beat before the first piece

    def gather(timeout_s: float) -> tuple[str, Piece] | None:
        ends_at = time.monotonic() + timeout_s
        while time.monotonic() < ends_at:
            piece = next(pieces)
            if isinstance(piece, str):
                texts.append(piece)
            elif piece is not None:
                return "".join(texts), piece
        return None

    return gather


def _finish(end: Piece) -> str:
    return "content_filter" if isinstance(end, ContentRefused) else "stop"


def _failed(error: ProviderError) -> UpstreamFailedError:
    return UpstreamFailedError(message_of(error), upstream_code=error.code)
