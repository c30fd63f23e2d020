"""What a queued task waits for that is not its turn, in words."""

from __future__ import annotations

from app.cli.client.answers import Document, time_text

_WORDS = {"paused": "paused: an operator has paused the provider"}


def waits_for(task: Document) -> str:
    """``paused: ...``, with the time where it is known; empty for a task that waits for its turn alone."""
    waiting = task.get("waiting_for")
    if task.get("status") != "queued" or not isinstance(waiting, dict):
        return ""
    reason = str(waiting.get("reason") or "")
    words = _WORDS.get(reason, f"{reason}: waiting for another try")
    return f"{words}, at most until {time_text(waiting['until'])}" if waiting.get("until") else words
