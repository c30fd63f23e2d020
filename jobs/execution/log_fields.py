"""What every log line of a job's step carries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from core import tracing
from jobs.reads.worker import LiveJob


@contextmanager
def of(job: LiveJob, *, attempt: int | None = None) -> Iterator[None]:
    """Bind job, account, provider, the submit's request id, attempt and trace to the lines of a step while it runs."""
    known = {
        "account_id": job.account_id,
        "provider": job.provider,
        "request_id": job.request_id,
        "attempt": attempt,
        "trace_id": tracing.trace_id(job.traceparent),
    }
    fields = {name: value for name, value in known.items() if value}
    with structlog.contextvars.bound_contextvars(job_id=job.id, **fields):
        yield
