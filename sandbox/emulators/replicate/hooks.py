"""Webhooks of the Replicate emulator: signed deliveries, the last one repeated (section 6 of the contract)."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator

from sandbox.emulators.replicate.models import EVENTS
from sandbox.emulators.replicate.predictions import Prediction, describe
from sandbox.plumbing.webhooks import Delivery, standard_headers

# The contract's test vector; the real secret is one per account.
SECRET = "whsec_dGVzdC1zZWNyZXQ="  # noqa: S105 - an emulator's
BY_DEFAULT = ("output", "completed")
# After a failed terminal delivery; the last attempt is about a minute after the end.
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def signed(body: bytes, number: str, at_s: int) -> dict[str, str]:
    """The headers of a delivery, as Standard Webhooks signs: the secret is decoded from base64."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.new(key, f"{number}.{at_s}.".encode() + body, hashlib.sha256).digest()
    return standard_headers(number, at_s, f"v1,{base64.b64encode(digest).decode()}")


def deliveries(made: Prediction) -> Iterator[Delivery]:
    """One for each event asked for; where the prediction never comes to an event, there is none."""
    asked = made.asked.events or BY_DEFAULT
    for event in EVENTS if made.asked.webhook is not None else ():
        if event in asked and (moment_s := _moment_s(made, event)) is not None:
            yield _delivery(made, event, moment_s)


def _moment_s(made: Prediction, event: str) -> float | None:
    starts_s = made.starts_s
    if event == "completed":
        return made.done_s
    if starts_s is None or (event != "start" and made.ending.status != "succeeded"):
        return None
    return {"start": starts_s, "logs": (starts_s + made.done_s) / 2}.get(event, made.done_s)


def _delivery(made: Prediction, event: str, moment_s: float) -> Delivery:
    def body(now: float) -> bytes:
        """The prediction as a look would show it; the event itself is no field. Only the end has the end's fields."""
        if event == "completed":
            return json.dumps(describe(made, now), ensure_ascii=False).encode()
        late = {"completed_at", "metrics", *(() if event == "output" else ("output",))}
        shown = describe(made, moment_s) | {"status": "processing"}
        return json.dumps({key: value for key, value in shown.items() if key not in late}, ensure_ascii=False).encode()

    return Delivery(
        url=made.asked.webhook or "",
        due_s=lambda: min(moment_s, made.done_s),  # a cancel brings the end forward
        body=body,
        headers=signed,
        pauses_s=iter(PAUSES_S if event == "completed" else ()),
    )
