"""Images between an agent and the service: results it can look at, and files it sends."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mcp_types import ContentBlock, ImageContent, TextContent

from app.cli.client.answers import Image, Task, bad_answer
from app.cli.client.connection import Client
from app.cli.client.saving import read_image
from app.cli.output import CommandError, Exit

# Agents' programs refuse answers of about a megabyte, and base64 makes a third more of it.
MOST_BYTES = 600_000
# What language models read as they are.
READABLE = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
SMALLEST_PX = 128
MAX_FILE_BYTES = 64 * 1024 * 1024  # a bound on memory; the service's own is lower


def shown(client: Client, task: Task, *, edge_px: int) -> list[ContentBlock]:
    """A task's results as content: images that fit into ``edge_px`` and together into MOST_BYTES, and texts.

    An image that cannot be fetched is told by a text, since its job is done and its link stands in the answer.
    """
    kept = [each for each in task.images if not each.deleted]
    drawn = [each for each in kept if each.pixels]
    blocks: list[ContentBlock] = [TextContent(text=each.text) for each in kept if each.text]
    share = MOST_BYTES // max(1, len(drawn))
    for image in drawn:
        try:
            blocks.append(_image(client, task, image, edge_px=edge_px, most_bytes=share))
        except CommandError as error:
            blocks.append(TextContent(text=f"image {image.index} could not be fetched ({error.code}): use its link"))
    return blocks


def _image(client: Client, task: Task, image: Image, *, edge_px: int, most_bytes: int) -> ContentBlock:
    longest = max(image.width_px or 0, image.height_px or 0)
    if longest <= edge_px and image.size_bytes <= most_bytes and image.mime in READABLE:
        return _content(_fetched(client, task, image, None), image.mime)
    data = b""
    while edge_px >= SMALLEST_PX:
        data = _fetched(client, task, image, edge_px)
        if len(data) <= most_bytes:
            return _content(data, "image/webp")
        edge_px //= 2
    return TextContent(text=f"image {image.index} is too large to be shown here: use its link")


def _fetched(client: Client, task: Task, image: Image, edge_px: int | None) -> bytes:
    variant = {} if edge_px is None else {"format": "webp", "width_px": edge_px, "height_px": edge_px}
    with client.image(task.id, image.index, **variant) as response:  # type: ignore[arg-type]
        data: bytes = response.content
    if not data:
        raise bad_answer("an image came empty")
    return data


def _content(data: bytes, mime: str) -> ImageContent:
    return ImageContent(data=base64.b64encode(data).decode("ascii"), mime_type=mime)


def reference(client: Client, given: str, *, local_files: bool) -> str:
    """An image of an order as the service takes it; a local file is sent there first and becomes its upload's id.

    Raises CommandError for a file that is missing or no image, and for any where ``local_files`` is false.
    """
    path = _local(given)
    if path is None:
        return given
    if not local_files:
        words = "this server reads no files: send the image as a data: URL, an https URL, a task's image or an upload"
        raise CommandError(Exit.USAGE, "no_local_files", words)
    data = read_image(path, max_bytes=MAX_FILE_BYTES)
    with client.open("POST", "/api/uploads", files={"file": ("image", data)}) as response:
        upload = response.json()
    if not isinstance(upload, dict) or not isinstance(upload.get("id"), str):
        raise bad_answer("the answer to an upload has no id")
    found: str = upload["id"]
    return found


def _local(given: str) -> Path | None:
    """The file that is meant: an absolute path, one from the home folder or from here, or a file: URL."""
    if given.startswith("file://"):
        return Path(unquote(urlsplit(given).path))
    if given.startswith(("/", "~/", "./", "../")) and not given.startswith("/9j/"):  # how base64 of a JPEG begins
        return Path(given).expanduser()
    return None
