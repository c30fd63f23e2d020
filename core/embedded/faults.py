"""What can go wrong with a server of our own, said in one line that tells the operator what to do."""

from __future__ import annotations


class EmbeddedError(Exception):
    """A server, port, folder or program of ours is not usable; the message says what to change."""
