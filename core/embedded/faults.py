"""What can go wrong with our own servers, in one line that tells the operator what to do."""

from __future__ import annotations


class EmbeddedError(Exception):
    """One of our servers, ports, folders or programs is not usable; the message says what to change."""
