"""How gunicorn serves the web process: ``python -m gunicorn -c python:app.gunicorn_conf app.wsgi:app``.

Every name below is a gunicorn setting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.gunicorn_logs import ChainedLogger
from core import logging, open_files
from core.embedded import launch
from core.settings import SettingsError, load

logging.configure_early()

try:
    _settings = load()
except SettingsError as error:
    logging.refuse("web", str(error))

bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
workers = _settings.web_workers
worker_class = "app.serving.worker.WebWorker"
# Every stream of events and every waiting call holds one; the rest is for requests that are answered at once.
worker_connections = _settings.max_waiting + 2000
proc_name = "darkroom-web"

graceful_timeout = 8  # `up` and Docker allow ten seconds.
timeout = 30  # A gevent hub that has not run for this long is stuck, not busy.
keepalive = 20  # Also the time the head of a request may take.

# Where proxies are trusted, and how many, is said by DARKROOM_TRUSTED_PROXIES alone, in the app.
forwarded_allow_ips = ""
# It would be in the home folder, where everyone who can write there could control the server.
control_socket_disable = True

accesslog = None  # It would show signed links; the app has its own (DARKROOM_ACCESS_LOG).
errorlog = "-"
logger_class = ChainedLogger

# The heartbeat file is touched every second: on disk, a slow one would look like a stuck worker.
if Path("/dev/shm").is_dir():  # noqa: S108 - gunicorn makes a private file in it
    worker_tmp_dir = "/dev/shm"  # noqa: S108


def post_fork(_arbiter: Any, worker: Any) -> None:
    """Let a worker die with its master, however the master dies and whatever the worker is doing, and let it open as
    many files as the system allows."""
    launch.die_with_parent(worker.ppid)
    open_files.raise_limit(needed=worker_connections + 500)
