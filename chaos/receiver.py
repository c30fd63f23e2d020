"""A receiver of callbacks: it checks each signature as a customer would, and remembers what it was told."""

from __future__ import annotations

import hashlib
import json
import threading
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

from core.ids import of_uuid

HOST = "127.0.0.1"
ENDED = ("succeeded", "failed", "cancelled")
# An id's first attempt is answered by 500 where its last letter is one of these.
_TROUBLED = "07"


@dataclass(frozen=True)
class Told:
    """One callback. ``ends``: what its body says of the end, which may be one of several; empty if it is of no end."""

    path: str
    id: str
    task_id: str
    ends: tuple[str, ...]
    genuine: bool


class Receiver:
    """Listens on a free port until it is closed. ``gentle``: it takes every callback at once."""

    def __init__(self, *, gentle: bool) -> None:
        self.secrets: dict[str, str] = {}  # by the path they sign for
        self.fal_key: str | None = None  # base64 of the service's public key
        self.told: list[Told] = []
        self._gentle = gentle
        self._seen: set[str] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(receiver.take(self.path, dict(self.headers.items()), body))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://{HOST}:{self._server.server_port}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Remember a callback, and return the status of the answer."""
        sent = {name.lower(): value for name, value in headers.items()}
        said = json.loads(body)
        told = self._of_fal(path, sent, body, said) if "request_id" in said else self._standard(path, sent, body, said)
        first = told.id not in self._seen
        self._seen.add(told.id)
        self.told.append(told)
        return 500 if first and not self._gentle and told.id[-1] in _TROUBLED else 204

    def _standard(self, path: str, headers: Mapping[str, str], body: bytes, said: Mapping[str, Any]) -> Told:
        try:
            Webhook(self.secrets[path if path in self.secrets else path.rpartition("/")[0]]).verify(body, dict(headers))
            genuine = True
        except WebhookVerificationError:
            genuine = False
        if "data" in said:
            ends = said["type"].rpartition(".")[2]
            return Told(path, headers["webhook-id"], said["data"]["id"], (ends,) if ends in ENDED else (), genuine)
        ends = said["status"].replace("canceled", "cancelled")
        return Told(path, headers["webhook-id"], said["id"], (ends,), genuine)

    def _of_fal(self, path: str, headers: Mapping[str, str], body: bytes, said: Mapping[str, Any]) -> Told:
        names = ("request-id", "user-id", "timestamp")
        parts = [headers[f"x-fal-webhook-{name}"] for name in names]
        text = "\n".join((*parts, hashlib.sha256(body).hexdigest())).encode()
        key = Ed25519PublicKey.from_public_bytes(urlsafe_b64decode((self.fal_key or "") + "="))
        try:
            key.verify(bytes.fromhex(headers["x-fal-webhook-signature"]), text)
            genuine = True
        except InvalidSignature:
            genuine = False
        ends = ("succeeded",) if said["status"] == "OK" else ("failed", "cancelled")
        return Told(path, parts[0], of_uuid("job", UUID(parts[0])), ends, genuine)
