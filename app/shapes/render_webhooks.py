"""Webhooks and deliveries as app/shapes/schemas/webhooks.py has them."""

from __future__ import annotations

from typing import Any

from core.wire import rfc3339
from webhooks.endpoints import Endpoint
from webhooks.messages import Delivery
from webhooks.secrets import Secret


def webhook(endpoint: Endpoint) -> dict[str, Any]:
    """WebhookOut."""
    return {
        "object": "webhook",
        "id": endpoint.id,
        "url": endpoint.url,
        "events": list(endpoint.events),
        "description": endpoint.description,
        "created_at": rfc3339(endpoint.created_at),
        "updated_at": rfc3339(endpoint.updated_at),
        "enabled": endpoint.disabled_at is None,
        "disabled_at": rfc3339(endpoint.disabled_at),
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": rfc3339(endpoint.failing_since),
        "old_secret_until": rfc3339(endpoint.previous_until),
    }


def secret(secret: Secret) -> dict[str, Any]:
    """SecretOut."""
    return {
        "object": "webhook.secret",
        "secret": secret.value,
        "old_secret_until": rfc3339(secret.previous_until),
    }


def delivery(found: Delivery) -> dict[str, Any]:
    """DeliveryOut."""
    return {
        "object": "webhook.delivery",
        "id": found.id,
        "event": found.event,
        "created_at": rfc3339(found.at),
        "task_id": found.job_id,
        "webhook_id": found.endpoint_id,
        "state": found.state,
        "attempts": found.attempts,
        "next_attempt_at": rfc3339(found.next_attempt_at),
        "status": found.status,
        "error": found.error,
        "log": list(found.log),
        "finished_at": rfc3339(found.ended_at),
    }
