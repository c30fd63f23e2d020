"""The Ed25519 key of this installation, for forms of callbacks that sign with one; made at first use, never changed."""

from __future__ import annotations

import secrets

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection

from core import key_values

NAME = "webhooks:ed25519"


def seed(connection: Connection) -> bytes:
    """Return the private key: 32 bytes, the same for every process."""
    known = key_values.find(connection, NAME)
    value = known.value if known else key_values.put_if_absent(connection, NAME, secrets.token_hex(32))
    return bytes.fromhex(value)


def public_key(seed: bytes) -> bytes:
    """Return the 32 bytes of the public key, for a JWKS."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
