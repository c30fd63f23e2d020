"""What goes over the pipes between a process and its decoders: one JSON head and one body, length first."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from typing import IO, Any, Literal

Verb = Literal["upload", "result", "variant", "white_mask", "model_3d", "text", "describe"]
Role = Literal["image", "mask", "face"]

_LENGTHS = struct.Struct(">IQ")
_HEAD_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a decoder refuses; see storage.base.Limits."""

    max_pixels: int
    max_edge_px: int
    max_frames: int
    max_animation_pixels: int


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work. ``root`` is the local store's folder; without it the work travels both ways:
    the source comes as body, and the outcome stays in a file below ``staging`` for the caller to keep."""

    verb: Verb
    staging: str
    root: str | None
    bounds: Bounds
    mime: str  # of the bytes that come in, as sniffed
    prefix: str = ""  # upload, result: the key is prefix/sha256.extension
    role: Role = "image"  # upload
    source_key: str = ""  # variant
    target_key: str = ""  # variant, describe
    target_mime: str = ""  # variant
    box_px: tuple[int, int] = (0, 0)  # variant: largest width and height


def to_head(task: Task, *, task_id: int) -> dict[str, Any]:
    """A task as the JSON head of a frame."""
    return {"id": task_id, "task": asdict(task)}


def from_head(head: dict[str, Any]) -> Task:
    """The task in the head of a frame."""
    fields = dict(head["task"])
    fields["bounds"] = Bounds(**fields["bounds"])
    fields["box_px"] = tuple(fields["box_px"])
    return Task(**fields)


def framed(head: dict[str, Any], *, body_bytes: int = 0) -> bytes:
    """A frame up to its body, which the sender writes behind it in pieces that suit it."""
    text = json.dumps(head).encode()
    return _LENGTHS.pack(len(text), body_bytes) + text


def receive(pipe: IO[bytes], *, max_body_bytes: int) -> tuple[dict[str, Any], bytes]:
    """Read one frame. Raises EOFError when the pipe ends, ValueError when it holds something else."""
    head_bytes, body_bytes = _LENGTHS.unpack(_exactly(pipe, _LENGTHS.size))
    if head_bytes > _HEAD_MAX_BYTES or body_bytes > max_body_bytes:
        raise ValueError("a frame larger than any we send")
    head = json.loads(_exactly(pipe, head_bytes))
    return head, _exactly(pipe, body_bytes) if body_bytes else b""


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data
