"""Logs: constant event names with fields, one line each, without secrets.

``text`` is for people, ``json`` for machines. Records of the standard library (celery, gunicorn, alembic) go
through the same chain.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

_SECRETS = re.compile(
    r"(dk_[0-9A-Za-z]+_)[0-9A-Za-z_-]{8,}"  # our own keys
    r"|((?:Bearer|Key|Token)\s+)[^\s\"',]{6,}"
    r"|(\b(?:sk|r8|hf|xai|whsec)[-_])[0-9A-Za-z_-]{8,}"
    r"|(\b(?:AIza|AQ\.))[0-9A-Za-z_-]{20,}"  # Google's
    r"|(://[^/\s:@]*:)[^/\s@]+(?=@)",
    re.IGNORECASE,
)
HIDDEN = "[hidden]"


def redact(text: str) -> str:
    """Replace whatever looks like a key, a token or a password in a URL."""
    return _SECRETS.sub(lambda m: next((g for g in m.groups() if g), "") + HIDDEN, text)


def _redact_event(_logger: Any, _method: str, event: EventDict) -> EventDict:
    return {key: redact(value) if isinstance(value, str) else value for key, value in event.items()}


def configure(*, level: str = "INFO", log_format: str = "text") -> None:
    """Send everything to stderr through one chain. Call it once, at the start of a process."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    last: Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A line for each message says less than the events of jobs and costs more.
    for chatty in ("celery.worker.strategy", "celery.app.trace", "urllib3", "botocore", "alembic.runtime.migration"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
