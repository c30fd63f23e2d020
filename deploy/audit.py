"""``make audit``: pip-audit over a lock file, or one sentence where its service cannot be asked.

Exit status: 0 nothing is known, 1 something is, 2 it could not be asked. pip-audit itself calls packages that the
service does not know "skipped" and ends with 0, which behind a package mirror is all of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

TIMEOUT_S = 15
WHOLE_S = 600


def main(lock: str) -> int:
    """Run pip-audit and tell what it found. Returns the exit status."""
    line = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--requirement", lock]
    options = ["--format", "json", "--progress-spinner", "off", "--timeout", str(TIMEOUT_S)]
    try:
        ran = subprocess.run([*line, *options], capture_output=True, text=True, check=False, timeout=WHOLE_S)
        found = json.loads(ran.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return not_asked("it did not answer in time")
    except (ValueError, KeyError):
        return not_asked((ran.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1])
    return verdict(found)


def verdict(packages: Sequence[Mapping[str, Any]]) -> int:
    """Tell what pip-audit's JSON says of each package. Returns the exit status."""
    asked = [each for each in packages if "skip_reason" not in each]
    skipped = [str(each["name"]) for each in packages if "skip_reason" in each]
    if not asked:
        return not_asked(f"it knows none of {len(packages)} packages from here")
    bad = [(each, fault) for each in asked for fault in each["vulns"]]
    for each, fault in bad:
        fixed = ", ".join(fault.get("fix_versions", [])) or "no version"
        sys.stdout.write(f"{each['name']} {each['version']}: {fault['id']}, fixed in {fixed}\n")
    if skipped:
        sys.stdout.write(f"not checked: {', '.join(skipped)}\n")
    sys.stdout.write(f"{len(asked)} packages checked, {len(bad)} known vulnerabilities\n")
    return 1 if bad else 0


def not_asked(why: str) -> int:
    """Say that nothing was checked. Returns the exit status."""
    sys.stderr.write(f"audit: nothing was checked, for the service of known vulnerabilities cannot be asked: {why}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
