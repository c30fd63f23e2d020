"""docs/nginx.conf against the service that it stands in front of."""

from __future__ import annotations

import re
from pathlib import Path

from app import gunicorn_conf
from app.dialects.files import FORM_BYTES
from app.http.responses import MAX_WAIT_S
from core.settings import Settings

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "nginx.conf").read_text()


def _seconds(directive: str) -> list[int]:
    return [int(found) for found in re.findall(rf"\b{directive} ([0-9]+)s;", TEXT)]


def test_the_proxy_takes_bodies_as_large_as_the_service_does() -> None:
    settings = Settings(_env_file=None)
    [megabytes, of_files] = re.findall(r"client_max_body_size ([0-9]+)m;", TEXT)
    assert int(megabytes) * 2**20 == settings.max_request_bytes
    assert int(of_files) * 2**20 >= settings.max_batch_file_bytes + FORM_BYTES


def test_the_proxy_leaves_a_connection_before_the_service_closes_it_and_outlasts_a_long_poll() -> None:
    assert min(_seconds("keepalive_timeout")) < gunicorn_conf.keepalive
    assert min(_seconds("proxy_read_timeout")) > MAX_WAIT_S


def test_the_proxy_believes_no_client_about_itself() -> None:
    for location in re.findall(r"location [^{]*\{(?:[^{}]*proxy_pass[^{}]*)\}", TEXT):
        for name in ("X-Forwarded-For $remote_addr", "X-Forwarded-Proto $scheme", 'Forwarded ""'):
            assert f"proxy_set_header {name};" in location
