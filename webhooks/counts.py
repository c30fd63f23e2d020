"""What is counted of callbacks."""

from __future__ import annotations

from core.metrics.families import Counter, Histogram

ATTEMPTS = Counter(
    "darkroom_webhook_attempts_total",
    "Attempts to send a callback: delivered, put_off (another follows), failed (none follows), dropped.",
    ("outcome",),
)
ATTEMPT_SECONDS = Histogram("darkroom_webhook_attempt_duration_seconds", "Length of an attempt to send a callback.")
