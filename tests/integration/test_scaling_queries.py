"""What KEDA asks PostgreSQL (deploy/kubernetes): how far the workers are behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from job_engine import Engine

from accounts.keys import Caller

FILE = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "base" / "worker-scaling.yaml"
[SCALED] = [each for each in yaml.safe_load_all(FILE.read_text()) if each["kind"] == "ScaledObject"]
QUERIES = {each["name"]: each["metadata"]["query"] for each in SCALED["spec"]["triggers"]}


def asked(engine: Engine) -> dict[str, Any]:
    with engine.database.autocommit() as connection:
        return {name: connection.exec_driver_sql(query).scalar_one() for name, query in QUERIES.items()}


def change(engine: Engine, statement: str) -> None:
    with engine.database.transaction() as connection:
        connection.exec_driver_sql(statement)


def test_workers_are_behind_by_messages_that_wait_and_looks_that_are_overdue(engine: Engine, account: Caller) -> None:
    assert asked(engine) == {"queue-age": 0, "queue-depth": 0}
    first, second = (engine.order(account).task.id for _ in range(2))
    change(engine, "UPDATE jobs SET published_at = clock_timestamp() - interval '40 s'")
    behind = asked(engine)
    assert behind["queue-depth"] == 2
    assert 40 <= behind["queue-age"] <= 50
    # What no message is out for waits for something else than a worker.
    change(engine, f"UPDATE jobs SET published_at = NULL, due_at = due_at + interval '1 h' WHERE id = '{first}'")
    assert asked(engine)["queue-depth"] == 1
    engine.run(second)
    change(engine, f"UPDATE jobs SET due_at = clock_timestamp() + interval '60 s' WHERE id = '{second}'")
    assert asked(engine) == {"queue-age": 0, "queue-depth": 0}
    change(engine, f"UPDATE jobs SET due_at = clock_timestamp() - interval '20 s' WHERE id = '{second}'")
    behind = asked(engine)
    assert behind["queue-depth"] == 1
    assert 20 <= behind["queue-age"] <= 30


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_reads_every_job(engine: Engine, name: str) -> None:
    with engine.database.transaction() as connection:
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = connection.exec_driver_sql(f"EXPLAIN {QUERIES[name]}").scalars().all()
    assert not any("Seq Scan on jobs" in line for line in plan)
