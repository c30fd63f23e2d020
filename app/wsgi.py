"""What gunicorn serves: ``gunicorn -k gevent app.wsgi:app``.

Never with ``preload_app``: psycopg must be imported after gevent has patched ``select``, which the
gevent worker does before it loads this module, and threads and sockets must not cross the fork.
"""

from __future__ import annotations

import os
import sys

from flask import Flask

from app import create_app
from app.http import metering
from app.services import build
from core import first_contact, logging, settings
from core.metrics import slots
from core.metrics.serving import Upkeep
from core.tracing import switch
from providers.catalog.reading import CatalogError

# What gunicorn takes for "will not boot, whatever is tried": it stops instead of starting the worker again.
WILL_NOT_BOOT = 3


def _make() -> Flask:
    """The application. Ends the process with one sentence where its settings, catalogue or database are not usable."""
    try:
        configuration = settings.load()
        logging.configure(level=configuration.log_level, log_format=configuration.log_format)
        environ = settings.with_dotenv(os.environ)
        switch.start("darkroom-web", environ, wanted=configuration.traces)
        first_contact.check(configuration.database_url)
        slots.join(configuration.var, "web")
        services = build(configuration, environ)
        made = create_app(configuration, services)
        Upkeep(
            services.exposition,
            [*services.notes, metering.note_of(made)],
            address=configuration.metrics_address,
            token=configuration.metrics_token,
        ).start()
    except (settings.SettingsError, CatalogError) as error:
        reason = str(error)
    except first_contact.DatabaseRefusesError as error:
        reason = error.detail
    else:
        return made
    print(f"darkroom web: {reason}", file=sys.stderr, flush=True)  # noqa: T201 (no log is set up without settings)
    sys.exit(WILL_NOT_BOOT)


app = _make()
