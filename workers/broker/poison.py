"""Poison messages: messages that are not ours are detected before Celery handles them, counted and dropped.

Anything may be put on a queue, and Celery trusts what it reads: a body that is not JSON ends the worker, and a
message that it cannot take apart returns to the queue at exit and ends the next worker. Dropping a message loses
nothing, because it is a hint and its row is the truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import structlog

log = structlog.get_logger(__name__)

LONGEST_ID = 200


@dataclass
class Rejections:
    """How many messages this process has dropped, by reason. A process has one: ``REJECTED``."""

    by_reason: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.by_reason.total()

    def count(self, reason: str, *, queue: str) -> None:
        """Count one more message. Its content is not logged, because it may be anything."""
        self.by_reason[reason] += 1
        log.warning("message_rejected", reason=reason, queue=queue, rejected=self.total)


REJECTED = Rejections()


def fault(message: Any, tasks: Collection[str]) -> str | None:
    """Return why a message (kombu's) is not one of ours; None if it is.

    Our messages have the name of a task and an id in their headers, one text as argument, and no other Celery
    options. Raises what decoding raises.
    """
    headers = message.headers
    if not isinstance(headers, dict) or not isinstance(headers.get("task"), str):
        return "no_task"
    if headers["task"] not in tasks:
        return "unknown_task"
    if not _is_id(headers.get("id")):
        return "no_id"
    if any(headers.get(name) for name in ("eta", "expires", "stamped_headers", "shadow")):
        return "foreign_headers"
    if any(headers.get("timelimit") or ()):
        return "foreign_headers"
    return _fault_of_body(message.payload)


def _fault_of_body(body: object) -> str | None:
    if not isinstance(body, list) or len(body) != 3:
        return "bad_body"
    args, kwargs, embedded = body
    if not isinstance(args, list) or len(args) != 1 or not _is_id(args[0]) or kwargs != {}:
        return "bad_arguments"
    if not isinstance(embedded, dict) or any(value is not None for value in embedded.values()):
        return "bad_body"
    return None


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_ID
