"""Signed webhooks of WaveSpeed's emulator: providers/upstreams/wavespeed/CONTRACT.md, section 5."""

import hashlib
import hmac
from collections.abc import Callable

from sandbox.plumbing.webhooks import standard_headers

PAUSES_S = (0.5, 1.0, 2.0)  # before the three repeats of a delivery that failed


def secret_of(owner: str) -> str:
    """The signing secret of a key: one for each."""
    return "whsec_" + hashlib.sha256(f"webhook {owner}".encode()).hexdigest()


def signer(owner: str) -> Callable[[bytes, str, int], dict[str, str]]:
    """Makes the headers of a delivery. The secret is used as text, without its prefix and not decoded."""
    secret = secret_of(owner).removeprefix("whsec_").encode()

    def headers(body: bytes, number: str, at_s: int) -> dict[str, str]:
        digest = hmac.new(secret, f"{number}.{at_s}.".encode() + body, hashlib.sha256).hexdigest()
        return standard_headers(number, at_s, f"v3,{digest}")

    return headers
