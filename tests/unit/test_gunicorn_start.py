"""What gunicorn has imported when its worker puts gevent's parts in place of Python's."""

from __future__ import annotations

import subprocess
import sys

# The master reads its settings and its worker's class; the worker then patches, and loads the application.
START = """
import app.gunicorn_conf, app.serving.worker
from gevent import monkey
monkey.patch_all()
from urllib3.util.ssl_ import create_urllib3_context
create_urllib3_context()
"""


def test_the_web_process_speaks_tls_by_gevents_sockets() -> None:
    """urllib3 imported before would keep Python's own contexts, and every https request would end in a recursion."""
    done = subprocess.run(
        [sys.executable, "-c", START],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
