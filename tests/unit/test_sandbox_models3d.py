"""The sandbox's 3D files are valid binary glTF."""

import json
import struct

from sandbox.drawing.models3d import glb


def test_a_glb_has_a_header_a_json_chunk_and_a_binary_chunk():
    blob = glb("a red kite")
    magic, version, length = struct.unpack_from("<4s2I", blob)
    assert (magic, version, length) == (b"glTF", 2, len(blob))
    text_bytes, text_kind = struct.unpack_from("<I4s", blob, 12)
    document = json.loads(blob[20 : 20 + text_bytes])
    data_bytes, data_kind = struct.unpack_from("<I4s", blob, 20 + text_bytes)
    assert (text_kind, data_kind) == (b"JSON", b"BIN\0")
    assert text_bytes % 4 == data_bytes % 4 == 0
    assert 28 + text_bytes + data_bytes == len(blob)
    corners = list(struct.iter_unpack("<3f", blob[28 + text_bytes :]))
    [accessor] = document["accessors"]
    assert len(set(corners)) == accessor["count"] == 3
    assert accessor["min"] == [min(axis) for axis in zip(*corners, strict=True)]
    assert accessor["max"] == [max(axis) for axis in zip(*corners, strict=True)]


def test_the_same_seed_gives_the_same_file_and_another_seed_another():
    assert glb("kite") == glb("kite") != glb("boat")
