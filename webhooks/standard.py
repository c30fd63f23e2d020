"""Standard Webhooks: the headers of a message and their signature."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from standardwebhooks import Webhook

from webhooks.forms import Message


def headers(message: Message) -> Mapping[str, str]:
    """Return ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature`` with one signature for each secret."""
    sent_at = datetime.fromtimestamp(message.sent_at, UTC)
    text = message.body.decode()
    signatures = [Webhook(secret).sign(message.id, sent_at, text) for secret in message.secrets]
    return {
        "Content-Type": "application/json",
        "webhook-id": message.id,
        "webhook-timestamp": str(message.sent_at),
        "webhook-signature": " ".join(signatures),
    }
