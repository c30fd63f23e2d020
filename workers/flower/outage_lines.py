"""Flower's complaint about a broker that is away, once instead of at every try."""

from __future__ import annotations

import logging

from core import outages
from core.redis import RedisError

FAILED = "Failed to capture events"


class _OneLine(logging.Filter):
    """Drops the line of each failed try and notes the outage; its debug line "Capturing events" marks the end."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        if text.startswith(FAILED):
            error = record.args[0] if isinstance(record.args, tuple) and record.args else None
            outages.of("broker").away(error=type(error).__name__)
            return False
        if text.startswith("Capturing events"):
            outages.of("broker").back()
            return False
        return not (record.levelno <= logging.DEBUG)


class _NotWhileAway(logging.Filter):
    """Drops what Flower's questions to workers say of a broker that is known to be away."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith("Inspect method"):
            return True
        error = next((each for each in record.args or () if isinstance(each, RedisError | OSError)), None)
        if error is not None:
            outages.of("broker").away(error=type(error).__name__)
        return error is None


def install() -> None:
    """Watch Flower's loggers; the debug lines of its events are seen by the filter alone."""
    logging.getLogger("flower.inspector").addFilter(_NotWhileAway())
    logger = logging.getLogger("flower.events")
    logger.addFilter(_OneLine())
    logger.setLevel(logging.DEBUG)
