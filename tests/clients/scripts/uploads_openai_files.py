"""openai's files against a server: argument 1 is its base URL, argument 2 a key. Prints one JSON line."""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib

import openai


def png(red: int) -> bytes:
    """A PNG of 256 x 256 pixels in one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([red, 80, 120]) * 256 for _ in range(256))
    head = struct.pack(">IIBBBBB", 256, 256, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def main(base: str, key: str) -> None:
    client = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)
    sent = png(11)
    made = client.files.create(file=("cat.png", io.BytesIO(sent), "image/png"), purpose="vision")
    assert made.id.startswith("upl_") and made.object == "file" and made.bytes == len(sent), made
    assert (made.filename, made.purpose, made.status) == ("cat.png", "vision", "processed"), made
    assert isinstance(made.created_at, int) and isinstance(made.expires_at, int), made
    again = client.files.create(file=("cat.png", io.BytesIO(sent), "image/png"), purpose="user_data")
    assert again.id == made.id
    other = client.files.create(
        file=("dog.png", io.BytesIO(png(12)), "image/png"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert 3590 <= other.expires_at - other.created_at <= 3610, other
    assert client.files.retrieve(made.id).model_dump() == again.model_dump()
    listed = [each.id for each in client.files.list(limit=1)]  # page by page
    assert listed[:2] == [other.id, made.id], listed
    content = client.files.content(made.id).read()
    assert content.startswith(b"\x89PNG"), content[:20]
    deleted = client.files.delete(made.id)
    assert deleted.deleted and deleted.id == made.id, deleted
    client.files.delete(other.id)
    for wrong, expected in (
        (lambda: client.files.retrieve(made.id), openai.NotFoundError),
        (lambda: client.files.create(file=("a.txt", b"hello", "text/plain"), purpose="vision"), openai.APIStatusError),
        (lambda: client.files.create(file=("a.png", sent), purpose="batch"), openai.UnprocessableEntityError),
        (client.with_options(api_key="dk_x").files.list, openai.AuthenticationError),
    ):
        try:
            wrong()
        except expected as error:
            assert isinstance(error.body, dict) and {"message", "type", "param", "code"} <= error.body.keys(), (
                error.body
            )
        else:
            raise AssertionError(expected)
    sys.stdout.write(json.dumps({"client": "openai", "version": openai.__version__, "file": made.id}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
