"""How upstreams sign their webhooks: one check per dialect, in constant time, with five minutes of tolerance.

A signature proves who sent a webhook, not that it is true: a webhook is only a hint, and a look confirms it.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

TOLERANCE_S = 300

# The variable with a provider's signing secret. If it is unset, the token in the address is the only proof.
SECRET_VARIABLES: Final[Mapping[str, str]] = MappingProxyType(
    {"replicate": "REPLICATE_WEBHOOK_SECRET", "wavespeed": "WAVESPEED_WEBHOOK_SECRET"}
)


def is_genuine(provider: str, headers: Mapping[str, str], body: bytes, *, secret: str) -> bool:
    """Whether the provider signed ``body`` within ``TOLERANCE_S``. False for a provider that does not sign."""
    check = _CHECKS.get(provider)
    lowered = {name.lower(): value for name, value in headers.items()}
    return check is not None and check(lowered, body, secret)


def _replicate(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """Standard Webhooks.

    Source: providers/upstreams/replicate/CONTRACT.md, section 6.
    """
    try:
        Webhook(secret).verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError, KeyError):
        return False
    return True


def _wavespeed(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """Hex, version ``v3``, and the secret's text itself for a key.

    Source: providers/upstreams/wavespeed/CONTRACT.md, section 5.
    """
    stamp = headers.get("webhook-timestamp", "")
    if not stamp.isascii() or not stamp.isdigit() or abs(time.time() - int(stamp[:12])) > TOLERANCE_S:
        return False
    message = f"{headers.get('webhook-id', '')}.{stamp}.".encode("utf-8", "replace") + body
    right = hmac.new(secret.removeprefix("whsec_").encode(), message, hashlib.sha256).hexdigest()
    return any(
        hmac.compare_digest(f"v3,{right}".encode(), each.encode("utf-8", "replace"))
        for each in headers.get("webhook-signature", "").split()
    )


_CHECKS: Final[Mapping[str, Callable[[Mapping[str, str], bytes, str], bool]]] = MappingProxyType(
    {"replicate": _replicate, "wavespeed": _wavespeed}
)
