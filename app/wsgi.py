"""What gunicorn serves: ``gunicorn -k gevent app.wsgi:app``.

Never with ``preload_app``: psycopg must be imported after gevent has patched ``select``, which the
gevent worker does before it loads this module, and threads and sockets must not cross the fork.
"""

from __future__ import annotations

import os

from app import create_app
from app.services import build
from core import logging, settings

configuration = settings.load()
logging.configure(level=configuration.log_level, log_format=configuration.log_format)
app = create_app(configuration, build(configuration, settings.with_dotenv(os.environ)))
