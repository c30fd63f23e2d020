"""replicate's files against a server: argument 1 is its base URL, argument 2 a key. Prints one JSON line."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from importlib.metadata import version

import replicate
from replicate.exceptions import ReplicateError
from uploads_openai_files import png


def main(base: str, key: str) -> None:
    client = replicate.Client(api_token=key, base_url=base)
    sent = png(21)
    made = client.files.create(io.BytesIO(sent), filename="cat.png", metadata={"who": "me"})
    assert made.id.startswith("upl_") and made.name == "cat.png" and made.size == len(sent), made
    assert made.checksums["sha256"] == hashlib.sha256(sent).hexdigest(), made
    assert made.metadata == {"who": "me"} and made.content_type == "image/png", made
    assert made.urls["get"] == f"{base}/v1/files/{made.id}", made
    assert isinstance(made.created_at, str) and made.created_at.endswith("Z"), made
    assert client.files.get(made.id) == made
    assert client.files.list()[0] == made
    assert client.files.delete(made.id) is True
    try:
        client.files.get(made.id)
    except ReplicateError as error:
        assert error.status == 404 and error.detail, error
    else:
        raise AssertionError("a deleted file is read")
    sys.stdout.write(json.dumps({"client": "replicate", "version": version("replicate"), "file": made.id}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
