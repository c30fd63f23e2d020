"""An answer that ends before its end, on purpose."""

from __future__ import annotations

import errno
import socket
import struct


class BrokenOff(ConnectionResetError):  # noqa: N818 - what happens to the answer, not an error of ours
    """Ends an answer that has begun without its last chunk: the client sees a broken connection, and may ask again.

    To the server it is a connection that was reset, which it closes without a word.
    """

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the answer is broken off")


def reset_on_close(client: socket.socket) -> None:
    """Have the connection end by a reset: without chunks, as in HTTP/1.0, its close alone would look like the end of
    the answer."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
