"""How much memory Flower takes: a real Flower on a real Redis is sent the task events of many jobs.

    python -m bench.flower_memory            # 100,000 jobs: received, started, then the end of each
    python -m bench.flower_memory --jobs 5000

Of 100 jobs 90 succeed, 5 fail, 3 are cancelled and 2 are tried again first, on four workers that also
send their heartbeats. Printed: Flower's resident memory (MB) as the jobs go by, and its highest.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.cli.service.programs import service_programs
from core.embedded.ports import free_ports
from core.embedded.redis import EmbeddedRedis
from core.ids import new_id
from core.settings import load

PASSWORD = "bench"
PAGE = 1_000
WORKERS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as folder:
        redis = EmbeddedRedis(Path(folder) / "redis")
        redis.start()
        try:
            os.environ |= {"REDIS_URL": redis.url, "DARKROOM_VAR": folder}
            measure(jobs, Path(folder))
        finally:
            redis.stop()


def measure(jobs: int, folder: Path) -> None:
    from jobs.states import Ended
    from workers.celery_app import app
    from workers.flower.task_events import RUN, fields

    with _flower(folder) as flower, app.connection_for_write() as connection:
        print(f"jobs       0   {flower.rss_mb():6.1f} MB")
        # Received and started one by one, the worst case: the events of a batch share their keys.
        nodes = [app.events.Dispatcher(connection, hostname=f"worker{n}@bench") for n in range(WORKERS)]
        ends = [
            app.events.Dispatcher(connection, hostname=f"worker{n}@bench", buffer_group={"task"}, buffer_limit=24)
            for n in range(WORKERS)
        ]
        began = time.monotonic()
        events = 0
        for number in range(jobs):
            node = nodes[number % WORKERS]
            job_id = new_id("job")
            known = fields(Ended(job_id, "succeeded", runtime_s=4.2))
            said: dict[str, Any] = {name: known[name] for name in ("name", "args", "kwargs")}
            extra = {"root_id": job_id, "parent_id": None, "retries": 0, "eta": None, "expires": None}
            for end in _life(number):
                node.send("task-received", uuid=job_id, **said, **extra)
                node.send("task-started", uuid=job_id)
                ended = Ended(job_id, end, code="upstream_timeout" if end != "succeeded" else None, runtime_s=4.2)
                kind = {"succeeded": "succeeded", "failed": "failed", "retried": "retried", "cancelled": "revoked"}[end]
                ends[number % WORKERS].send(f"task-{kind}", **fields(ended))
                events += 3
            if (number + 1) % PAGE == 0:
                for each in ends:
                    each.flush()
                for each in nodes:
                    each.send(
                        "worker-heartbeat", active=10, processed=number, loadavg=(1, 1, 1), freq=2.0, sw_ident="py"
                    )
                flower.until_seen(RUN, events)
            if (number + 1) % (10 * PAGE) == 0:
                print(f"jobs {number + 1:7}   {flower.rss_mb():6.1f} MB")
        took = time.monotonic() - began
        print(f"highest   {flower.rss_mb('VmHWM'):6.1f} MB after {events} events, {events / took:.0f} events/s")
        flower.get("/api/tasks?limit=1000")
        print(f"after a look at its list   {flower.rss_mb():6.1f} MB")


def _life(number: int) -> tuple[Any, ...]:
    match number % 100:
        case n if n < 90:
            return ("succeeded",)
        case n if n < 95:
            return ("failed",)
        case n if n < 98:
            return ("cancelled",)
        case _:
            return ("retried", "succeeded")


class _Flower:
    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port

    def get(self, path: str) -> str:
        login = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Basic {login}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return str(answer.read().decode())

    def until_seen(self, task: str, events: int) -> None:
        """Wait until Flower has received so many events: Redis drops a listener that is too slow."""
        for _ in range(3000):
            counted = re.findall(rf'flower_events_total{{.*task="{re.escape(task)}".*}} (\S+)', self.get("/metrics"))
            if sum(map(float, counted)) >= events:
                return
            time.sleep(0.1)
        raise SystemExit("Flower has missed events")

    def rss_mb(self, line: str = "VmRSS") -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{line}:")[1].split()[0]) / 1024


@contextmanager
def _flower(folder: Path) -> Iterator[_Flower]:
    [port] = free_ports(1)
    os.environ["DARKROOM_FLOWER_PORT"] = str(port)
    [program] = [
        each
        for each in service_programs(load(), os.environ, flower_password=PASSWORD, sandbox=False)
        if each.name == "flower"
    ]
    with (folder / "flower.log").open("wb") as output:
        process = subprocess.Popen(program.argv, env=dict(program.environ), stdout=output, stderr=output)
    flower = _Flower(process, port)
    try:
        for _ in range(300):
            try:
                flower.get("/healthcheck")
                break
            except OSError:
                time.sleep(0.1)
        time.sleep(2)  # it subscribes to events next to its HTTP server, and nothing shows when
        yield flower
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
