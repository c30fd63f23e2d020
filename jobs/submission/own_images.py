"""Images of ours by the words that callers have for them: ids, and the addresses that we gave out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

MAX_ID_CHARS = 100
_ID = "[0-9A-HJKMNP-TV-Z]{26}"
_TASK = re.compile(rf"(job_{_ID})(?:#([0-9]{{1,3}}))?")
# Every route at which an upload or an image of a task is served.
_UPLOAD_PATH = re.compile(rf"/(?:api/uploads|v1/files)/(upl_{_ID})(?:/content)?")
_TASK_PATH = re.compile(rf"/api/images/tasks/(job_{_ID})/image")
_VARIANT = {"width": re.compile(r"[1-9][0-9]{0,4}"), "height": re.compile(r"[1-9][0-9]{0,4}")} | {
    "format": re.compile("png|jpeg|webp|avif")
}


@dataclass(frozen=True, slots=True)
class OfUpload:
    """An upload by its id."""

    upload_id: str


@dataclass(frozen=True, slots=True)
class OfTask:
    """An image of a task. ``variant``: width, height and format, where another one than the image itself is meant."""

    job_id: str
    index: int
    variant: Mapping[str, str] = field(default_factory=dict)


def named(text: str, path_of: Callable[[str], str | None]) -> OfUpload | OfTask | None:
    """What a text names; None for what is none of ours. ``path_of``: path and query of an address that leads here."""
    if text.startswith("upl_") and len(text) <= MAX_ID_CHARS:
        return OfUpload(text)
    if found := _TASK.fullmatch(text):
        return OfTask(found[1], int(found[2] or 0))
    if not text[:8].lower().startswith(("https://", "http://")):
        return None
    path, _, query = (path_of(text) or "").partition("?")
    if found := _UPLOAD_PATH.fullmatch(path):
        return OfUpload(found[1])
    if found := _TASK_PATH.fullmatch(path):
        return _of_query(found[1], dict(parse_qsl(query[:2000])))
    return None


def _of_query(job_id: str, query: Mapping[str, str]) -> OfTask | None:
    index = query.get("index", "0")
    if not re.fullmatch("[0-9]{1,3}", index):
        return None
    variant = {name: query[name] for name, form in _VARIANT.items() if form.fullmatch(query.get(name, ""))}
    return OfTask(job_id, int(index), variant)
