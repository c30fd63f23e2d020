"""An upstream's own answer as it may be kept and shown: without keys, bytes and what opens a signed link.

Nothing here trusts the upstream: an answer may echo our key under any name, hold megabytes of base64, or values that
no database takes. What is left out leaves a word in brackets, so that the shape of the answer can still be read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from providers.http.answers import Heard
from providers.shared.redaction import without_secrets

MAX_BYTES = 64 * 1024
MAX_DEPTH = 20
MAX_MEMBERS = 200
MAX_TEXT_CHARS = 8_000
# A page of an upstream's proxy says what it is in its first lines.
MAX_PAGE_CHARS = 2_000
# JSON that no adapter has read is read here up to this size.
MAX_UNREAD_BYTES = 1024 * 1024
LEFT_OUT = "[left out]"
REDACTED = "[redacted]"

# Whole words of a name in snake case, kebab case or camel case. A count such as "tokens" is a number and stays.
_SECRET_NAME = re.compile(
    r"(^|[_\-.])(api_?key|apikey|key|secret|token|password|passwd|authorization|auth|bearer|credentials?|cookie|"
    r"signature|sig|session|webhook|callback|csrf|jwt)(s?)([_\-.](url|uri|id|token|secret|key|value))?$",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^,]{0,100},", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{200,}={0,2}\s*")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def document(heard: Heard) -> dict[str, Any] | None:
    """The answer as JSON that any database takes, at most ``MAX_BYTES`` long; None where none has arrived."""
    if heard.status is None:
        return None
    media_type = heard.content_type.partition(";")[0].strip().lower()[:100]
    return of_json(
        _body(heard, media_type), status=heard.status, content_type=media_type or None, secrets=heard.secrets
    )


def of_json(
    body: Any, *, status: int, content_type: str | None = "application/json", secrets: Sequence[str] = ()
) -> dict[str, Any]:
    """The same for what is JSON already: a part of an answer about many calls. ``secrets`` are taken out wherever they
    stand."""
    known = tuple(each for each in secrets if len(each) >= 6)
    shown = {"status": status, "content_type": content_type, "body": _Cleaning(known).clean(body, 0)}
    size = len(json.dumps(shown, ensure_ascii=False).encode())
    return shown if size <= MAX_BYTES else {**shown, "body": f"[{size} bytes of JSON]"}


def _body(heard: Heard, media_type: str) -> Any:
    if heard.parsed is not None:
        return heard.parsed
    if not heard.body:
        return None
    if ("json" in media_type or not media_type) and len(heard.body) <= MAX_UNREAD_BYTES:
        try:
            return json.loads(heard.body)
        except (ValueError, RecursionError):
            pass
    if media_type.startswith("text/") or "json" in media_type or "xml" in media_type:
        return heard.body[: 4 * MAX_PAGE_CHARS].decode("utf-8", "replace")[:MAX_PAGE_CHARS]
    return f"[{media_type or 'unknown type'}, {len(heard.body)} bytes]"


@dataclass(frozen=True, slots=True)
class _Cleaning:
    """Takes ``secrets``, and all that looks like one, out of a value of JSON."""

    secrets: Sequence[str]

    def clean(self, value: Any, depth: int) -> Any:
        shown: Any = LEFT_OUT
        match value:
            case _ if depth > MAX_DEPTH:
                pass
            case Mapping():
                shown = self._object(value, depth)
            case list() | tuple():
                shown = [self.clean(each, depth + 1) for each in value[:MAX_MEMBERS]]
                if len(value) > MAX_MEMBERS:
                    shown.append(f"[{len(value) - MAX_MEMBERS} more]")
            case str():
                shown = self.text(value)
            case bool() | None:
                shown = value
            case int():
                # No number of an answer needs more digits; one that has is something else in digits.
                shown = value if -(10**18) < value < 10**18 else REDACTED
            case float():
                shown = value if math.isfinite(value) else None
        return shown

    def _object(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for at, (name, member) in enumerate(value.items()):
            if at >= MAX_MEMBERS:
                found[LEFT_OUT] = f"{len(value) - MAX_MEMBERS} members"
                break
            shown = self.text(str(name)[:200])
            found[shown] = REDACTED if self._is_secret(str(name), member) else self.clean(member, depth + 1)
        return found

    def _is_secret(self, name: str, member: Any) -> bool:
        if member is None or isinstance(member, bool | int | float):
            return False
        return bool(_SECRET_NAME.search(_CAMEL.sub("_", name[:200])))

    def text(self, text: str) -> str:
        """A text of the answer without what opens anything."""
        if found := _DATA_URL.match(text):
            return f"[{found[1] or 'data'}, {len(text) - found.end()} characters]"
        if len(text) >= 200 and _BASE64.fullmatch(text):
            return f"[{len(text)} characters of base64]"
        cut = _UNSTORABLE.sub("", text[:MAX_TEXT_CHARS])
        for secret in self.secrets:
            cut = cut.replace(secret, REDACTED)
        shown = without_secrets(cut)
        return shown if len(text) <= MAX_TEXT_CHARS else f"{shown}[{len(text) - MAX_TEXT_CHARS} more characters]"
