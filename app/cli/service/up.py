"""``darkroom up``: the whole service in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from app.cli.service.programs import FLOWER_USER
from app.cli.service.stack import Plan, Running, Stack, StoppedError, default_plan, run_stack
from core import logging
from core import settings as settings_module
from core.embedded.faults import EmbeddedError
from core.embedded.lines import JsonLines, writer
from core.errors import ServiceError
from core.log_streams import LineLog
from core.settings import Settings, SettingsError, with_dotenv
from providers.catalog.live import LiveCatalog
from providers.catalog.reading import CatalogError

__all__ = ["Plan", "Running", "run_stack", "run_up", "up"]

# A stop often arrives twice, from `make` and from the terminal: only a later one asks for a faster stop.
_DEBOUNCE_S = 1.0


@click.command()
def up() -> None:
    """Run the whole service here until Ctrl-C: servers, web, workers, Flower."""
    logging.configure_early()
    try:
        settings = settings_module.load()
        LiveCatalog(settings.catalog_local)  # reported once here instead of by every process
    except (SettingsError, CatalogError) as error:
        if isinstance(sys.stderr, LineLog):
            logging.refuse("up", str(error))
        raise click.ClickException(str(error)) from None
    raise SystemExit(run_up(settings))


def run_up(settings: Settings, *, plan: Plan | None = None) -> int:
    """Start everything, print ``ready`` and the URLs, stop on a signal. Returns the exit status."""
    say = writer(sys.stdout, settings.log_format)
    stack = Stack(settings, plan or default_plan(), say, with_dotenv(os.environ))
    with _stop_signals(stack) as asked:
        try:
            running = stack.start(asked.is_set)
            if isinstance(say, JsonLines):
                say("up", json.dumps({"event": "ready", "level": "info", **addresses(running)}))
            else:
                say.plain(announcement(running))
            return _watch(stack, asked)
        except StoppedError:
            return 0
        except ServiceError as error:
            say("up", f"error: {error.detail}")
            return 1
        except (EmbeddedError, OSError) as error:
            say("up", f"error: {error}")
            return 1
        finally:
            stack.stop()


def addresses(running: Running) -> dict[str, str | None]:
    """Where everything is, for machines."""
    return {
        "api": running.url,
        "admin_key": str(running.admin_key_path),
        "flower": running.flower_url,
        "flower_password": str(running.flower_password_path),
        "sandbox": running.sandbox_url,
    }


def announcement(running: Running) -> str:
    """``ready`` and where everything is, one line each."""
    lines = [
        "ready",
        f"  API        {running.url}",
        f"  docs       {running.url}/docs",
        f"  admin key  {running.admin_key_path}",
        f"  Flower     {running.flower_url} (user {FLOWER_USER}, password in {running.flower_password_path})",
    ]
    if running.sandbox_url is not None:
        lines.append(f"  sandbox    {running.sandbox_url} (no provider is configured; see .env.example)")
    return "\n".join(lines)


def _watch(stack: Stack, asked: threading.Event) -> int:
    while not asked.wait(0.5):
        if not stack.working():
            raise EmbeddedError("the supervisor has ended by itself; its processes ended with it")
    return 0


@contextmanager
def _stop_signals(stack: Stack) -> Iterator[threading.Event]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; later ones hurry the stop."""
    asked = threading.Event()
    first_at = 0.0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal first_at
        if not asked.is_set():
            first_at = time.monotonic()
            asked.set()
        elif time.monotonic() - first_at >= _DEBOUNCE_S:
            stack.hurry()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup stays nohup.
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
