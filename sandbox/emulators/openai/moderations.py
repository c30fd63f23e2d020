"""OpenAI's ``/moderations``: what is flagged is what a marker says (``[sandbox:refuse=violence at=moderation]``).

A marker may stand in the text, or in the bytes of an image (a comment of its file).
"""

import re
import uuid
from typing import Any

from sandbox.emulators.openai.errors import ApiError, of_problem
from sandbox.emulators.openai.rules import json_body
from sandbox.markers import Fault
from sandbox.plumbing.inputs import BadInput, image_in_data_url
from sandbox.plumbing.validation import Schema, closed

PLACE = "moderation"
MODEL = re.compile(r"^(omni|text)-moderation-(latest|stable|\d{3}|\d{4}-\d{2}-\d{2})$")
IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
CATEGORIES = (
    *("harassment", "harassment/threatening", "sexual", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/intent", "self-harm/instructions", "sexual/minors", "violence", "violence/graphic"),
)
_MARKER = re.compile(rb"\[sandbox:[^\]]{1,200}\]")
_BODY = Schema(closed({"model": {"type": "string"}}, ["input"], free=["input"]))


def read() -> tuple[str, list[str]]:
    """The model, and one text with its markers for each input that is judged by itself. Raises ApiError."""
    document = json_body()
    if problem := _BODY.problem(document):
        raise of_problem(problem)
    model = document.get("model", "omni-moderation-latest")
    if not MODEL.match(model):
        raise ApiError("model_not_found", model=model)
    given = document["input"]
    if isinstance(given, str):
        return model, [given]
    if not isinstance(given, list) or not given:
        raise ApiError("conflict", param="input", complaint="Invalid type for 'input': a text or a list is needed.")
    if all(isinstance(each, str) for each in given):
        return model, given
    return model, [_of_parts(given)]


def _of_parts(parts: list[Any]) -> str:
    """The text of a list of parts, with the markers in its images."""
    urls = [part["image_url"]["url"] for part in parts if _is_image(part)]
    if len(urls) > 1:
        raise ApiError("conflict", param="input", complaint="Too many images. Expected at most 1.")
    if not all(_is_image(part) or _is_text(part) for part in parts):
        raise ApiError("conflict", param="input", complaint="Invalid value in 'input': text or image_url is needed.")
    texts = [part["text"] for part in parts if part["type"] == "text"]
    for url in urls:
        try:
            blob = image_in_data_url(url, types=IMAGE_TYPES)
        except BadInput as error:
            raise ApiError("conflict", param="input", complaint=f"Invalid image: {error}") from error
        texts += [marker.decode("latin-1") for marker in _MARKER.findall(blob)]
    return "\n".join(texts)


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _is_image(part: Any) -> bool:
    link = part.get("image_url") if isinstance(part, dict) and part.get("type") == "image_url" else None
    return isinstance(link, dict) and isinstance(link.get("url"), str)


def document(model: str, flags: list[Fault | None]) -> dict[str, Any]:
    """The answer, with a result for each input: the fault that flags it, or None. Raises ApiError."""
    return {"id": f"modr-{uuid.uuid4().hex[:29]}", "model": model, "results": [_result(flag) for flag in flags]}


def _result(flag: Fault | None) -> dict[str, Any]:
    category = None if flag is None else flag.value or "violence"
    if category is not None and category not in CATEGORIES:
        raise ApiError("conflict", param="input", complaint=f"sandbox: {category!r} is no category of moderation")
    return {
        "flagged": category is not None,
        "categories": {name: name == category for name in CATEGORIES},
        "category_scores": {name: 0.98 if name == category else 0.00001 for name in CATEGORIES},
        "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
    }
