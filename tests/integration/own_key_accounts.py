"""A job engine whose accounts can have own keys, in front of the sandbox, which is asked through a listening proxy."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from job_engine import Engine

from accounts.keys import Caller
from accounts.trail import Actor
from app import provider_keys
from core.db import Database
from core.sealing import Sealer
from jobs.dispatch.own_keys import OwnKey
from jobs.execution.vault import Vault
from providers import registry

HOUSE_KEY = "the-house-key"
OWN_KEY = "canary.own.4b1f.key"
ACTOR = Actor("test")


def vault_of(database: Database, sealer: Sealer, environ: dict[str, str]) -> Vault:
    return Vault(database, sealer, lambda name, key, label: registry.with_key(environ, name, key, label=label))


def store(
    engine: Engine, sealer: Sealer, account: Caller, key: str = OWN_KEY, *, provider: str = "openai", **limits: int
) -> OwnKey:
    with engine.database.transaction() as connection:
        found, _ = provider_keys.store(
            connection,
            ACTOR,
            account.account_id,
            provider,
            key,
            sealer=sealer,
            changes=limits,
        )
    return found


def delete(engine: Engine, account: Caller, provider: str = "openai") -> None:
    with engine.database.transaction() as connection:
        provider_keys.delete(connection, ACTOR, account.account_id, provider)


@dataclass
class Proxy:
    """``keys``: of each request, the key and the path. ``refused``: keys that are answered with 401. ``echo``: every
    answer holds the key that it was asked with, in a header, in members of its own, and in the words of an error."""

    url: str = ""
    keys: list[tuple[str, str]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    echo: bool = False

    def used(self, *, path: str = "") -> list[str]:
        return [key for key, at in self.keys if path in at]


@contextmanager
def listening_proxy(behind: str) -> Iterator[Proxy]:
    """Passes what it is asked to ``behind``, an emulator."""
    proxy = Proxy()

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            header = self.headers.get("Authorization") or self.headers.get("x-key") or ""
            key = header.rpartition(" ")[2]
            proxy.keys.append((key, self.path))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, kind, answer = self._refusal() if key in proxy.refused else self._asked(body)
            except (http.client.HTTPException, OSError):
                self.close_connection = True  # as the emulator did
                return
            if "json" in kind:  # addresses of the emulator, where a task is asked for
                answer = answer.replace(behind.encode(), proxy.url.encode())
            if proxy.echo and "json" in kind:
                answer = _with_echo(answer, key)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("X-You-Sent", key if proxy.echo else "")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _refusal(self) -> tuple[int, str, bytes]:
            error = {
                "message": "Incorrect API key provided",
                "type": "invalid_request_error",
                "code": "invalid_api_key",
            }
            return 401, "application/json", json.dumps({"error": error}).encode()

        def _asked(self, body: bytes) -> tuple[int, str, bytes]:
            names = ("Authorization", "x-key", "Content-Type", "X-Client-Request-Id")
            headers = {name: self.headers[name] for name in names if self.headers.get(name)}
            asked = urllib.request.Request(behind + self.path, body or None, headers, method=self.command)  # noqa: S310 - a sandbox of ours
            try:
                with urllib.request.urlopen(asked) as found:  # noqa: S310
                    return found.status, found.headers["Content-Type"] or "", found.read()
            except urllib.error.HTTPError as found:
                return found.code, found.headers["Content-Type"] or "", found.read()

        do_GET = do_POST = _pass_on  # noqa: N815

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        proxy.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield proxy
        server.shutdown()


def _with_echo(answer: bytes, key: str) -> bytes:
    try:
        document: Any = json.loads(answer)
    except ValueError:
        return answer + key.encode()
    if not isinstance(document, dict):
        return answer
    error = document.get("error")
    if isinstance(error, dict):
        error["message"] = f"you sent {key} ({error.get('message')})"
    for image in document.get("data") or ():
        if isinstance(image, dict):
            image["revised_prompt"] = f"a prompt with {key} in it"
    return json.dumps({**document, "you_sent": key, "detail_of_request": f"header x={key}"}).encode()
