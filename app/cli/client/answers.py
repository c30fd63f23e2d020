"""The server's responses as values; ``document`` keeps the whole response for ``--json``.

Readers are strict about what commands rely on (id, status, the facts an image is verified by) and lenient about the
rest, so that extra members of a newer server do no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from app.cli.output import CommandError, Exit

Document = dict[str, Any]

ENDED = frozenset({"succeeded", "failed", "cancelled"})


# Where the end of a type is not how its files are called.
_EXTENSIONS = {
    "image/jpeg": "jpg",
    "text/plain": "txt",
    "model/gltf-binary": "glb",
    "model/vnd.usdz+zip": "usdz",
    "application/octet-stream": "bin",
}


@dataclass(frozen=True, slots=True)
class Image:
    """One kept result of a task. Pixels are None where it is no image: a caption, or a 3D file.

    ``text`` is what a model of texts answered; ``deleted``: its time is over, and it cannot be fetched any more.
    """

    index: int
    mime: str
    width_px: int | None
    height_px: int | None
    size_bytes: int
    sha256: str
    text: str = ""
    deleted: bool = False

    @property
    def extension(self) -> str:
        """``png``, ``jpg``, ``glb``, ``txt`` ... by the true type."""
        return _EXTENSIONS.get(self.mime, self.mime.rpartition("/")[2])

    @property
    def pixels(self) -> str:
        """``1024x768``; empty where it is no image."""
        return f"{self.width_px}x{self.height_px}" if self.width_px and self.height_px else ""


@dataclass(frozen=True, slots=True)
class Task:
    """A job as the API shows it. ``replayed``: an earlier order under the same Idempotency-Key had made it."""

    id: str
    status: str
    operation: str
    model: str
    provider: str
    progress: float | None
    step: str
    queue_position: int | None
    wait_p90_s: float | None
    quoted_microcredits: int | None
    captured_microcredits: int | None
    released_microcredits: int | None
    error_code: str
    error_detail: str
    warnings: tuple[str, ...]
    images: tuple[Image, ...]
    document: Document = field(repr=False)
    replayed: bool = False

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list, and the cursor of the next part, if there is one."""

    items: list[Document]
    next_cursor: str | None
    document: Document = field(repr=False)


def read_task(document: Document) -> Task:
    """Raises CommandError (``bad_answer``) when this is not a task."""
    try:
        return _task(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise bad_answer(f"the server's task lacks or garbles something: {error}") from error


def _task(document: Document) -> Task:
    price = _mapping(document.get("price"))
    error = _mapping(document.get("error"))
    progress = document.get("progress")
    position = document.get("queue_position")
    wait_p90_s = _mapping(document.get("wait_estimate_s")).get("p90")
    return Task(
        id=_identifier(document["id"]),
        status=str(document["status"]),
        operation=str(document.get("operation", "")),
        model=str(document.get("model", "")),
        provider=str(document.get("provider", "")),
        progress=None if progress is None else min(max(float(progress), 0.0), 1.0),
        step=str(document.get("step") or ""),
        queue_position=_whole(position),
        wait_p90_s=None if wait_p90_s is None else float(wait_p90_s),
        quoted_microcredits=price.get("quoted_microcredits"),
        captured_microcredits=price.get("captured_microcredits"),
        released_microcredits=price.get("released_microcredits"),
        error_code=str(error.get("code", "")),
        error_detail=str(error.get("message") or ""),
        warnings=tuple(map(str, document.get("warnings") or ())),
        images=tuple(_image(image) for image in document.get("images") or ()),
        document=document,
    )


def _identifier(value: object) -> str:
    """An id that is safe in URLs and file names. Raises ValueError."""
    text = str(value)
    if not text.replace("_", "").replace("-", "").isalnum() or not text.isascii():
        raise ValueError("its id is not an id")
    return text


def _image(image: Mapping[str, Any]) -> Image:
    return Image(
        index=int(image["index"]),
        mime=str(image["mime"]),
        width_px=_whole(image.get("width")),
        height_px=_whole(image.get("height")),
        size_bytes=int(image["size_bytes"]),
        sha256=str(image["sha256"]).lower(),
        text=str(image.get("text") or ""),
        deleted=bool(image.get("deleted")),
    )


def _whole(value: object) -> int | None:
    return None if value is None else int(str(value))


def read_page(document: Document) -> Page:
    """A page of a list, whose rows are in ``data``. Raises CommandError (``bad_answer``)."""
    items = document.get("data")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise bad_answer("the server's list is not a list")
    cursor = document.get("next_cursor")
    return Page(items, None if cursor is None else str(cursor), document)


def bad_answer(detail: str) -> CommandError:
    """The error for a response that a Darkroom server would not send."""
    return CommandError(
        Exit.AWAY, "bad_answer", detail, hint="Is it a Darkroom server? Check --server and DARKROOM_SERVER."
    )


def time_text(value: object) -> str:
    """An RFC 3339 time in this machine's zone, to the second; any other text unchanged."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"{aware.astimezone():%Y-%m-%d %H:%M:%S}"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
