"""Webhooks of the emulators: signed deliveries by the sandbox's clock, failed ones repeated after growing pauses."""

import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from sandbox.state import State

ANSWER_S = 5.0
LOOK_S = 0.02
HERE = ("127.0.0.1", "localhost", "::1")


def takes(url: object) -> bool:
    """Whether a webhook may go there: https, or plain http to this very machine, where tests listen."""
    if not isinstance(url, str):
        return False
    parts = urlsplit(url)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in HERE))


def standard_headers(number: str, at_s: int, signature: str) -> dict[str, str]:
    """The headers of Standard Webhooks, around an upstream's own ``signature``."""
    return {
        "Content-Type": "application/json",
        "webhook-id": number,
        "webhook-timestamp": str(at_s),
        "webhook-signature": signature,
    }


@dataclass(eq=False)
class Delivery:
    """One webhook to come.

    ``due_s`` says when, and may say another moment later (a cancel brings an end forward). ``body`` makes the body when
    it is first delivered, given the sandbox's time; ``headers`` signs it, given the body, the message's number and the
    sandbox's time in seconds. ``pauses_s`` are the waits before the repeats of a failed one, none by default.
    """

    url: str
    due_s: Callable[[], float]
    body: Callable[[float], bytes]
    headers: Callable[[bytes, str, int], dict[str, str]]
    pauses_s: Iterator[float] = field(default_factory=lambda: iter(()))
    number: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    made: bytes = b""
    again_s: float | None = None

    def moment_s(self) -> float:
        """When its next attempt is due."""
        return self.due_s() if self.again_s is None else self.again_s


class Postman:
    """Delivers what is due, in a thread that lives while there is something to deliver.

    ``hold_webhooks`` of the settings keeps everything back while it is on.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._waiting: list[Delivery] = []
        self._on_round = False

    def expect(self, deliveries: Iterable[Delivery]) -> None:
        """Deliver these when they are due."""
        with self._lock:
            self._waiting += deliveries
            self._set_out()

    def clear(self) -> None:
        """Drop what is not delivered."""
        with self._lock:
            self._waiting.clear()

    def _round(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._on_round = False
                    return
                due = self._due()
                self._waiting = [delivery for delivery in self._waiting if delivery not in due]
            for delivery in due:
                # One slow receiver must not hold up the others.
                threading.Thread(target=self._deliver, args=(delivery,), daemon=True).start()
            time.sleep(LOOK_S)

    def _due(self) -> list[Delivery]:
        if self._state.settings.hold_webhooks:
            return []
        now = self._state.clock.now()
        return [delivery for delivery in self._waiting if delivery.moment_s() <= now]

    def _deliver(self, delivery: Delivery) -> None:
        now = self._state.clock.now()
        delivery.made = delivery.made or delivery.body(now)
        if post(delivery.url, delivery.made, delivery.headers(delivery.made, delivery.number, int(now))):
            return
        pause_s = next(delivery.pauses_s, None)
        if pause_s is None:
            return
        delivery.again_s = self._state.clock.now() + pause_s
        self.expect([delivery])

    def _set_out(self) -> None:
        if self._waiting and not self._on_round:
            self._on_round = True
            threading.Thread(target=self._round, daemon=True, name="sandbox-webhooks").start()


def post(url: str, body: bytes, headers: dict[str, str]) -> bool:
    """Whether it was taken: only a 2xx counts, and a redirect is not followed."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        connection: HTTPConnection = HTTPSConnection(host, port, timeout=ANSWER_S, context=ssl.create_default_context())
    else:
        connection = HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("POST", f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}", body, headers)
        return 200 <= connection.getresponse().status < 300
    except (HTTPException, OSError):
        return False
    finally:
        connection.close()
