"""Secrets are not logged, whatever is logged and by whatever library."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from core.logging import HIDDEN, configure, redact
from tests.logs import log_to_stderr

OURS = "dk_0123456789ab_Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE"
SECRETS = [
    OURS,
    "Bearer abcdefghijkl",
    "bearer eyJhbGciOi.eyJzdWIi.c2ln",
    "Token r8-something-secret",
    "sk-proj-abcdefghijklmnop",
    "hf_abcdefghijklmnop",
    "whsec_abcdefghijklmnop",
    "AIzaSyA-abcdefghijklmnopqrstuvwxyz12345",
    "AQ.Ab8RN6abcdefghijklmnop",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1c2VyLTcifQ.Zm9yZ2VkIHNpZ25hdHVyZQ",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_key_is_hidden(secret: str) -> None:
    said = redact(f"before {secret} after")
    assert HIDDEN in said
    assert secret[-8:] not in said
    assert said.startswith("before ")
    assert said.endswith(" after")


def test_a_password_in_a_url_is_hidden_and_the_rest_is_not() -> None:
    said = redact("postgresql://me:hunter2@host:5432/db and redis://:s3cret@localhost/0")
    assert said == f"postgresql://me:{HIDDEN}@host:5432/db and redis://:{HIDDEN}@localhost/0"


def test_our_own_key_keeps_its_public_part() -> None:
    assert redact(OURS) == f"dk_0123456789ab_{HIDDEN}"


@pytest.mark.parametrize("text", ["", "job_01M7WK6ZX4PQ17XDTT1J11PP58 ended", "a prompt about a fox", "https://host/x"])
def test_plain_words_stay(text: str) -> None:
    assert redact(text) == text


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure(level="INFO", log_format="json")
    out = io.StringIO()
    root.handlers[0].stream = out  # type: ignore[attr-defined]
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)
    log_to_stderr()


def test_nothing_secret_gets_through_any_door(lines: io.StringIO) -> None:
    structlog.get_logger("ours").info("called", header=f"Bearer {OURS}")
    logging.getLogger("theirs").warning("connecting to %s", "redis://:hunter2@host/0")
    try:
        raise RuntimeError(f"refused {OURS}")
    except RuntimeError:
        logging.getLogger("theirs").exception("gone")
        structlog.get_logger("ours").exception("gone")
    said = lines.getvalue()
    assert OURS not in said
    assert "hunter2" not in said
    assert said.count("RuntimeError: refused") == 2
    assert all(json.loads(line)["level"] for line in said.splitlines())
