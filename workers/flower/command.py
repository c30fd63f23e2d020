"""Start Flower: ``python -m workers.flower``, with our logging, port, password and columns.

Further arguments are Flower's own options, such as ``--address=0.0.0.0``, and go before ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from core import logging
from core.embedded import folders
from core.embedded.faults import EmbeddedError
from core.settings import Settings, SettingsError, load, with_dotenv

LOOPBACK = "127.0.0.1"
USER = "admin"
AUTH = "FLOWER_BASIC_AUTH"
# A job takes 4.7 kB there. Its columns show the job's life by its id; the name of its task is always the same.
OPTIONS = (
    "--max_tasks=20000",
    "--tasks_columns=uuid,state,args,exception,runtime,received,started,worker",
    "--inspect_timeout=3000",
)


def main() -> None:
    try:
        settings, environ = load(), with_dotenv(os.environ)
        os.environ[AUTH] = basic_auth(settings, environ)
        assert settings.broker_url  # noqa: S101 - raises where there is no broker
    except (SettingsError, EmbeddedError, OSError) as error:
        logging.refuse("flower", str(error))

    from celery.__main__ import main as celery

    from workers.flower import outage_lines

    outage_lines.install()
    sys.argv = ["celery", "-A", "workers.celery_app", "flower", *arguments(settings, sys.argv[1:])]
    celery()


def basic_auth(settings: Settings, environ: Mapping[str, str]) -> str:
    """``user:password``: FLOWER_BASIC_AUTH, else ``admin`` with the password in ``flower.password`` under
    DARKROOM_VAR, which is made where it is missing. Raises SettingsError, EmbeddedError, OSError."""
    given = environ.get(AUTH, "").strip()
    if given:
        if ":" not in given:
            raise SettingsError(f"{AUTH} must be user:password")
        return given
    folders.make_folder(settings.var)
    return f"{USER}:{folders.secret_in(settings.var / 'flower.password')}"


def arguments(settings: Settings, given: Sequence[str]) -> list[str]:
    """Flower's options: ``given``, and ours where it does not name them."""
    # Flower asks every worker for its task events, whatever the worker's own setting is.
    quiet = () if settings.task_events else ("--enable_events=false",)
    ours: tuple[str, ...] = (f"--address={LOOPBACK}", f"--port={settings.flower_port}", *OPTIONS, *quiet)
    if settings.flower_prefix:
        ours = (*ours, f"--url_prefix={settings.flower_prefix}")
    named = {option.partition("=")[0] for option in given}
    return [*given, *(option for option in ours if option.partition("=")[0] not in named)]
