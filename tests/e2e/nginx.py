"""nginx in front of a local service, as impatient as one wants it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import until

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
# One process and no daemon; all that it writes lies in its folder. Answers are buffered, as nginx does by default.
CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log stderr warn;
events {{ }}
http {{
    access_log off; client_max_body_size 64m;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {upstream};
            proxy_http_version {version};
            proxy_set_header Host $http_host;
            proxy_read_timeout {read_timeout_s}s;
        }}
    }}
}}
"""


@contextmanager
def nginx_in_front_of(upstream: str, folder: Path, *, read_timeout_s: int, version: str = "1.1") -> Iterator[str]:
    """The address of an nginx that waits ``read_timeout_s`` between two bytes of an answer. Skips where none is
    installed (Debian's package is ``nginx``; .ci/run installs it)."""
    if NGINX is None:
        pytest.skip("nginx is not installed; Debian's package is nginx")
    folder.mkdir()
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    configuration = folder / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder, port=port, upstream=upstream, version=version, read_timeout_s=read_timeout_s
        )
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(configuration)], stderr=log)
    try:
        until(lambda: process.poll() is not None or _listens(port), 10, "nginx to listen")
        assert process.poll() is None, (folder / "log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as knock:
        return knock.connect_ex(("127.0.0.1", port)) == 0
