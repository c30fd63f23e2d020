"""Receives what workers publish for Flower, as Flower does."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import redis

from core.redis import make_client


class Listener:
    """Subscribed to what workers publish for Flower; reads whole messages, each a list of events."""

    def __init__(self, url: str) -> None:
        self._client: redis.Redis = make_client(url, timeout_s=5)  # referenced, or its connections close
        self._topics = self._client.pubsub()
        self._topics.psubscribe("/*celeryev*")
        assert self._topics.get_message(timeout=5)

    def batch(self, within_s: float = 5.0) -> list[dict[str, Any]]:
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            message = self._topics.get_message(timeout=0.1)
            if message and message["type"] == "pmessage":
                body = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
                return body if isinstance(body, list) else [body]
        return []

    def heard(self, count: int) -> list[dict[str, Any]]:
        """Return the next ``count`` events; fail if there are more."""
        events: list[dict[str, Any]] = []
        while len(events) < count and (batch := self.batch()):
            events += batch
        assert self.batch(within_s=0.5) == []
        return events
