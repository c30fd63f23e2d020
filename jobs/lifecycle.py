"""The life of a job, and the only writer of ``Job.status``.

    submit -> QUEUED -- claim --> RUNNING -- park --> WAITING -- found --> RUNNING -- succeed | fail
                 ^                  |    <-- again ---   |                     terminal: SUCCEEDED FAILED CANCELLED
                 '------ retry -----'--------------------'

RUNNING: a worker holds the job; ``owner`` is its boot id, ``fence`` its number. WAITING: the upstream
works and nobody here waits. Terminal states are absorbing.

Each verb is one conditional statement: it moves the job only from the states it names, and only
under the fence it was given; when no row moves it raises StaleJobError and nothing has happened.
Money moves in the same transaction (``quota.ledger``, last, because balances are the hottest
locks). Times are the database's. Verbs return nudges; the caller publishes them after the commit.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, text

from core.ids import is_id
from jobs import calls, failures, publishing, repository, states
from jobs.errors import JobNotFoundError, StaleJobError
from jobs.repository import Task
from jobs.states import JobStatus, Nudge
from quota import ledger

QUEUED, RUNNING, WAITING = JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.WAITING
SUCCEEDED, FAILED, CANCELLED = JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED


@dataclass(frozen=True, slots=True)
class NewJob:
    """Everything a job is born with. Prices in micro-credits; ``unit_price`` is that of ``model``.

    ``quoted`` is n times the dearest of the models that may run. ``fallbacks`` are those behind the
    first: {model, provider, unit_price, request}. ``keep_s``: a short life for the pictures.
    """

    id: str
    account_id: str
    weight: int
    operation: str
    model: str
    provider: str
    n: int
    low_priority: bool
    start_within_s: int
    unit_price: int
    quoted: int
    request: Mapping[str, Any]
    warnings: Sequence[str]
    metadata: Mapping[str, str]
    inputs: Sequence[Mapping[str, Any]]  # rows of the table ``inputs`` without job_id
    price_version: str = ""
    request_id: str = ""
    fallbacks: Sequence[Mapping[str, Any]] = ()
    keep_s: int | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """A job just born: nudges to publish after the commit, and the job as its owner may see it."""

    nudges: Sequence[Nudge]
    task: Task


# One statement, because submit is the hottest write: admitted, inserted and read back in one round
# trip. The balance is locked from here to the commit, and nothing is waited for in between.
_SUBMIT = text(
    "WITH paid AS ("
    + ledger.ADMIT
    + "), room AS ("
    + publishing.ROOM
    + "), job AS (INSERT INTO jobs (id, account_id, weight, operation, model, provider, n, low_priority,"
    " status, money, unit_price, quoted, start_deadline_at, published_at, fallbacks, keep_s)"
    " SELECT :id, :account_id, :weight, :operation, :model, :provider, :n, :low_priority, 'queued', 'queued',"
    " :unit_price, CAST(:price AS bigint), clock_timestamp() + make_interval(secs => :start_within_s),"
    " CASE WHEN room.free > 0 AND NOT :low_priority THEN clock_timestamp() END, :fallback_count,"
    " CAST(:keep_s AS int) FROM room"
    # What costs nothing needs no balance.
    " WHERE EXISTS (SELECT 1 FROM paid) OR CAST(:price AS bigint) = 0 RETURNING *),"
    " o AS (INSERT INTO orders (job_id, request, warnings, metadata, price_version, request_id, fallbacks)"
    " SELECT id, CAST(:request AS jsonb), CAST(:warnings AS jsonb), CAST(:metadata AS jsonb), :price_version,"
    " :request_id, CAST(:fallbacks AS jsonb) FROM job RETURNING request, warnings, metadata, fallbacks AS behind),"
    " i AS (INSERT INTO inputs SELECT job.id, r.* FROM job, jsonb_to_recordset(CAST(:inputs AS jsonb)) AS"
    " r(role text, position smallint, key text, mime text, width_px int, height_px int, size_bytes int,"
    " sha256 text)),"
    " e AS (INSERT INTO job_events (job_id, type, data)"
    " SELECT id, 'queued', jsonb_build_object('quoted_microcredits', quoted, 'model', model, 'provider', provider)"
    " FROM job)"
    " SELECT to_jsonb(job) || to_jsonb(o) || jsonb_build_object('images', '[]'::jsonb, 'ahead', ("
    + repository.AHEAD.format(of="job")
    + ")) AS task FROM job, o"
)


def submit(connection: Connection, job: NewJob, *, window: int) -> Queued:
    """- -> QUEUED, its price counted against the balance. Raises InsufficientCreditsError.

    The row is born published when the account's window has room, which saves the sweep a look. One
    statement, except for low priority, which needs the caller's transaction around its two.
    """
    born = connection.execute(
        _SUBMIT,
        {
            "id": job.id,
            "account_id": job.account_id,
            "weight": job.weight,
            "operation": job.operation,
            "model": job.model,
            "provider": job.provider,
            "n": job.n,
            "low_priority": job.low_priority,
            "unit_price": job.unit_price,
            "price": job.quoted,
            "start_within_s": job.start_within_s,
            "window": window,
            "request": json.dumps(dict(job.request)),
            "warnings": json.dumps(list(job.warnings)),
            "metadata": json.dumps(dict(job.metadata)),
            "price_version": job.price_version,
            "request_id": job.request_id,
            "inputs": json.dumps(list(job.inputs)),
            "fallbacks": json.dumps(list(job.fallbacks)) if job.fallbacks else None,
            "fallback_count": len(job.fallbacks),
            "keep_s": job.keep_s,
        },
    ).scalar_one_or_none()
    if born is None:
        ledger.refuse(connection, job.account_id, job.quoted)
    nudges = [states.run(job.provider, job.id)] if born["published_at"] else []
    if job.low_priority:
        nudges = publishing.fill(connection, job.account_id, job.provider, job.weight, window=window)
    return Queued(nudges, repository.task_of(born))


def claim(connection: Connection, job_id: str, *, owner: str, step_s: Mapping[str, float]) -> Row[Any]:
    """QUEUED -> RUNNING under a new fence; the credits are held by :func:`hold` in the same transaction.

    ``step_s`` is how long one step may take, by provider: past it the job counts as dropped even if
    its owner lives. Returns the job's row with ``money_before``. Raises StaleJobError when it is not
    queued, not due, or past its start deadline.
    """
    return _move(
        connection,
        job_id,
        sources={QUEUED},
        target=RUNNING,
        condition="due_at <= clock_timestamp() AND (attempt > 0 OR start_deadline_at > clock_timestamp())",
        sets=_OWN + ", money = 'held', started_at = coalesce(jobs.started_at, clock_timestamp())",
        values={"owner": owner, "step_s": json.dumps(dict(step_s))},
        event="started",
        data={"worker": owner},
    )


def hold(connection: Connection, job: Row[Any]) -> None:
    """The credits of a claimed job, once in its life: a retry finds them held."""
    if job.money_before == states.Money.QUEUED:
        ledger.hold(connection, job.account_id, job.id, job.quoted)


def defer(connection: Connection, job_id: str, *, after_s: float, spread_s: float = 0.0) -> None:
    """QUEUED stays QUEUED: no credential has room, so only the time of the next try moves, jittered."""
    connection.execute(
        text(
            "UPDATE jobs SET published_at = NULL,"
            " due_at = clock_timestamp() + make_interval(secs => :after_s + :spread_s * random())"
            " WHERE id = :id AND status = 'queued'"
        ),
        {"id": job_id, "after_s": after_s, "spread_s": spread_s},
    )


def due_now(connection: Connection, job_id: str) -> None:
    """A WAITING job has news: let it be looked at."""
    connection.execute(
        text("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id AND status = 'waiting'"), {"id": job_id}
    )


def park(connection: Connection, job_id: str, fence: int, *, check_after_s: float) -> list[Nudge]:
    """RUNNING -> WAITING: the upstream works, or may; somebody looks in ``check_after_s``."""
    _move(
        connection,
        job_id,
        sources={RUNNING},
        target=WAITING,
        fence=fence,
        sets="due_at = CASE WHEN jobs.cancel_requested_at IS NULL THEN"
        " clock_timestamp() + make_interval(secs => :check_after_s) ELSE clock_timestamp() END",
        values={"check_after_s": check_after_s},
        event="waiting",
        data={},
    )
    return []


def found(connection: Connection, job_id: str, fence: int, *, owner: str, step_s: Mapping[str, float]) -> int:
    """WAITING -> RUNNING, to keep what a finished call made. Returns the new fence.

    Whoever finds the pictures ready takes the job at once: links die in minutes.
    """
    row = _move(
        connection,
        job_id,
        sources={WAITING},
        target=RUNNING,
        fence=fence,
        sets=_OWN,
        values={"owner": owner, "step_s": json.dumps(dict(step_s))},
        event="collecting",
        data={"worker": owner},
    )
    return int(row.fence)


def retry(connection: Connection, job_id: str, fence: int, *, code: str, after_s: float) -> list[Nudge]:
    """RUNNING or WAITING -> QUEUED, to be claimed again in ``after_s``; the hold stays."""
    _move(
        connection,
        job_id,
        sources={RUNNING, WAITING},
        target=QUEUED,
        fence=fence,
        condition="cancel_requested_at IS NULL",
        sets="due_at = clock_timestamp() + make_interval(secs => :after_s), published_at = NULL",
        values={"after_s": after_s},
        event="retry",
        data={"code": code, "after_s": round(after_s, 1)},
    )
    return []


def fail_over(connection: Connection, job_id: str, fence: int | None, *, code: str) -> list[Nudge]:
    """Any live state -> QUEUED at the next model of the order; the price stays counted or held.

    What earlier models made and was kept stays, at their price. Raises StaleJobError, also when no
    model is left.
    """
    row = _move(
        connection,
        job_id,
        sources={QUEUED, RUNNING, WAITING},
        target=QUEUED,
        fence=fence,
        condition="cancel_requested_at IS NULL AND fallbacks > 0",
        sets=_NEXT_MODEL + ", due_at = clock_timestamp(), published_at = clock_timestamp()",
        values={"why": failures.sentence(code)},
        event="failover",
        data={"code": code},
    )
    return [states.run(row.provider, job_id)]


def succeed(connection: Connection, job_id: str, fence: int, *, kept: int, notes: Sequence[str]) -> list[Nudge]:
    """-> SUCCEEDED with ``kept`` pictures: their price captured, the rest released."""
    row = _move(
        connection,
        job_id,
        sources={RUNNING, WAITING},
        target=SUCCEEDED,
        fence=fence,
        condition="cancel_requested_at IS NULL",
        sets=f"{_END}, captured = {_MADE}, released = jobs.quoted - {_MADE},"
        " notes = coalesce(jobs.notes || CAST(:notes AS jsonb), jobs.notes, CAST(:notes AS jsonb))",
        values={"notes": json.dumps(list(notes)) if notes else None},
        event="succeeded",
        data={"pictures": kept},
    )
    ledger.settle(connection, row.account_id, job_id, captured=row.captured, released=row.released)
    return [states.wake(job_id)]


def fail(
    connection: Connection,
    job_id: str,
    fence: int | None,
    *,
    code: str,
    sources: Collection[JobStatus] = (RUNNING, WAITING),
    condition: str = "true",
) -> list[Nudge]:
    """Any live state -> FAILED, every credit back."""
    row = _move(
        connection,
        job_id,
        sources=sources,
        target=FAILED,
        fence=fence,
        condition=condition,
        sets=_END + ", captured = 0, released = jobs.quoted, failure_code = :code, failure_detail = :detail",
        values={"code": code, "detail": failures.sentence(code)},
        event="failed",
        data={"code": code},
    )
    _give_back(connection, row)
    return [states.wake(job_id)]


def expire(connection: Connection, job_id: str) -> list[Nudge]:
    """QUEUED, never sent, past its start deadline -> FAILED, free."""
    return fail(
        connection,
        job_id,
        None,
        code="deadline_expired",
        sources={QUEUED},
        condition="attempt = 0 AND start_deadline_at <= clock_timestamp()",
    )


CancelAnswer = Literal["freed_in_queue", "too_late", "stop_requested"]


@dataclass(frozen=True, slots=True)
class Cancellation:
    outcome: CancelAnswer
    nudges: Sequence[Nudge]


def cancel(
    connection: Connection, account_id: str, job_id: str, *, charge: Literal["full", "none"] = "full"
) -> Cancellation:
    """The caller's wish to stop. Never calls an upstream.

    In the queue nothing is in flight: final and free, but for pictures that earlier calls have made
    (``charge``, setting CANCEL_CHARGE). Later it is a request: a worker asks the upstream and the
    job's end tells the outcome. Raises JobNotFoundError.
    """
    row = None
    if is_id(job_id, "job"):
        row = connection.execute(
            text("SELECT status, provider, attempt FROM jobs WHERE id = :id AND account_id = :account_id FOR UPDATE"),
            {"id": job_id, "account_id": account_id},
        ).one_or_none()
    if row is None:
        raise JobNotFoundError("no such job")
    if row.status == QUEUED:
        made = _pictures_kept(connection, job_id) if row.attempt else 0
        outcome: CancelAnswer = "too_late" if made else "freed_in_queue"
        kept = made if charge == "full" else 0
        return Cancellation(outcome, cancelled(connection, job_id, None, outcome=outcome, kept=kept, sources={QUEUED}))
    if row.status in states.TERMINAL:
        return Cancellation("too_late", [])
    connection.execute(
        text(
            "UPDATE jobs SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),"
            " due_at = clock_timestamp(), version = version + 1 WHERE id = :id"
        ),
        {"id": job_id},
    )
    return Cancellation("stop_requested", [states.poll(row.provider), states.wake(job_id)])


def _pictures_kept(connection: Connection, job_id: str) -> int:
    made = connection.execute(text("SELECT count(*) FROM images WHERE job_id = :id"), {"id": job_id})
    return int(made.scalar_one())


def cancelled(
    connection: Connection,
    job_id: str,
    fence: int | None,
    *,
    outcome: str,
    kept: int,
    sources: Collection[JobStatus] = (RUNNING, WAITING),
) -> list[Nudge]:
    """Any live state -> CANCELLED; ``kept`` pictures that could not be stopped are captured."""
    row = _move(
        connection,
        job_id,
        sources=sources,
        target=CANCELLED,
        fence=fence,
        sets=f"{_END}, captured = {_MADE} * :charged, released = jobs.quoted - {_MADE} * :charged,"
        " cancel_outcome = :outcome, cancel_requested_at = coalesce(jobs.cancel_requested_at, clock_timestamp())",
        values={"charged": int(kept > 0), "outcome": outcome},
        event="cancelled",
        data={"outcome": outcome, "pictures": kept},
    )
    if row.money_before == states.Money.HELD and kept:
        ledger.settle(connection, row.account_id, job_id, captured=row.captured, released=row.released)
    else:
        _give_back(connection, row)
    return [states.wake(job_id)]


def lapse(connection: Connection, job_id: str, fence: int, *, code: str, give_up_s: Mapping[str, float]) -> list[Nudge]:
    """RUNNING -> WAITING, due now, because its owner is dead or its step overdue.

    What was sent and not answered is uncertain from here on; the poller looks at it, and at what is
    finished, and decides how the job goes on. ``give_up_s``: providers that cannot be asked about a
    call, and how long its late answer is waited for.
    """
    row = _move(
        connection,
        job_id,
        sources={RUNNING},
        target=WAITING,
        fence=fence,
        # The fence moves: a worker that wakes up later can change nothing here.
        sets="due_at = clock_timestamp(), fence = jobs.fence + 1",
        values={},
        event="lapsed",
        data={"code": code},
    )
    calls.doubt_unanswered(connection, job_id, give_up_s=give_up_s.get(row.provider))
    return [states.poll(row.provider)]


def crashed(connection: Connection, job_id: str, fence: int, *, give_up_s: Mapping[str, float]) -> list[Nudge]:
    """A step ended in an accident inside a live worker: the fast path of :func:`lapse`."""
    return lapse(connection, job_id, fence, code="step_crashed", give_up_s=give_up_s)


_OWN = (
    "owner = :owner, fence = jobs.fence + 1, step_deadline_at = clock_timestamp() + make_interval("
    "secs => coalesce(CAST(CAST(:step_s AS jsonb) ->> jobs.provider AS double precision), 120))"
)
_END = "money = 'settled', finished_at = clock_timestamp()"
# What the pictures kept cost, each at the price of the model that made it.
_MADE = (
    "(SELECT coalesce(sum(coalesce(c.unit_price, jobs.unit_price)), 0) FROM images AS i"
    " JOIN upstream_calls AS c ON c.id = i.call_id WHERE i.job_id = jobs.id)"
)
_NEXT = "(SELECT o.fallbacks -> CAST(-jobs.fallbacks AS int) FROM orders AS o WHERE o.job_id = jobs.id)"
_NEXT_MODEL = (
    f"model = {_NEXT} ->> 'model', provider = {_NEXT} ->> 'provider',"
    f" unit_price = CAST({_NEXT} ->> 'unit_price' AS bigint), fallbacks = jobs.fallbacks - 1,"
    " notes = coalesce(jobs.notes, '[]') || jsonb_build_array(jobs.model || ': ' || CAST(:why AS text) || '; '"
    f" || ({_NEXT} ->> 'model') || ' was asked instead')"
)


def _move(
    connection: Connection,
    job_id: str,
    *,
    sources: Collection[JobStatus],
    target: JobStatus,
    sets: str,
    values: Mapping[str, Any],
    event: str,
    data: Mapping[str, Any],
    fence: int | None = None,
    condition: str = "true",
) -> Row[Any]:
    """Move one job, write its event, and return its new row with ``money_before``.

    Raises StaleJobError when it is not where the verb takes it from.
    """
    disown = "" if "owner = " in sets else "owner = NULL, step_deadline_at = NULL, "
    row = connection.execute(
        text(
            "WITH seen AS (SELECT id, money FROM jobs WHERE id = :id AND status = ANY(:sources)"
            f" AND (CAST(:fence AS int) IS NULL OR fence = :fence) AND {condition} FOR UPDATE),"
            f" job AS (UPDATE jobs SET status = :target, version = version + 1, {disown}{sets} FROM seen"
            " WHERE jobs.id = seen.id RETURNING jobs.*, seen.money AS money_before),"
            " e AS (INSERT INTO job_events (job_id, type, data) SELECT id, :event,"
            " CAST(:data AS jsonb) || jsonb_strip_nulls(jsonb_build_object('attempt', attempt, 'provider', provider,"
            " 'held_microcredits', CASE WHEN money_before = 'queued' AND money = 'held' THEN quoted END,"
            " 'captured_microcredits', captured, 'released_microcredits', released)) FROM job)"
            " SELECT * FROM job"
        ),
        {
            "id": job_id,
            "sources": [str(source) for source in sources],
            "target": str(target),
            "fence": fence,
            "event": event,
            "data": json.dumps(dict(data)),
            **values,
        },
    ).one_or_none()
    if row is None:
        raise StaleJobError(f"{job_id} cannot become {target} any more")
    return row


def _give_back(connection: Connection, job: Row[Any]) -> None:
    """Return the whole price of a job that ends without a picture, held or only counted."""
    if job.money_before == states.Money.HELD:
        ledger.settle(connection, job.account_id, job.id, captured=0, released=job.quoted)
    else:
        ledger.withdraw(connection, job.account_id, job.quoted)
