"""Prompt enhancement, streamed as it is written: server-sent events, or plain text by Accept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, g, request

from app import allowance
from app.enhancement import Ended, Piece, Reader
from app.http.bodies import read_body, read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import NotAcceptableError, UpstreamFailedError, problem
from app.http.responses import IN_PIECES
from app.services import services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.service import EnhanceIn
from app.text_streams import FIRST_PIECE_S, check_credits, message_of, pieces_of, screen_text
from providers.errors import ProviderError

bp = Blueprint("prompts", __name__)

_OFFERED = ("text/event-stream", "text/plain")


class StreamCutError(Exception):
    """Breaks off a plain text answer, which is the only way to signal a fault in it."""


@bp.post("/api/prompts/enhance")
@describe(
    Endpoint(
        "Enhance a prompt",
        "prompts",
        (
            Answer(
                200,
                "`delta` events with `text`, then one `done` with the whole text, or one `error` with a "
                "problem; as text/plain the bare text, cut off where a fault ends it.",
                media_types=("text/event-stream", "text/plain"),
            ),
        ),
        scope="jobs:write",
        pace="enhance",
        errors=(
            "malformed_json",
            "insufficient_credits",
            "model_not_allowed",
            "not_acceptable",
            "invalid_request",
            "upstream_failed",
            "enhancer_not_configured",
            "content_refused",
            "screening_unavailable",
        ),
        body=EnhanceIn,
        description="By the language model of a configured provider; `capabilities.prompt_model` of GET /api/providers"
        " names each.",
    )
)
def enhance() -> Response:
    read_query(Empty, request.args)
    asked = read_body(EnhanceIn, request)
    media_type = _media_type()
    check_credits()
    enhancer = allowance.language_model(services(), g.caller, asked.model)
    screen_text("enhance", asked.prompt)
    source = enhancer.write(asked.prompt, asked.mode, model=asked.model, language=asked.language)
    reader = Reader(source)
    first = reader.next(FIRST_PIECE_S)
    if isinstance(first, ProviderError):
        raise UpstreamFailedError(message_of(first), upstream_code=first.code)
    pieces = pieces_of(reader, first)
    if media_type == "text/plain":
        response = Response(_text(pieces), content_type="text/plain; charset=utf-8", headers=IN_PIECES)
    else:
        # Rendered in the request, which the stream outlives.
        failed = problem("upstream_failed")
        response = Response(_events(pieces, failed), content_type="text/event-stream", headers=IN_PIECES)
    response.call_on_close(reader.close)
    return response


def _media_type() -> str:
    """What is sent: events, unless the caller prefers plain text. Raises NotAcceptableError."""
    # A request without Accept takes anything, and werkzeug matches nothing against a header that is not there.
    wanted = request.accept_mimetypes
    media_type = wanted.best_match(_OFFERED) if wanted else _OFFERED[0]
    if media_type is None:
        raise NotAcceptableError("this is sent as text/event-stream or text/plain")
    return media_type


def _events(pieces: Iterator[Piece | None], failed: dict[str, Any]) -> Iterator[str]:
    whole: list[str] = []
    yield "retry: 2000\n\n"
    for number, piece in enumerate(pieces, 1):
        match piece:
            case None:
                yield ": still writing\n\n"
            case str():
                whole.append(piece)
                yield _event(number, "delta", {"text": piece})
            case Ended():
                yield _event(number, "done", {"text": "".join(whole)})
            case ProviderError():
                message = message_of(piece)
                error = {**failed["error"], "message": message}
                body = {
                    **failed,
                    "detail": message,
                    "message": message,
                    "error": error,
                    "upstream_code": piece.code,
                }
                yield _event(number, "error", body)


def _text(pieces: Iterator[Piece | None]) -> Iterator[str]:
    for piece in pieces:
        if isinstance(piece, str):
            yield piece
        elif isinstance(piece, ProviderError):
            message_of(piece)
            raise StreamCutError(piece.code)


def _event(number: int, name: str, data: dict[str, Any]) -> str:
    return f"id: {number}\nevent: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
