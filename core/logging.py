"""Logs: constant event names with fields, one line each, without secrets.

``text`` is for people, ``json`` for machines: there every line is one JSON object, also what libraries print and what
crashes (``core/log_streams.py``). Records of the standard library (celery, gunicorn, alembic) go through the same
chain.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any, NoReturn

import structlog
from structlog.typing import EventDict, Processor

from core import log_streams, tracing

_SECRETS = re.compile(
    r"(dk_[0-9A-Za-z]+_)[0-9A-Za-z_-]{8,}"  # our own keys
    r"|((?:Bearer|Key|Token)\s+)[^\s\"',]{6,}"
    r"|(\b(?:sk|r8|hf|xai|whsec)[-_])[0-9A-Za-z_-]{8,}"
    r"|(\b(?:AIza|AQ\.))[0-9A-Za-z_-]{20,}"  # Google's
    r"|(\beyJ)[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]*\.[0-9A-Za-z_-]*"  # a JWT: the base64 of {" and what follows
    r"|(://[^/\s:@]*:)[^/\s@]+(?=@)",
    re.IGNORECASE,
)
HIDDEN = "[hidden]"


def redact(text: str) -> str:
    """Replace whatever looks like a key, a token or a password in a URL."""
    return _SECRETS.sub(lambda m: next((g for g in m.groups() if g), "") + HIDDEN, text)


def _redact_event(_logger: Any, _method: str, event: EventDict) -> EventDict:
    return {key: redact(value) if isinstance(value, str) else value for key, value in event.items()}


def _name_trace(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Say in which span a line was written, unless it is known to be about another trace."""
    if (found := tracing.current()) and event.setdefault("trace_id", found[0]) == found[0]:
        event["span_id"] = found[1]
    return event


def configure(*, level: str = "INFO", log_format: str = "text") -> None:
    """Send everything to stderr through one chain. Call it at the start of a process; again changes nothing."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_trace,
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
        else structlog.dev.ConsoleRenderer(colors=log_streams.raw_of(sys.stderr).isatty())
    )
    stderr = log_streams.raw_of(sys.stderr)
    if log_format == "json":
        log_streams.take_over(redact)
    handler = logging.StreamHandler(stderr)
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
    for chatty in ("celery.worker.strategy", "celery.app.trace", "urllib3", "botocore", "alembic.runtime"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    # Of connections that break while they are given back, with a traceback each: `database_away` has said it once.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def configure_early() -> None:
    """Configure from the environment alone, before anything else of the process is imported or read.

    Values that are wrong count as the defaults; the settings name them later.
    """
    from core.settings import with_dotenv

    try:
        environ = with_dotenv(os.environ)
    except (OSError, ValueError):
        environ = dict(os.environ)
    level = environ.get("DARKROOM_LOG_LEVEL", "").upper()
    known = isinstance(logging.getLevelName(level), int)
    configure(level=level if known else "INFO", log_format=environ.get("DARKROOM_LOG_FORMAT", "").strip() or "text")


def refuse(process: str, why: str) -> NoReturn:
    """End a process that cannot start, with one line that says why, in the format of the log. Exit status 1."""
    if isinstance(sys.stderr, log_streams.LineLog):
        structlog.get_logger(process).error("cannot_start", reason=redact(why))
        sys.exit(1)
    sys.exit(f"darkroom {process}: {redact(why)}")
