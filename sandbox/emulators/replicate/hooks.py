"""Webhooks of the Replicate twin: signed deliveries, the last one repeated (section 6 of the contract sheet)."""

import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from sandbox.emulators.replicate.predictions import EVENTS, Prediction, describe
from sandbox.state import State

# The sheet's test vector; the real secret is one per account.
SECRET = "whsec_dGVzdC1zZWNyZXQ="  # noqa: S105 - a stand-in's
BY_DEFAULT = ("output", "completed")
# After a failed terminal delivery; the last attempt is about a minute after the end.
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
ANSWER_S = 5.0
LOOK_S = 0.02
_HERE = ("127.0.0.1", "localhost", "::1")


def takes(url: object) -> bool:
    """Whether a webhook may go there: https, or plain http to this very machine, where tests listen."""
    if not isinstance(url, str):
        return False
    parts = urlsplit(url)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _HERE))


def signed(body: bytes, *, number: str, at_s: int) -> dict[str, str]:
    """The headers of a delivery, as Standard Webhooks signs: the secret is decoded from base64."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.new(key, f"{number}.{at_s}.".encode() + body, hashlib.sha256).digest()
    return {
        "Content-Type": "application/json",
        "webhook-id": number,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


@dataclass
class _Letter:
    """One event of one prediction. ``due_s`` is on the sandbox's clock; only ``completed`` is repeated."""

    made: Prediction
    event: str
    due_s: float
    pauses_s: Iterator[float]
    body: bytes = b""
    number: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")


class Postman:
    """Delivers what is due by the sandbox's clock, in a thread that lives while there is something to deliver."""

    def __init__(self, sandbox_state: State) -> None:
        self._sandbox = sandbox_state
        self._lock = threading.Lock()
        self._letters: list[_Letter] = []
        self._on_round = False

    def expect(self, made: Prediction) -> None:
        """Deliver the events that were asked for, when they happen."""
        if made.asked.webhook is None:
            return
        asked = made.asked.events or BY_DEFAULT
        letters = [letter for event in EVENTS if event in asked for letter in _letters(made, event)]
        with self._lock:
            self._letters += letters
            self._set_out()

    def clear(self) -> None:
        """Drop what is not delivered."""
        with self._lock:
            self._letters.clear()

    def _round(self) -> None:
        while True:
            with self._lock:
                if not self._letters:
                    self._on_round = False
                    return
                due = self._due()
                self._letters = [letter for letter in self._letters if letter not in due]
            for letter in due:
                # One slow receiver must not hold up the others.
                threading.Thread(target=self._deliver, args=(letter,), daemon=True).start()
            time.sleep(LOOK_S)

    def _due(self) -> list[_Letter]:
        if self._sandbox.settings.hold_webhooks:
            return []
        now = self._sandbox.clock.now()
        return [letter for letter in self._letters if _due_s(letter) <= now]

    def _deliver(self, letter: _Letter) -> None:
        now = self._sandbox.clock.now()
        letter.body = letter.body or _body(letter, now)
        if _post(
            letter.made.asked.webhook or "", letter.body, signed(letter.body, number=letter.number, at_s=int(now))
        ):
            return
        pause_s = next(letter.pauses_s, None)
        if pause_s is None:
            return
        letter.due_s = self._sandbox.clock.now() + pause_s
        with self._lock:
            self._letters.append(letter)
            self._set_out()

    def _set_out(self) -> None:
        if self._letters and not self._on_round:
            self._on_round = True
            threading.Thread(target=self._round, daemon=True, name="replicate-webhooks").start()


def _letters(made: Prediction, event: str) -> Iterator[_Letter]:
    """Where the prediction never comes to an event, there is none."""
    starts_s, never = made.starts_s, iter(())
    if event == "completed":
        yield _Letter(made, event, made.ends_s, iter(PAUSES_S))
    elif starts_s is not None and (event == "start" or made.ending.status == "succeeded"):
        middle_s = (starts_s + made.ends_s) / 2
        yield _Letter(made, event, {"start": starts_s, "logs": middle_s}.get(event, made.ends_s), never)


def _due_s(letter: _Letter) -> float:
    """A cancel brings the end forward."""
    return min(letter.due_s, letter.made.ends_s) if not letter.body else letter.due_s


def _body(letter: _Letter, now: float) -> bytes:
    """The prediction as a look would show it; the event itself is no field."""
    if letter.event == "completed":
        return json.dumps(describe(letter.made, now), ensure_ascii=False).encode()
    shown = describe(letter.made, letter.due_s) | {"status": "processing"}
    for late in ("completed_at", "metrics", *(() if letter.event == "output" else ("output",))):
        shown.pop(late, None)
    return json.dumps(shown, ensure_ascii=False).encode()


def _post(url: str, body: bytes, headers: dict[str, str]) -> bool:
    """Whether it was taken: only a 2xx counts, and a redirect is not followed."""
    parts = urlsplit(url)
    port, host = parts.port, parts.hostname or ""
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
