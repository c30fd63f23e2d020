"""3D files and texts among results: what is kept, under which type, and what is refused."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.base import MediaError
from storage.local import LocalStore
from storage.media import Media
from storage.models3d import identify

TRIANGLE = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
SCENE: dict[str, Any] = {
    "asset": {"version": "2.0"},
    "buffers": [{"byteLength": len(TRIANGLE)}],
    "bufferViews": [{"buffer": 0, "byteLength": len(TRIANGLE)}],
}


def chunk(kind: bytes, body: bytes, filler: bytes) -> bytes:
    body += filler * (-len(body) % 4)
    return struct.pack("<I4s", len(body), kind) + body


def glb(scene: dict[str, Any] | bytes = SCENE, binary: bytes = TRIANGLE) -> bytes:
    text = scene if isinstance(scene, bytes) else json.dumps(scene).encode()
    body = chunk(b"JSON", text, b" ") + (chunk(b"BIN\x00", binary, b"\0") if binary else b"")
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def archive(name: str, how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as zipped:
        zipped.writestr(name, b"x" * 100)
    return file.getvalue()


BINARY_STL = b"\0" * 80 + struct.pack("<I", 2) + b"\0" * 100
PLY = b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n"
OBJ = b"# a triangle\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (glb(), "model/gltf-binary"),
        (glb(binary=b"", scene={"asset": {"version": "2.0"}}), "model/gltf-binary"),
        (json.dumps({"asset": {"version": "2.0"}}).encode(), "model/gltf+json"),
        (OBJ, "model/obj"),
        (BINARY_STL, "model/stl"),
        (b"solid a\nfacet normal 0 0 0\nendfacet\nendsolid a\n", "model/stl"),
        (PLY, "model/ply"),
        (b"Kaydara FBX Binary  \x00\x1a\x00" + b"\0" * 40, "model/vnd.fbx"),
        (archive("scene.usdc"), "model/vnd.usdz+zip"),
        (archive("model.obj", zipfile.ZIP_DEFLATED), "application/zip"),
    ],
)
def test_a_3d_file_is_known_by_its_bytes(data: bytes, mime: str) -> None:
    assert identify(data) == mime


def without(scene: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {**scene, **changed}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"glTF",
        b"<html>not here</html>",
        b"a plain sentence",
        glb()[:-1],
        glb() + b"behind",
        glb()[:4] + struct.pack("<I", 1) + glb()[8:],
        glb(b"no json"),
        glb(b"[]"),
        glb(without(SCENE, asset={})),
        glb(without(SCENE, buffers=[{"byteLength": 400}])),
        glb(without(SCENE, bufferViews=[{"buffer": 0, "byteOffset": 30, "byteLength": 30}])),
        glb(without(SCENE, bufferViews=[{"buffer": 7, "byteLength": 1}])),
        glb(without(SCENE, buffers=[{"byteLength": 36, "uri": "https://elsewhere.example/x.bin"}])),
        json.dumps(without(SCENE, buffers=[{"byteLength": 36, "uri": "x.bin"}])).encode(),
        BINARY_STL[:-1],
        PLY[:30],
        archive("../../etc/passwd"),
        archive("x")[:-30],
    ],
)
def test_what_is_not_what_it_says_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError) as caught:
        identify(data)
    assert caught.value.code == "not_a_model"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Media]:
    folder: Path = tmp_path_factory.mktemp("models")
    made = Media(LocalStore(folder / "store"), folder / "work", decoders=1)
    yield made
    made.close()


def test_a_model_is_kept_as_it_came(media: Media) -> None:
    kept = media.keep_result(glb(), prefix="jobs/1/0", kind="model_3d")
    assert (kept.mime, kept.width_px, kept.height_px) == ("model/gltf-binary", 0, 0)
    assert kept.key.endswith(f"{kept.sha256}.glb")
    assert media._store.read(kept.key) == glb()


def test_an_image_is_no_model_and_a_model_no_image(media: Media) -> None:
    with pytest.raises(MediaError):
        media.keep_result(glb(), prefix="jobs/1/0")
    with pytest.raises(MediaError):
        media.keep_result(b"\x89PNG\r\n\x1a\n" + b"\0" * 50, prefix="jobs/1/0", kind="model_3d")


def test_a_text_is_kept_as_text(media: Media) -> None:
    kept = media.keep_result(b"ein Fuchs im Schnee\n", prefix="jobs/1/0", kind="text")
    assert (kept.mime, kept.key[-4:]) == ("text/plain", ".txt")


@pytest.mark.parametrize("data", [b"", b"  \n", b"\xff\xfe", b"a\x00b", b"x" * 300_000])
def test_what_is_no_text_is_refused(media: Media, data: bytes) -> None:
    with pytest.raises(MediaError):
        media.keep_result(data, prefix="jobs/1/0", kind="text")
