"""Start a worker: ``python -m workers``, which is the only supported way.

The plain ``celery`` command patches the modules for gevent too late, and then an outage of Redis freezes every job
for seconds at a time.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import time
import warnings

from core import first_contact, logging, open_files

logging.configure_early()

import kombu.utils.functional
import redis
import structlog
from celery.signals import celeryd_after_setup, setup_logging
from gevent.hub import Hub

from core.metrics import slots
from core.settings import SettingsError
from core.tracing import switch
from core.version import VERSION
from providers.catalog.reading import CatalogError
from providers.registry import BadSettingError


def main() -> None:
    if kombu.utils.functional.sleep is not time.sleep:
        logging.refuse("worker", "kombu was imported before gevent patched the clock: start by `python -m workers`")
    try:
        _start()
    except (SettingsError, CatalogError, BadSettingError) as error:
        logging.refuse("worker", str(error))
    except first_contact.DatabaseRefusesError as error:
        logging.refuse("worker", error.detail)


def _start() -> None:
    from workers import wiring

    settings = wiring.settings()
    logging.configure(level=settings.log_level, log_format=settings.log_format)
    switch.start("darkroom-worker", wiring.environment(), wanted=settings.traces)
    open_files.raise_limit()

    slots.join(settings.var, "worker")
    wiring.check_start()

    from workers.broker import transports

    # Celery's greenlet for remote commands ends with the connection and is started again; the outage has its own line.
    Hub.NOT_ERROR = (*Hub.NOT_ERROR, redis.ConnectionError, redis.TimeoutError)
    transports.install()  # before any use of a kombu transport, because kombu caches it

    from workers import tasks, ticker
    from workers.bulkheads import FREE_QUEUES
    from workers.celery_app import allow_worker, app

    # Celery warns about running as root because of pickle, which is switched off (accept_content).
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    # It shows its own deprecations from the moment its logging is set up, which is before this signal.
    celeryd_after_setup.connect(_hush_celery, weak=False)
    allow_worker()
    ticker.fit(app)
    context = wiring.worker_context()
    queues = [*FREE_QUEUES, *context.registry.configured()]
    assert tasks.run.name in app.tasks  # noqa: S101 importing them is what registers them
    # The banner is for people; who reads objects gets one.
    quiet = ["--quiet"] if settings.log_format == "json" else []
    structlog.get_logger("workers").info(
        "worker_starts", node=wiring.node_name(), queues=queues, pool=settings.worker_pool, version=VERSION
    )
    setup_logging.connect(_logging_is_ours, weak=False)
    app.worker_main(
        [
            *quiet,
            "worker",
            "--pool=gevent",
            f"--concurrency={settings.worker_pool}",
            f"--queues={','.join(queues)}",
            f"--hostname={wiring.node_name()}",
            "--without-gossip",
            "--without-mingle",
            f"--loglevel={settings.log_level}",
            *(["--task-events"] if settings.task_events else []),
        ]
    )


def _logging_is_ours(**_facts: object) -> None:
    """Celery configures no logging where this signal has a receiver."""


def _hush_celery(**_facts: object) -> None:
    """At each loss of the broker it warns about an option whose default is what we want."""
    warnings.filterwarnings("ignore", message=r"\s*In Celery 5\.1 we introduced an optional breaking change")


if __name__ == "__main__":
    main()
