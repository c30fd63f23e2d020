"""The minimum that a life of three messages can cost: three tasks that only start the next one.

``python -m bench.chain`` is its worker: gevent pool and task events as in ours, no database.
"""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import time
from functools import cache

import redis
from celery import Celery

from core.redis import make_client
from core.settings import load

QUEUE = "bench.chain"
DONE_KEY = "bench:chain:done"
LINKS = 3
POLL_S = 0.01

app = Celery("bench.chain")
app.config_from_object("celeryconfig")
app.conf.task_queues = None
app.conf.task_default_queue = QUEUE
app.conf.worker_consumer = "celery.worker.consumer:Consumer"  # ours takes no messages but ours


@cache
def _redis() -> redis.Redis:
    return make_client(load().redis_url)


@app.task(name="bench.link")  # type: ignore[untyped-decorator]
def link(number: str, left: int) -> None:
    if left > 1:
        app.send_task("bench.link", args=(number, left - 1), queue=QUEUE, retry=False)
    else:
        _redis().incr(DONE_KEY)


def run(broker_url: str, client: redis.Redis, chains: int, *, within_s: float = 60.0) -> float:
    """Run ``count`` chains through the worker; chains per second."""
    sender = Celery("bench.sender", broker=broker_url)
    client.delete(DONE_KEY)
    began = time.monotonic()
    with sender.connection_for_write() as connection, connection.Producer() as producer:
        for number in range(chains):
            sender.send_task("bench.link", args=(str(number), LINKS), queue=QUEUE, producer=producer, retry=False)
    while int(client.get(DONE_KEY) or 0) < chains:
        if time.monotonic() - began > within_s:
            raise TimeoutError(f"the chains did not end within {within_s:.0f} s")
        time.sleep(POLL_S)
    return chains / (time.monotonic() - began)


def main() -> None:
    settings = load()
    app.worker_main(
        [
            "worker",
            "--pool=gevent",
            f"--concurrency={settings.worker_pool}",
            f"--queues={QUEUE}",
            "--hostname=chain@%h",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=WARNING",
            *(["--task-events"] if settings.task_events else []),
        ]
    )


if __name__ == "__main__":
    main()
