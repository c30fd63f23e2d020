"""Which programs make up the service on one machine, and the environment they are given."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

import core
from app.cli.service import child_environ
from core.embedded.processes import Program
from core.settings import Settings

LOOPBACK = "127.0.0.1"
FLOWER = "flower"
FLOWER_USER = "admin"

# The highest number is stopped first; the sandbox outlives the workers that use it.
POSTGRES, REDIS, SANDBOX, SERVICE = range(4)

# Where our packages are: the clone, or site-packages.
_HOME = Path(core.__file__).resolve().parent.parent


def service_environ(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of every process: ``environ``, overridden by every value of ``settings``.

    Our packages come before the working folder on the path, and both are on it: gunicorn and celery put
    that folder first where it is missing, and a folder called ``app`` in it would be taken for ours.
    """
    inherited = {name: value for name, value in environ.items() if name != "PYTHONPATH"}
    own = {alias: _written(value) for alias, value in _fields(settings).items() if value is not None}
    unset = [alias for alias, value in _fields(settings).items() if value is None]
    path = [str(_HOME), *filter(None, environ.get("PYTHONPATH", "").split(os.pathsep)), str(Path.cwd())]
    return {
        **{name: value for name, value in inherited.items() if name not in unset},
        **own,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }


def sandbox_environ(sandbox_port: int) -> dict[str, str]:
    """What points every adapter at the sandbox."""
    from sandbox.emulators import environ  # loads Flask, which `up` has no other use for

    return environ(f"http://{LOOPBACK}:{sandbox_port}")


def service_programs(
    settings: Settings, environ: Mapping[str, str], *, flower_password: str, sandbox: bool
) -> list[Program]:
    """Sandbox (if wanted), web, workers and Flower, in the order in which they start."""
    upstream = sandbox_environ(settings.sandbox_port) if sandbox else {}
    working = child_environ.of_service({**environ, **upstream})
    flower = {**child_environ.of_flower(environ), "FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{flower_password}"}
    programs = [_sandbox(settings, child_environ.of_sandbox(environ))] if sandbox else []
    return [*programs, _web(working), *_workers(settings, working), _flower(settings, flower)]


def _sandbox(settings: Settings, environ: Mapping[str, str]) -> Program:
    argv = _module("sandbox", "--host", LOOPBACK, "--port", str(settings.sandbox_port))
    return Program(name="sandbox", argv=argv, environ=environ, stage=SANDBOX, stop_steps=((signal.SIGTERM, 3.0),))


def _web(environ: Mapping[str, str]) -> Program:
    argv = _module("gunicorn", "-c", "python:app.gunicorn_conf", "app.wsgi:app")
    return Program(name="web", argv=argv, environ=environ, stage=SERVICE, stop_steps=((signal.SIGTERM, 10.0),))


def _workers(settings: Settings, environ: Mapping[str, str]) -> list[Program]:
    count = settings.worker_processes
    names = ["worker"] if count == 1 else [f"worker{number}" for number in range(1, count + 1)]
    # Never SIGQUIT: on gevent it acknowledges the work it cuts off (docs/operating.md).
    steps = ((signal.SIGTERM, max(10.0, settings.drain_s + 2.0)),)
    argv = _module("workers")
    return [
        # A name that outlives restarts, so that Flower and its metrics recognise the worker.
        Program(
            name=name,
            argv=argv,
            environ={**environ, "DARKROOM_WORKER_NAME": name},
            stage=SERVICE,
            stop_steps=steps,
        )
        for name in names
    ]


def _flower(settings: Settings, environ: Mapping[str, str]) -> Program:
    argv = _module("workers.flower", f"--port={settings.flower_port}")
    return Program(name=FLOWER, argv=argv, environ=environ, stage=SERVICE, stop_steps=((signal.SIGTERM, 3.0),))


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _fields(settings: Settings) -> dict[str, object]:
    """Every variable of ours with its value."""
    fields = type(settings).model_fields.items()
    return {str(field.alias): getattr(settings, name) for name, field in fields}


def _written(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value).lower() if isinstance(value, bool) else str(value)
