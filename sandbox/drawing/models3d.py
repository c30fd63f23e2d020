"""3D files made to order: a triangle of its own for every seed, as binary glTF 2.0 (GLB)."""

import hashlib
import json
import struct

CONTENT_TYPE = "model/gltf-binary"
_MAGIC, _VERSION = 0x46546C67, 2
_JSON_CHUNK, _BIN_CHUNK = 0x4E4F534A, 0x004E4942
_FLOAT, _ARRAY_BUFFER, _TRIANGLES = 5126, 34962, 4


def glb(seed: str) -> bytes:
    """A valid GLB of about 600 bytes; the same ``seed`` gives the same bytes.

    A 12-byte header, a JSON chunk and a BIN chunk with three corners (32-bit floats), each chunk padded to
    four bytes (glTF 2.0 specification, "GLB File Format Specification").
    """
    corners = _corners(seed)
    buffer = b"".join(struct.pack("<3f", *corner) for corner in corners)
    # Rounded as stored: the bounds of an accessor must be those of its 32-bit values.
    stored = list(struct.iter_unpack("<3f", buffer))
    document = {
        "asset": {"version": "2.0", "generator": "darkroom sandbox"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": hashlib.sha256(seed.encode()).hexdigest()[:16]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": _TRIANGLES}]}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": _FLOAT,
                "count": len(stored),
                "type": "VEC3",
                "min": [min(axis) for axis in zip(*stored, strict=True)],
                "max": [max(axis) for axis in zip(*stored, strict=True)],
            }
        ],
        "bufferViews": [{"buffer": 0, "byteLength": len(buffer), "target": _ARRAY_BUFFER}],
        "buffers": [{"byteLength": len(buffer)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    chunks = _chunk(_JSON_CHUNK, text, b" ") + _chunk(_BIN_CHUNK, buffer, b"\0")
    return struct.pack("<3I", _MAGIC, _VERSION, 12 + len(chunks)) + chunks


def _corners(seed: str) -> list[tuple[float, float, float]]:
    """Three corners that never fall together: one in each of three regions, moved by the seed."""
    shifts = [byte / 512 for byte in hashlib.sha256(seed.encode()).digest()[:3]]
    return [(0.0, shifts[0], 0.0), (1.0, 0.0, shifts[1]), (shifts[2], 1.0, 0.0)]


def _chunk(kind: int, body: bytes, padding: bytes) -> bytes:
    body += padding * (-len(body) % 4)
    return struct.pack("<2I", len(body), kind) + body
