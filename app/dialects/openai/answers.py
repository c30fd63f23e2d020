"""OpenAI's answer body of a task that has succeeded, in pieces: no image is in memory as a whole.

Ours stand next to its names: ``id`` and ``task`` lead to the job, ``cost`` is what it took. What is not known is left
out, but for ``usage``, which is null: a client that adds it up can tell nothing from zero.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from app.dialects.openai.orders import ResponseFormat
from app.dialects.openai.usage import usage_of
from app.http.held import BrokenOff
from app.http.signing import TASKS
from app.services import Services
from core.wire import json_text
from jobs.errors import ImageGoneError
from jobs.reads.made import Made, find_made
from jobs.reads.tasks import Image, Task
from quota.prices import credits_text
from storage.base import BlobNotFoundError, StorageUnavailableError

PIECE_BYTES = 48 * 1024  # of a stored image; a multiple of three, so that its base64 has no padding
FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp", "image/gif": "gif"}
_QUALITIES = frozenset({"low", "medium", "high", "xhigh", "max"})
_BACKGROUNDS = frozenset({"transparent", "opaque"})


@dataclass(frozen=True, slots=True)
class Answer:
    """A body as texts and, between them, open files whose base64 belongs there."""

    parts: Sequence[bytes | tuple[BinaryIO, int]]

    @property
    def size_bytes(self) -> int:
        return sum(len(part) if isinstance(part, bytes) else 4 * ((part[1] + 2) // 3) for part in self.parts)

    def pieces(self) -> Iterator[bytes]:
        """The body. Raises BrokenOff where an image cannot be read to its end."""
        try:
            for part in self.parts:
                if isinstance(part, bytes):
                    yield part
                else:
                    yield from base64_of(part[0])
        finally:
            self.close()

    def within(self, before: bytes, after: bytes) -> Answer:
        """The same body as the value of a member."""
        return Answer([before, *self.parts, after])

    def close(self) -> None:
        """Close the files; the pieces do so at their end."""
        for part in self.parts:
            if not isinstance(part, bytes):
                part[0].close()


def find(service: Services, task: Task) -> Made:
    """What the upstreams said of a task's images. Raises DatabaseAwayError."""
    found: Made = service.connections.autocommit(find_made, task.account_id, task.id)
    return found


def answer(service: Services, task: Task, wanted: ResponseFormat, base: str) -> Answer:
    """The answer of a task that has succeeded. ``base``: the public address before our paths.

    Raises ImageGoneError for images that have been deleted, StorageUnavailableError, DatabaseAwayError.
    """
    made = find(service, task)
    parts: list[bytes | tuple[BinaryIO, int]] = []
    head = f'{{"created":{created_of(task)},"data":['
    try:
        for at, image in enumerate(task.images):
            told = {"revised_prompt": words} if (words := made.revised_prompts.get(image.index)) else {}
            head += "," if at else ""
            if wanted == "url":
                head += json_text({"url": image_url(service, task, image, base), **told})
            else:
                parts += [f'{head}{{"b64_json":"'.encode(), (opened(service, image), image.size_bytes)]
                head = '"' + ("," + json_text(told)[1:] if told else "}")
    except BaseException:
        Answer(parts).close()
        raise
    rest = {**facts_of(task), "usage": usage_of(made.usages), **ours(task, base)}
    parts.append(f"{head}],{json_text(rest)[1:]}".encode())
    return Answer(parts)


def facts_of(task: Task) -> dict[str, Any]:
    """What is known of the images, in OpenAI's words."""
    params: Mapping[str, Any] = task.request["params"]
    found: dict[str, Any] = {}
    if params.get("background") in _BACKGROUNDS:
        found["background"] = params["background"]
    first = task.images[0] if task.images else None
    if first is not None and first.mime in FORMATS:
        found["output_format"] = FORMATS[first.mime]
    if params.get("quality") in _QUALITIES:
        found["quality"] = params["quality"]
    if first is not None and first.width_px:
        found["size"] = f"{first.width_px}x{first.height_px}"
    return found


def ours(task: Task, base: str) -> dict[str, Any]:
    """What Darkroom says of a task next to OpenAI's names."""
    captured = task.captured_microcredits
    cost = None if captured is None else {"microcredits": captured, "credits": credits_text(captured)}
    return {"id": task.id, "task": f"{base}{TASKS}/{task.id}", "cost": cost}


def created_of(task: Task) -> int:
    """When the images were made, in Unix seconds."""
    return int((task.finished_at or task.created_at).timestamp())


def image_url(service: Services, task: Task, image: Image, base: str) -> str:
    """A whole address that needs no key. Raises ImageGoneError."""
    _check_there(image)
    return f"{base}{service.signer.image_link(task.account_id, task.id, image.index)}"


def opened(service: Services, image: Image) -> BinaryIO:
    """An image's bytes. Raises ImageGoneError, StorageUnavailableError."""
    _check_there(image)
    try:
        return service.store.open(image.key)
    except BlobNotFoundError:
        raise ImageGoneError("the image has been deleted") from None


def _check_there(image: Image) -> None:
    if image.deleted_at is not None:
        raise ImageGoneError("the image has been deleted")


def base64_of(file: BinaryIO) -> Iterator[bytes]:
    """The base64 of a file, in pieces. Raises BrokenOff where it cannot be read to its end."""
    rest = b""
    while True:
        try:
            data = file.read(PIECE_BYTES - len(rest))
        except (StorageUnavailableError, OSError):
            raise BrokenOff from None
        if not data:
            break
        rest += data
        whole = len(rest) - len(rest) % 3
        yield base64.b64encode(rest[:whole])
        rest = rest[whole:]
    if rest:
        yield base64.b64encode(rest)
