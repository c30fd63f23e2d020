"""Start a worker: ``python -m workers``, which is the only supported way.

The plain ``celery`` command patches the modules for gevent too late, and then an outage of Redis freezes every job
for seconds at a time.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import sys
import time
import warnings

import kombu.utils.functional

from core import first_contact, logging
from core.settings import SettingsError
from providers.catalog.reading import CatalogError


def main() -> None:
    if kombu.utils.functional.sleep is not time.sleep:
        sys.exit("kombu was imported before gevent patched the clock: start workers by `python -m workers`")
    try:
        _start()
    except (SettingsError, CatalogError) as error:
        sys.exit(f"darkroom worker: {error}")
    except first_contact.DatabaseRefusesError as error:
        sys.exit(f"darkroom worker: {error.detail}")


def _start() -> None:
    from workers import wiring

    settings = wiring.settings()
    logging.configure(level=settings.log_level, log_format=settings.log_format)

    wiring.check_start()

    from workers.broker import transports

    transports.install()  # before any use of a kombu transport, because kombu caches it

    from workers import tasks, ticker
    from workers.bulkheads import FREE_QUEUES
    from workers.celery_app import allow_worker, app

    # Celery warns about running as root because of pickle, which is switched off (accept_content).
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    allow_worker()
    ticker.fit(app)
    context = wiring.worker_context()
    queues = [*FREE_QUEUES, *context.registry.configured()]
    assert tasks.run.name in app.tasks  # noqa: S101 importing them is what registers them
    app.worker_main(
        [
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


if __name__ == "__main__":
    main()
