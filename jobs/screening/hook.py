"""The screen ``hook``: a program of the operator's that is asked over HTTP (docs/operating.md, "Screening").

The request is signed as every callback is (Standard Webhooks), and goes out by the same guard.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from core.ids import new_id
from core.outbound.untrusted import Policy, ask
from core.outbound.urls import UnsafeUrlError, origin_of
from core.wire import json_text, rfc3339
from jobs.screening.subject import InputImage, Refusal, ScreenFailedError, Subject, category_of
from storage.base import MediaError
from storage.sniff import sniff_mime
from webhooks import standard
from webhooks.forms import Message

NAME = "hook"
EVENT, TEST_EVENT = "order.screen", "order.screen.test"
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class HookScreen:
    """The screen. ``secret`` signs (``whsec_...``). ``allows_private``: the URL may lead to a private address, to any
    port, and by http. ``sends_images``: the images' bytes go along, else only their digests."""

    url: str = field(repr=False)  # its query may hold a secret of the receiver
    secret: str = field(repr=False)
    allows_private: bool = False
    sends_images: bool = False
    name: str = NAME
    is_local: bool = False

    def check(self) -> None:
        """Raises UnsafeUrlError for a URL that may not be asked."""
        self._policy(1.0).check_written(self.url)

    def judge(self, subject: Subject, *, within_s: float) -> Refusal | None:
        """As of Screen."""
        return _refusal(self._ask(EVENT, self._document(subject), within_s), subject)

    def probe(self, *, within_s: float) -> str:
        """As of Screen. What the hook says of the test is no matter; it must say it as it should."""
        began = time.monotonic()
        _refusal(self._ask(TEST_EVENT, self._document(Subject("order", "acct_test")), within_s), Subject("order", ""))
        return f"{origin_of(self.url)} answers, in {1000 * (time.monotonic() - began):.0f} ms"

    def _ask(self, event: str, data: dict[str, Any], within_s: float) -> Any:
        now = datetime.now(UTC)
        body = json_text({"type": event, "timestamp": rfc3339(now), "data": data}).encode()
        message = Message(
            id=new_id("scr"),
            sent_at=int(now.timestamp()),
            account_id=data["account_id"],
            job_id="",
            body=body,
            secrets=[self.secret],
            ed25519_seed=b"",
        )
        headers = {**standard.headers(message), "Accept": "application/json"}
        try:
            reply = ask(self.url, body, self._policy(within_s), headers=headers)
        except UnsafeUrlError as error:
            raise ScreenFailedError(error.code, error.detail) from error
        if reply.status != 200:
            raise ScreenFailedError("bad_status", f"HTTP {reply.status}")
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError):
            raise ScreenFailedError("bad_answer", "no JSON") from None

    def _policy(self, within_s: float) -> Policy:
        trusted = frozenset({origin_of(self.url)}) if self.allows_private else frozenset()
        return Policy(
            MAX_ANSWER_BYTES,
            within_s,
            trusted_origins=trusted,
            connect_s=within_s,
            silence_s=within_s,
            least_bytes_per_s=0,
        )

    def _document(self, subject: Subject) -> dict[str, Any]:
        return {
            "object": "screening",
            "kind": subject.kind,
            "account_id": subject.account_id,
            "operation": subject.operation,
            "model": subject.model,
            "prompt": subject.prompt,
            "negative_prompt": subject.negative_prompt or None,
            "texts": dict(subject.texts),
            "images": [self._image(each) for each in subject.images],
        }

    def _image(self, image: InputImage) -> dict[str, Any]:
        try:
            mime: str | None = sniff_mime(image.data)
        except MediaError:
            mime = None
        told: dict[str, Any] = {
            "role": image.role,
            "field": image.field_name,
            "mime": mime,
            "size_bytes": len(image.data),
            "sha256": image.sha256,
        }
        if self.sends_images:
            told["data"] = base64.b64encode(image.data).decode()
        return told


def _refusal(answer: Any, subject: Subject) -> Refusal | None:
    """What an answer says. Raises ScreenFailedError for one that says neither yes nor no."""
    action = answer.get("action") if isinstance(answer, dict) else None
    if action == "allow":
        return None
    if action != "refuse":
        raise ScreenFailedError("bad_answer", 'neither "allow" nor "refuse"')
    named = answer.get("field")
    known = {"prompt", "negative_prompt", *subject.texts, *(each.field_name for each in subject.images)}
    at = named if isinstance(named, str) and named in known else "prompt"
    return Refusal(category_of(answer.get("category")), at)
