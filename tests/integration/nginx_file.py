"""docs/nginx.conf in a real nginx, in front of processes of a test."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from job_engine import root

from core.embedded.ports import answers, free_ports

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
# One process and no daemon; all that it writes lies in its folder.
AROUND = """
daemon off; master_process off; pid {folder}/pid; error_log stderr warn;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {file}
}}
"""


@contextmanager
def nginx_of_the_docs(folder: Path, *, web_port: int, flower_port: int) -> Iterator[int]:
    """The port of an nginx that serves docs/nginx.conf, changed at its marks alone. Skips where none is installed
    (Debian's package is ``nginx``; .ci/run installs it)."""
    if NGINX is None:
        pytest.skip("nginx is not installed; Debian's package is nginx")
    folder.mkdir()
    [port] = free_ports(1)
    text = (Path(root()) / "docs" / "nginx.conf").read_text()
    for mark, ours in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{web_port};"),
        ("server 127.0.0.1:8001;", f"server 127.0.0.1:{flower_port};"),
    ):
        assert len(re.findall(re.escape(mark) + ".*# CHANGE", text)) == 1
        text = text.replace(mark, ours)
    configuration = folder / "nginx.conf"
    configuration.write_text(AROUND.format(folder=folder, file=text))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(configuration)], stderr=log)
    try:
        until = time.monotonic() + 10
        while process.poll() is None and not answers(port):
            assert time.monotonic() < until, "nginx does not listen"
            time.sleep(0.02)
        assert process.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(10)
