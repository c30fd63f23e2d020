"""``python -m sandbox``: run the emulators on one port."""

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402 - patched first
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

from sandbox.server import as_json, serve  # noqa: E402


def main() -> None:
    """Read the command line and serve."""
    reader = argparse.ArgumentParser(prog="python -m sandbox", description="Emulators of the upstreams, on one port.")
    reader.add_argument("--host", default="127.0.0.1", help="keep to the loopback: there is no authentication")
    reader.add_argument("--port", type=int, default=8900, help="0 takes a free one, named on the ready line")
    reader.add_argument("--latency", type=float, help="seconds an image takes (SANDBOX_LATENCY_S, default 1)")
    reader.add_argument("--prepared", action="store_true", help="serve prepared images (SANDBOX_PREPARED=1)")
    wanted = reader.parse_args()
    # By the environment, for the application is made when its module is imported.
    if wanted.latency is not None:
        os.environ["SANDBOX_LATENCY_S"] = str(wanted.latency)
    if wanted.prepared:
        os.environ["SANDBOX_PREPARED"] = "1"
    if wanted.host not in ("127.0.0.1", "::1", "localhost"):
        warning = "sandbox: anyone who reaches this address can control it; there is no authentication"
        sys.stderr.write((json.dumps({"event": warning, "level": "warning"}) if as_json() else warning) + "\n")
    serve(wanted.host, wanted.port)


if __name__ == "__main__":
    main()
