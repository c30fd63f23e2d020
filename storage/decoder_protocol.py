"""The protocol between a process and its decoders: frames over pipes, one JSON head and one body, lengths first."""

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
    """The bounds beyond which a decoder refuses an image (storage.base.MediaLimits)."""

    max_pixels: int
    max_edge_px: int
    max_frames: int
    max_animation_pixels: int


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """What a decoder is to do with one image.

    ``root`` is the local store's folder. Where it is None, the source comes as the frame's body, and the result stays
    in a file in ``staging`` for the caller to store.
    """

    verb: Verb
    staging: str
    root: str | None
    bounds: Bounds
    mime: str  # of the bytes that come in, as sniffed
    prefix: str = ""  # upload, result: the key is prefix/sha256.extension
    role: Role = "image"  # upload
    source_key: str = ""  # variant
    target_key: str = ""  # white_mask, describe
    target_mime: str = ""  # variant
    box_px: tuple[int, int] = (0, 0)  # variant: largest width and height


def to_head(request: DecodeRequest, *, request_id: int) -> dict[str, Any]:
    """A request as the JSON head of a frame."""
    return {"id": request_id, "request": asdict(request)}


def from_head(head: dict[str, Any]) -> DecodeRequest:
    """The request in the head of a frame."""
    fields = dict(head["request"])
    fields["bounds"] = Bounds(**fields["bounds"])
    fields["box_px"] = tuple(fields["box_px"])
    return DecodeRequest(**fields)


def framed(head: dict[str, Any], *, body_bytes: int = 0) -> bytes:
    """A frame up to its body, which the sender writes after it, in pieces of any size."""
    text = json.dumps(head).encode()
    return _LENGTHS.pack(len(text), body_bytes) + text


def receive(pipe: IO[bytes], *, max_body_bytes: int) -> tuple[dict[str, Any], bytes]:
    """Read one frame. Raises EOFError when the pipe ends, ValueError when it holds something else."""
    head_bytes, body_bytes = _LENGTHS.unpack(_exactly(pipe, _LENGTHS.size))
    if head_bytes > _HEAD_MAX_BYTES or body_bytes > max_body_bytes:
        raise ValueError("a frame larger than any that is sent")
    head = json.loads(_exactly(pipe, head_bytes))
    return head, _exactly(pipe, body_bytes) if body_bytes else b""


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data
