"""Texts of a language model on their way to a caller: who may have one, and a bound on every silence."""

from __future__ import annotations

import time
from collections.abc import Iterator

import structlog
from flask import g

from app.enhancement import Ended, Piece, Reader
from app.services import services
from core.errors import ServiceError
from jobs.errors import ContentRefusedError
from jobs.reads import funds
from jobs.screening.subject import Kind, Subject
from providers.errors import ProviderError
from providers.orders.texts import clean_text

log = structlog.get_logger(__name__)

FIRST_PIECE_S = 10.0  # until then a fault still gets its own HTTP status
HEARTBEAT_S = 15.0
LONGEST_S = 180.0


class NoCreditsError(ServiceError):
    """The account holds no credits at all."""

    code = "insufficient_credits"


def check_credits() -> None:
    """Raises NoCreditsError for an account without credits; those in the queue and in running jobs are its own, too."""
    held = services().connections.autocommit(funds.funds, g.caller.account_id)
    if held.spendable + held.queued + held.held <= 0:
        raise NoCreditsError("enhancing is free, for accounts that hold credits", balance="0")


def screen_text(kind: Kind, text: str, *, field_name: str = "prompt") -> None:
    """Have the screens judge what a language model is about to be sent. ``field_name``: where the text stands.

    Raises ContentRefusedError, ScreeningUnavailableError.
    """
    screening = services().submission.screening
    if not screening.screens:
        return
    try:
        screening.check(g.caller, Subject(kind, g.caller.account_id, prompt=clean_text(text)))
    except ContentRefusedError as refused:
        raise ContentRefusedError(refused.category, field_name) from None


def pieces_of(reader: Reader, first: Piece | None, *, beat_s: float | None = None) -> Iterator[Piece | None]:
    """Everything up to and with the end; None for a silence of ``beat_s`` (HEARTBEAT_S)."""
    ends_at = time.monotonic() + LONGEST_S
    piece = first
    while True:
        if piece is None and time.monotonic() > ends_at:
            piece = ProviderError("upstream_timeout")
        yield piece
        if isinstance(piece, ProviderError | Ended):
            return
        piece = reader.next(HEARTBEAT_S if beat_s is None else beat_s)


def message_of(error: ProviderError) -> str:
    """The message for the caller. The upstream's own words may hold the prompt or a key: no one gets to see them."""
    log.warning("enhance_failed", code=error.code, kind=type(error).__name__)
    return f"the upstream could not finish ({error.code})"
