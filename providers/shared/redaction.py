"""Making an upstream's words fit for a log."""

from __future__ import annotations

import re

_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic|token|key)\s+[\w.~+/=-]{8,}"), r"\1 [redacted]"),
    (re.compile(r"\b(?:sk|pk|hf|r8|xai|wsk|whsec|dk)[-_][\w-]{6,}\S*"), "[redacted]"),
    (re.compile(r"\b(?:AIza|AQ\.)[\w-]{20,}"), "[redacted]"),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "[email]"),
    (re.compile(r"(https?://)[^\s/@\"']*@"), r"\1"),
    (re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']*"), r"\1?[redacted]"),
    (re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}"), "[redacted]"),
)


def redact(text: str) -> str:
    """An upstream's words for the log: one line of at most 300 characters, without keys, addresses or query strings."""
    return without_secrets(" ".join(text[:1000].split()))[:300]


def without_secrets(text: str) -> str:
    """A text without keys, mail addresses, users in addresses and query strings; the rest stays as it is."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
