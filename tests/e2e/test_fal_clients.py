"""fal's own Python client against the service, through TLS: it speaks nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Service
from tests.e2e.tls_proxy import make_certificate, tls_in_front_of

SCRIPTS = Path(__file__).resolve().parents[1] / "clients" / "scripts"
LATE_S = 120


def test_fal_client_subscribes_submits_runs_and_cancels(service: Service, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    key = service.running.admin_key_path.read_text().strip()
    with tls_in_front_of(int(service.running.url.rpartition(":")[2]), certificate) as port:
        done = subprocess.run(
            [sys.executable, SCRIPTS / "fal_python.py", f"https://127.0.0.1:{port}", key],
            env={**os.environ, "SSL_CERT_FILE": str(certificate)},
            capture_output=True,
            text=True,
            timeout=LATE_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["subscribe"] == [2, True]  # images; and their links open without a key
    assert seen["updates"] == ["Completed", 1]
    assert seen["events"] == ["Completed", True, True]  # with a log and the time it took
    assert (seen["get"], seen["again"], seen["result"]) == (1, 1024, 1)
    assert seen["cancel_late"] == [400, "ALREADY_COMPLETED"]
    assert seen["run"] == "data:image/png;"
    assert seen["bad_input"] == [422, "type_error", ["body.num_images", "body.prompt"]]
    assert seen["missing"] == [422, "missing", ["body.prompt"]]
    assert seen["unknown"] == [404, "not_found", True]
    assert seen["wrong_key"] == 401
    assert seen["async"] == [1, 1, 1, 1]
    assert seen["cancel"] == "requested"
