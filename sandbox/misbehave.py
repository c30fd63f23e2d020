"""Spoils a good answer in the way a fault says, down to the socket."""

import contextlib
import itertools
import json
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

from flask import Response, request

from sandbox.drawing import bad_files
from sandbox.faults import Script
from sandbox.markers import Fault

# The key in the WSGI environment under which our server puts the connection's socket.
SOCKET_KEY = "sandbox.socket"
# Writes the provider's own error envelope for a fault named refuse, quota, or by an HTTP status.
ErrorFor = Callable[[Fault], Response]
HANG_S = 3600.0
BLOCK = bytes(64 * 1024)


class ConnectionCut(ConnectionAbortedError):  # noqa: N818 - reads as what it is
    """Leaves the view without an answer. Our server then closes the connection without a word."""


def instead(fault: Fault, error_for: ErrorFor) -> Response:
    """The answer to a call that is not accepted."""
    return spoiled(fault, Response(b"{}", content_type="application/json"), error_for)


def finish(script: Script, answer: Response, error_for: ErrorFor) -> Response:
    """``answer`` as it is, or spoiled where ``script`` says so."""
    fault = script.spoiler
    return spoiled(fault, answer, error_for) if fault else answer


def with_retry_after(answer: Response, fault: Fault) -> Response:
    """Adds ``Retry-After`` (as written: an absurd value is a fault too) and ``retry-after-ms``."""
    if "retry_after" in fault.options:
        answer.headers["Retry-After"] = fault.options["retry_after"]
    if "retry_after_ms" in fault.options:
        answer.headers["retry-after-ms"] = fault.options["retry_after_ms"]
    return answer


def spoiled(fault: Fault, answer: Response, error_for: ErrorFor) -> Response:
    """``answer`` with the fault done to it."""
    spoil = _SPOILERS.get(fault.name)
    return spoil(fault, answer) if spoil else with_retry_after(error_for(fault), fault)


def _hang(fault: Fault, _answer: Response) -> Response:
    """Say nothing until the caller gives up (or ``hang=seconds`` are over), then close."""
    wait_for_hang_up(fault.number(HANG_S))
    raise cut_connection(reset=False)


def wait_for_hang_up(longest_s: float) -> None:
    """Sleep, but not on behalf of a caller who has gone: a readable socket means that it closed."""
    connection = connection_socket()
    if connection is None:
        time.sleep(longest_s)
        return
    readable, _, _ = select.select([connection], [], [], longest_s)
    # Bytes to read would be a pipelined request, which is no reason to stop hanging.
    if readable and connection.recv(1, socket.MSG_PEEK):
        time.sleep(longest_s)


def _drop(fault: Fault, _answer: Response) -> Response:
    """Cut the connection without an answer; ``drop=reset`` by RST, else by FIN."""
    raise cut_connection(reset=fault.value == "reset")


def _cut(fault: Fault, answer: Response) -> Response:
    """Send the head and the first ``cut=bytes`` of the body, promised in full, then cut."""
    body = answer.get_data()
    return _then_cut(answer, body[: int(fault.number(len(body) // 2))], promised=len(body))


def _length_lie(fault: Fault, answer: Response) -> Response:
    """The whole body under a Content-Length that promises more."""
    body = answer.get_data()
    return _then_cut(answer, body, promised=len(body) + int(fault.number(1000)))


def _then_cut(answer: Response, body: bytes, *, promised: int) -> Response:
    connection = connection_socket()

    def parts() -> Iterator[bytes]:
        yield body
        _shut(connection)

    return _in_parts(answer, parts(), length=promised)


def _in_parts(answer: Response, parts: Iterator[bytes], *, length: int | None = None) -> Response:
    """The same answer with a body that is sent part by part."""
    streamed = Response(parts, status=answer.status_code, content_type=answer.content_type)
    if length is not None:
        streamed.headers["Content-Length"] = str(length)
    return streamed


def _garbage(fault: Fault, answer: Response) -> Response:
    """A body that is not what its type says: truncated, empty, html, types, list, null, deep or binary."""
    body = answer.get_data()
    rubbish = {
        "": b'{"id": "4f0c", "status": "succ',
        "truncated": body[: len(body) // 2],
        "empty": b"",
        "html": b"<html><body><h1>502 Bad Gateway</h1></body></html>",
        "types": _scrambled(body),
        "list": b"[1, 2, 3]",
        "null": b"null",
        "deep": b"[" * 100_000,
        "binary": bytes(range(256)) * 4,
    }
    chosen = rubbish.get(fault.value, rubbish[""])
    return Response(chosen, status=answer.status_code, content_type=answer.content_type)


def _scrambled(body: bytes) -> bytes:
    """The same JSON keys with values of the wrong types."""
    try:
        document = json.loads(body)
    except ValueError:
        return b"42"
    if not isinstance(document, dict):
        return b"42"
    return json.dumps(
        {key: 42 if isinstance(value, (str, list, dict)) else "x" for key, value in document.items()}
    ).encode()


def _wrong_type(_fault: Fault, answer: Response) -> Response:
    """An HTML page with the status of success, as a captive portal or a login wall gives."""
    return Response(bad_files.HTML_PAGE, status=answer.status_code, content_type="text/html; charset=utf-8")


def _wrong_id(_fault: Fault, answer: Response) -> Response:
    """A well-formed answer about another job."""
    document = answer.get_json(silent=True)
    if isinstance(document, dict):
        for about in (document, document.get("data"), *document.get("items", [])):
            if isinstance(about, dict):
                about.update(dict.fromkeys(_ids_in(about), "00000000-0000-4000-8000-00000000beef"))
        answer.set_data(json.dumps(document))
    return answer


def _ids_in(about: dict[str, Any]) -> list[str]:
    """The fields that say whose answer it is: ``id``, and whatever repeats what the path asked for."""
    asked = set((request.view_args or {}).values())
    return [name for name, value in about.items() if name == "id" or (isinstance(value, str) and value in asked)]


def _huge(fault: Fault, answer: Response) -> Response:
    """A body of ``huge=megabytes`` (100): valid JSON, or an image type full of zeros."""
    count = int(fault.number(100) * 2**20) // len(BLOCK)
    is_json = (answer.content_type or "").startswith("application/json")
    head, fill, tail = (b'{"padding": "', b"x" * len(BLOCK), b'"}') if is_json else (b"\x89PNG\r\n\x1a\n", BLOCK, b"")
    return _in_parts(answer, itertools.chain([head], itertools.repeat(fill, count), [tail]))


def _endless(_fault: Fault, answer: Response) -> Response:
    """A chunked body without an end, until the caller hangs up."""

    def parts() -> Iterator[bytes]:
        while True:
            yield BLOCK
            time.sleep(0)  # Other requests get their turn.

    return _in_parts(answer, parts())


def _gzip_bomb(fault: Fault, answer: Response) -> Response:
    """``gzip_bomb=megabytes`` (100) of zeros in a hundred kilobytes."""
    bomb = Response(bad_files.gzip_of_zeros(int(fault.number(100))), content_type=answer.content_type)
    bomb.headers["Content-Encoding"] = "gzip"
    return bomb


def _slow_drip(fault: Fault, answer: Response) -> Response:
    """The right body, one byte every ``slow_drip=seconds`` (1)."""
    body, pause_s = answer.get_data(), fault.number(1.0)

    def parts() -> Iterator[bytes]:
        for place in range(len(body)):
            yield body[place : place + 1]
            time.sleep(pause_s)

    return _in_parts(answer, parts(), length=len(body))


def _slow_header(fault: Fault, _answer: Response) -> Response:
    """A status line of one byte every ``slow_header=seconds`` (1), written past the WSGI server."""
    connection = connection_socket()
    if connection is None:
        raise ConnectionCut("slow_header needs a server that shows its socket")
    try:
        for byte in b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Padding: " + b"x" * 4096:
            connection.sendall(bytes([byte]))
            time.sleep(fault.number(1.0))
    except OSError:
        pass  # The caller gave up, as it should.
    raise cut_connection(reset=False)


def _redirect(fault: Fault, _answer: Response) -> Response:
    """302 to ``redirect=URL``, or back to the same place forever."""
    moved = Response(status=302)
    moved.headers["Location"] = fault.value or request.url
    return moved


def _link_host(fault: Fault, answer: Response) -> Response:
    """The good answer, with every link to this host leading to ``link_host=URL`` instead."""
    answer.set_data(answer.get_data().replace(request.host_url.rstrip("/").encode(), fault.value.encode()))
    return answer


_SPOILERS: dict[str, Callable[[Fault, Response], Response]] = {
    "hang": _hang,
    "drop": _drop,
    "cut": _cut,
    "length_lie": _length_lie,
    "garbage": _garbage,
    "wrong_type": _wrong_type,
    "wrong_id": _wrong_id,
    "huge": _huge,
    "endless": _endless,
    "gzip_bomb": _gzip_bomb,
    "slow_drip": _slow_drip,
    "slow_header": _slow_header,
    "redirect": _redirect,
    "link_host": _link_host,
}


def connection_socket() -> socket.socket | None:
    """The connection of the current request, where the server shows it (ours and gunicorn do)."""
    environ: dict[str, Any] = request.environ
    return cast("socket.socket | None", environ.get(SOCKET_KEY) or environ.get("gunicorn.socket"))


def cut_connection(*, reset: bool) -> ConnectionCut:
    """Close the connection being served, by FIN or by RST, and give back what the view is to raise."""
    connection = connection_socket()
    if reset and connection is not None:
        # Lingering for no time at all makes the close that follows an RST; a shutdown would send FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        _shut(connection)
    return ConnectionCut("the sandbox cut the connection")


def _shut(connection: socket.socket | None) -> None:
    if connection is None:
        return
    with contextlib.suppress(OSError):  # The other side was quicker.
        connection.shutdown(socket.SHUT_RDWR)
