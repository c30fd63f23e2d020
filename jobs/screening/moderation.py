"""The screen ``moderation``: a provider's moderation endpoint, on the wire of OpenAI's ``/v1/moderations``.

Texts go in one request, and each image in one of its own: the endpoint takes one image at a time.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.parallel import side_by_side
from jobs.errors import BadImageError, FieldFault
from jobs.screening.subject import InputImage, Refusal, ScreenFailedError, Subject, category_of
from providers.errors import ProviderError
from providers.http.client import UpstreamSession, WireRequest
from storage.base import MediaError
from storage.sniff import AVIF, sniff_mime

NAME = "moderation"
PATH = "/moderations"
MAX_ANSWER_BYTES = 256 * 1024
IMAGES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class ModerationScreen:
    """The screen. ``limits``: which categories refuse; None where the endpoint's own flag is enough, else from which
    score on. Empty: every category that is flagged."""

    session: UpstreamSession
    model: str
    limits: Mapping[str, float | None]
    name: str = NAME
    is_local: bool = False

    def judge(self, subject: Subject, *, within_s: float) -> Refusal | None:
        """As of Screen. The negative prompt is not judged: it names what is not wanted. Raises BadImageError, too."""
        ends_at = time.monotonic() + within_s
        parts: list[tuple[str, dict[str, Any]]] = []
        if text := "\n".join(each for each in (subject.prompt, *subject.texts.values()) if each):
            parts.append(("prompt", {"type": "text", "text": text}))
        for image in subject.images:
            url = _data_url(image)
            if url is not None:
                parts.append((image.field_name, {"type": "image_url", "image_url": {"url": url}}))

        def one(part: tuple[str, dict[str, Any]]) -> Refusal | None:
            category = self._ask(part[1], ends_at - time.monotonic())
            return Refusal(category, part[0]) if category else None

        found = side_by_side(one, parts, at_most=IMAGES_AT_ONCE)
        return next((each for each in found if each is not None), None)

    def probe(self, *, within_s: float) -> str:
        """As of Screen, by a harmless text."""
        began = time.monotonic()
        self._ask({"type": "text", "text": "a lighthouse at dawn"}, within_s)
        return f"{self.session.origin} answers, in {1000 * (time.monotonic() - began):.0f} ms"

    def _ask(self, part: dict[str, Any], within_s: float) -> str | None:
        """The category that refuses one input; None where none does. Raises ScreenFailedError."""
        if within_s <= 0:
            raise ScreenFailedError("too_slow", "no time was left")
        request = WireRequest("POST", PATH, json={"model": self.model, "input": [part]})
        try:
            answer = self.session.send(request, total_s=within_s, max_bytes=MAX_ANSWER_BYTES)
        except ProviderError as error:
            raise ScreenFailedError(error.code, str(error)) from error
        if answer.status != 200:
            raise ScreenFailedError("bad_status", f"HTTP {answer.status}")
        try:
            [result] = json.loads(answer.body)["results"]
            flagged, categories = result["flagged"], dict(result["categories"])
            scores = {name: float(score) for name, score in dict(result["category_scores"]).items()}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ScreenFailedError("bad_answer", "not what a moderation endpoint answers") from None
        return self._category(flagged is True, categories, scores)

    def _category(self, flagged: bool, categories: Mapping[str, Any], scores: Mapping[str, float]) -> str | None:
        if not self.limits:
            named = [name for name, is_it in categories.items() if is_it is True]
            if not flagged and not named:
                return None
        else:
            named = [
                name
                for name, limit in self.limits.items()
                if (categories.get(name) is True if limit is None else scores.get(name, 0.0) >= limit)
            ]
            if not named:
                return None
        return category_of(max(named, key=lambda name: scores.get(name, 0.0), default=None))


def _data_url(image: InputImage) -> str | None:
    """The image as the endpoint takes it; None for what is no image, which the order is refused for in a moment.

    Raises BadImageError for a format that the endpoint does not take: what cannot be judged is not let through.
    """
    try:
        mime = sniff_mime(image.data)
    except MediaError:
        return None
    if mime == AVIF:
        told = "is AVIF, which is not screened here: send PNG, JPEG, WebP or GIF"
        raise BadImageError([FieldFault(image.field_name, "unsupported_image_type", told)])
    return f"data:{mime};base64,{base64.b64encode(image.data).decode()}"


def limits_of(text: str) -> dict[str, float | None]:
    """Categories with commas between, each with ``=score`` or without. Raises ValueError."""
    found: dict[str, float | None] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, score = part.partition("=")
        if category_of(name) != name.strip() or (equals and not 0 < _number(score) <= 1):
            raise ValueError(f"{part!r} is no category, nor one with a score such as violence=0.8")
        found[name.strip()] = _number(score) if equals else None
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
