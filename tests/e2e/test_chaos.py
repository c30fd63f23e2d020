"""A short seeded run of the chaos monkey: every promise is checked, and a broken one would be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAIN = "import sys; sys.argv[0] = 'darkroom'; from app.cli import main; sys.exit(main())"


def test_a_short_attack_breaks_no_promise() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "chaos", "--minutes", "0.4", "--seed", "20", "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["clean"]
    assert report["violations"] == []
    assert report["accepted"] > 30
    assert sum(report["ended"].values()) == report["accepted"]
    assert report["pictures"] > report["accepted"] / 2
    assert sum(report["faults"].values()) >= 3
