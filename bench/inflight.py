"""Many images in progress at an upstream that is asked in batches: the worker's memory, and how late it polls.

The jobs are WAITING rows by SQL, and tasks that never finish in the sandbox: as if they had arrived at
``ARRIVALS`` a second, so that the older ones are polled less often.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import text

from app.cli.service.programs import sandbox_environ
from bench import seed
from bench.load import Load, LoadPlan, request
from bench.rounds import percentile
from bench.stand import Stand, customers, stand
from bench.table import Bound, Row
from providers.catalog.catalog import ProviderSpec
from providers.catalog.live import LiveCatalog
from providers.upstreams.chatgpt2api.adapter import task_api_root

ACCOUNTS = 8
ARRIVALS = 80
SETTLE_S, WATCH_S, SAMPLE_EVERY_S = 15.0, 30.0, 0.5
MEMORY = Bound("ours", at_most=200)
GAP = Bound("ours", at_most=2)

SEED = """
WITH job AS (
    INSERT INTO jobs (id, account_id, operation, model, provider, n, status, money, unit_price, quoted, attempt, fence,
        created_at, started_at, start_deadline_at, deadline_at, due_at)
    SELECT 'job_' || lpad(CAST(i AS text), 26, '0'), (CAST(:accounts AS text[]))[1 + i % CAST(:account_count AS int)],
        'generate', :model, :provider, 1, 'waiting', 'held', CAST(:price AS bigint), CAST(:price AS bigint), 1, 1,
        came.at, came.at, came.at + interval '1 day', came.at + interval '1 day',
        clock_timestamp() + random() * make_interval(secs => greatest(CAST(:interval_s AS float),
            least(CAST(:interval_max_s AS float), i / CAST(:arrivals AS float) / 8)))
    FROM generate_series(0, CAST(:count AS int) - 1) AS i
    CROSS JOIN LATERAL (
        SELECT clock_timestamp() - make_interval(secs => i / CAST(:arrivals AS float)) AS at
    ) AS came
    RETURNING id, account_id, quoted
),
written AS (
    INSERT INTO orders (job_id, request)
    SELECT id, '{"prompt": "a red kite over the sea", "n": 1, "size": {"width": 256, "height": 256}, "params": {}}'
    FROM job
),
held AS (
    INSERT INTO transfers (account_id, job_id, kind, source, target, amount)
    SELECT account_id, id, 'hold', 'acct:available', 'acct:held', quoted FROM job
)
INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url, dedupe_key,
    outcome, answered_at, upstream_id, give_up_at)
SELECT 'call_' || substr(id, 5), id, 0, 1, 1, :provider, :model, :credential_id, :base_url, 'bench-' || substr(id, 5),
    'accepted', clock_timestamp(), 'bench-' || substr(id, 5), clock_timestamp() + interval '1 day'
FROM job
"""

# How long a job has not been polled, in its own intervals: it was due one interval after the last poll.
LATEST = """
SELECT coalesce(max(1 + extract(epoch FROM clock_timestamp() - due_at) / greatest(CAST(:interval_s AS float),
        least(CAST(:interval_max_s AS float), extract(epoch FROM clock_timestamp() - started_at) / 8))), 1)
    AS intervals,
    count(*) AS waiting
FROM jobs WHERE status = 'waiting'
"""


@dataclass(frozen=True, slots=True)
class Sample:
    rss_mb: float
    intervals: float  # since the last poll, of the job that has waited longest
    waiting: int


def measure(folder: Path, *, jobs: int) -> list[Row]:
    with stand(folder / "inflight", sandbox={"SANDBOX_REQUESTS_KEPT": "10"}) as service, Load() as load:
        empty_mb = service.rss_mb("worker")
        begin(service, load, jobs)
        time.sleep(SETTLE_S)
        looks, began = _looks(service), time.monotonic()
        samples = watch(service)
        rate = (_looks(service) - looks) / (time.monotonic() - began)
    if (fewest := min(sample.waiting for sample in samples)) != jobs:
        raise RuntimeError(f"of {jobs} jobs in flight {fewest} were left")
    return [
        Row(
            f"worker's memory with {jobs:,} in flight",
            "MB",
            max(sample.rss_mb for sample in samples),
            empty_mb,
            "when idle",
            MEMORY,
        ),
        Row(
            f"longest time between two looks, {jobs:,} in flight",
            "intervals",
            max(sample.intervals for sample in samples),
            bound=GAP,
            more={"p50": percentile([sample.intervals for sample in samples], 0.5)},
        ),
        Row("looks at them", "/s", rate),
    ]


def begin(service: Stand, load: Load, jobs: int) -> None:
    """Make the tasks at the sandbox, then the rows that poll them."""
    upstream = sandbox_environ(service.running.settings.sandbox_port)
    key, base_url = upstream["CHATGPT2API_API_KEY"], task_api_root(upstream["CHATGPT2API_BASE_URL"])
    submit = f"{urlsplit(base_url).path}/api/image-tasks/generations"
    tasks = [request("POST", submit, key=key, body=_task(number)) for number in range(jobs)]
    load.send(LoadPlan(service.running.settings.sandbox_port, tasks, count=jobs), expected=200)
    accounts, spec = list(customers(service.database, ACCOUNTS)), _spec(service)
    with service.database.transaction() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        credential_id = connection.execute(
            text("SELECT id FROM credentials WHERE provider = :provider"), {"provider": seed.PROVIDER}
        ).scalar_one()
        connection.execute(
            text(SEED),
            {
                "accounts": accounts,
                "account_count": len(accounts),
                "model": seed.MODEL,
                "provider": seed.PROVIDER,
                "price": seed.PRICE,
                "interval_s": spec.check_interval_s,
                "interval_max_s": spec.check_interval_max_s,
                "count": jobs,
                "arrivals": ARRIVALS,
                "credential_id": credential_id,
                "base_url": base_url,
            },
        )


def watch(service: Stand) -> list[Sample]:
    samples, until, spec = [], time.monotonic() + WATCH_S, _spec(service)
    with service.database.autocommit() as connection:
        while time.monotonic() < until:
            latest = connection.execute(
                text(LATEST), {"interval_s": spec.check_interval_s, "interval_max_s": spec.check_interval_max_s}
            ).one()
            samples.append(Sample(service.rss_mb("worker"), float(latest.intervals), latest.waiting))
            time.sleep(SAMPLE_EVERY_S)
    return samples


def _looks(service: Stand) -> int:
    """Polls so far: polling a job in progress writes its row once, and nothing else does here."""
    with service.database.autocommit() as connection:
        return int(
            connection.execute(text("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'jobs'")).scalar_one()
        )


def _spec(service: Stand) -> ProviderSpec:
    return LiveCatalog(service.running.settings.catalog_local).current().providers[seed.PROVIDER]


def _task(number: int) -> dict[str, str]:
    return {
        "client_task_id": f"bench-{number:026d}",
        "prompt": "a red kite over the sea [sandbox:never]",
        "model": "gpt-image-2",
        "size": "256x256",
    }
