"""Keys as the emulators take them: any but a few with a meaning. None is ever stored or logged."""

import hashlib

from flask import request

BAD_KEY = "bad-key"
NO_QUOTA_KEY = "no-quota"
NO_ORG_KEY = "no-org"


def bearer_key() -> str:
    """The key of ``Authorization: Bearer``, or an empty text."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def owner_of(key: str) -> str:
    """A name for the holder of ``key``, from which the key cannot be read back."""
    return hashlib.sha256(f"owner {key}".encode()).hexdigest()[:16]
