"""Logs of the tests' own process."""

from __future__ import annotations

import sys

import structlog


def log_to_stderr() -> None:
    """As every process of ours logs. A thread of an earlier test may log at any time, and no command's output is to
    have it."""
    structlog.reset_defaults()
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
