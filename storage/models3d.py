"""3D files: their format by their bytes, checked against what the format requires.

Runs in the decoder process. GLB is verified to its last byte (header, chunks, JSON, buffers and views within the
file), the others by their structure alone. Nothing is rendered.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from storage.base import MediaError

GLB, GLTF = "model/gltf-binary", "model/gltf+json"
OBJ, STL, PLY = "model/obj", "model/stl", "model/ply"
USDZ, FBX, ZIP = "model/vnd.usdz+zip", "model/vnd.fbx", "application/zip"
EXTENSIONS = {
    GLB: "glb",
    GLTF: "gltf",
    OBJ: "obj",
    STL: "stl",
    PLY: "ply",
    USDZ: "usdz",
    FBX: "fbx",
    ZIP: "zip",
}

_GLB_HEADER = struct.Struct("<4sII")
_CHUNK = struct.Struct("<I4s")
_STL_HEAD_BYTES, _STL_FACET_BYTES = 84, 50
_FBX_MAGIC = b"Kaydara FBX Binary  \x00"
_ZIP_ENTRIES_MAX = 1000
_ZIP_BYTES_MAX = 1 << 30
_OBJ_WORDS = frozenset({b"v", b"vn", b"vt", b"f", b"o", b"g", b"s", b"usemtl", b"mtllib", b"l", b"p", b"vp"})
_OBJ_LINES = 200


def identify(data: bytes) -> str:
    """The mime type of a valid 3D file. Raises MediaError ``not_a_model``."""
    for looks_like, check in _FORMATS:
        if looks_like(data):
            return check(data)
    raise _bad("of no known kind")


def _bad(why: str) -> MediaError:
    return MediaError("not_a_model", why)


def _glb(data: bytes) -> str:
    if len(data) < _GLB_HEADER.size:
        raise _bad("glb: ends within its header")
    _, version, length = _GLB_HEADER.unpack_from(data)
    if version != 2 or length != len(data):
        raise _bad("glb: not version 2, or of another length than it says")
    chunks = list(_chunks(data))
    if not chunks or chunks[0][0] != b"JSON":
        raise _bad("glb: does not begin with JSON")
    binary_bytes = next((len(body) for kind, body in chunks if kind == b"BIN\x00"), 0)
    _scene(chunks[0][1], binary_bytes)
    return GLB


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = _GLB_HEADER.size
    while at < len(data):
        if at + _CHUNK.size > len(data):
            raise _bad("glb: ends within a chunk's header")
        size_bytes, kind = _CHUNK.unpack_from(data, at)
        at += _CHUNK.size
        if at + size_bytes > len(data):
            raise _bad("glb: a chunk ends after the file")
        yield kind, data[at : at + size_bytes]
        at += size_bytes


def _scene(text: bytes, binary_bytes: int | None) -> dict[str, Any]:
    """The glTF scene, whose buffers and views lie within each other and within the file."""
    try:
        scene = json.loads(text)
        if not isinstance(scene, dict) or not str(scene["asset"]["version"]).startswith("2."):
            raise _bad("gltf: no asset of version 2")
        buffers = [_buffer_bytes(buffer, binary_bytes) for buffer in scene.get("buffers", [])]
        for view in scene.get("bufferViews", []):
            end = int(view.get("byteOffset", 0)) + int(view["byteLength"])
            if int(view["byteLength"]) < 0 or end > buffers[int(view["buffer"])]:
                raise _bad("gltf: a view reaches beyond its buffer")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise _bad("gltf: its JSON is no scene") from None
    return scene


def _buffer_bytes(buffer: dict[str, Any], binary_bytes: int | None) -> int:
    """Its length. Without an address the buffer is the file's own binary chunk and must fit there."""
    length = int(buffer["byteLength"])
    if "uri" not in buffer and (binary_bytes is None or not 0 <= length <= binary_bytes):
        raise _bad("gltf: a buffer is longer than the file's data")
    if "uri" in buffer and not str(buffer["uri"]).startswith("data:"):
        raise _bad("gltf: refers to another file, which no one would have")
    return length


def _gltf(data: bytes) -> str:
    _scene(data, None)
    return GLTF


def _stl(data: bytes) -> str:
    if data[:5].lower() == b"solid" and b"endsolid" in data[-400:]:
        return STL
    if len(data) >= _STL_HEAD_BYTES:
        (facets,) = struct.unpack_from("<I", data, 80)
        if facets and len(data) == _STL_HEAD_BYTES + facets * _STL_FACET_BYTES:
            return STL
    raise _bad("of no known kind")


def _ply(data: bytes) -> str:
    head, end, _ = data[:65_536].partition(b"end_header")
    if not end or b"\nformat " not in head.replace(b"\r", b"\n") or b"element vertex" not in head:
        raise _bad("ply: no whole header")
    return PLY


def _zip(data: bytes) -> str:
    """An archive whose directory is sound and whose contents would not fill a disk."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        raise _bad("zip: damaged") from None
    if not entries or len(entries) > _ZIP_ENTRIES_MAX or sum(each.file_size for each in entries) > _ZIP_BYTES_MAX:
        raise _bad("zip: empty, or too much in it")
    if any(each.filename.startswith("/") or ".." in each.filename.split("/") for each in entries):
        raise _bad("zip: a name leads out of it")
    first = entries[0]
    is_usd = first.filename.lower().endswith((".usd", ".usda", ".usdc")) and first.compress_type == zipfile.ZIP_STORED
    return USDZ if is_usd else ZIP


def _fbx(_: bytes) -> str:
    return FBX


def _obj(data: bytes) -> str:
    words = {line.split(b" ", 1)[0].strip() for line in data[:65_536].splitlines()[:_OBJ_LINES] if line.strip()}
    words = {word for word in words if not word.startswith(b"#")}
    if b"v" not in words or not words <= _OBJ_WORDS:
        raise _bad("of no known kind")
    return OBJ


def _is_stl(data: bytes) -> bool:
    if data[:5].lower() == b"solid":
        return True
    if len(data) < _STL_HEAD_BYTES:
        return False
    return len(data) == _STL_HEAD_BYTES + int(struct.unpack_from("<I", data, 80)[0]) * _STL_FACET_BYTES


_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], str]], ...] = (
    (lambda data: data.startswith(b"glTF"), _glb),
    (lambda data: data.startswith(_FBX_MAGIC), _fbx),
    (lambda data: data.startswith(b"PK\x03\x04"), _zip),
    (lambda data: data.startswith((b"ply\n", b"ply\r")), _ply),
    (lambda data: data.lstrip()[:1] == b"{", _gltf),
    (_is_stl, _stl),
    (lambda _: True, _obj),
)
