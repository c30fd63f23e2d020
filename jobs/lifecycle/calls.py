"""The rows of upstream calls: written before the request is sent, with an outcome recorded once.

A call's row is committed before the paid request is sent. The worker that made the request may always record its
outcome, even if the job has changed since, so that no purchase is lost. While a call is open (unanswered, accepted
or uncertain) it occupies a permit of its credential.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs.call import Call, KeptImage, ResultLink
from jobs.dispatch import permits
from jobs.states import OPEN_OUTCOMES, Outcome


@dataclass(frozen=True, slots=True)
class Intended:
    """The calls that got a permit and are recorded; the others wait for a later claim.

    ``limited``: the credential has a limit, so accounts take turns there.
    """

    calls: Sequence[Call]
    limited: bool


INTEND = Statement("""
WITH job AS (
    UPDATE jobs SET attempt = attempt + jsonb_array_length(CAST(:calls AS jsonb)) WHERE id = :job_id
    RETURNING id, provider, model, unit_price
),
asked AS (
    SELECT job.id, coalesce((
        SELECT CAST(f ->> 'unit_cost' AS bigint) FROM jsonb_array_elements(o.fallbacks) AS f
        WHERE f ->> 'model' = job.model
    ), o.unit_cost) AS unit_cost
    FROM job JOIN orders AS o ON o.job_id = job.id
)
INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url, dedupe_key,
    give_up_at, unit_price, expected_cost)
SELECT c.id, job.id, c.slot, c.attempt, c.pictures, job.provider, job.model, :credential_id, :base_url, c.dedupe_key,
    clock_timestamp() + make_interval(secs => CAST(:deadline_s AS float)), job.unit_price,
    asked.unit_cost * c.pictures
FROM job JOIN asked ON asked.id = job.id CROSS JOIN jsonb_to_recordset(CAST(:calls AS jsonb))
    AS c(id text, slot smallint, attempt smallint, pictures smallint, dedupe_key text)
RETURNING intended_at
""")


def intend(
    connection: Connection,
    *,
    job_id: str,
    provider: str,
    attempt: int,
    credentials: Mapping[str, str],
    planned: Sequence[Call],
    deadline_s: float,
) -> Intended | None:
    """Record the calls about to be made, as many as a credential has permits for. None: there is no permit.

    ``credentials`` maps the ids of the credentials this worker can use to their base URLs, which are recorded with
    the call. ``attempt``: how many calls the job has made before. ``deadline_s``: seconds after which a call is
    given up.
    """
    ids = [call.id for call in planned]
    taken = permits.take(connection, provider, known=list(credentials), call_ids=ids, attempt=attempt)
    if taken is None:
        return None
    mine = planned[: taken.calls]
    rows = Hot.of(connection).all(
        INTEND,
        {
            "job_id": job_id,
            "credential_id": taken.credential_id,
            "base_url": credentials[taken.credential_id],
            "deadline_s": float(deadline_s),
            "calls": json.dumps(
                [
                    {
                        "id": each.id,
                        "slot": each.slot,
                        "attempt": each.attempt,
                        "pictures": each.image_count,
                        "dedupe_key": each.dedupe_key,
                    }
                    for each in mine
                ]
            ),
        },
    )
    intended_at = rows[0].intended_at
    return Intended(
        [replace(each, credential_id=taken.credential_id, intended_at=intended_at) for each in mine], taken.limited
    )


class CallRow(TypedDict):
    """The outcome of one call, as a parameter of the statements. Costs are in micro-USD."""

    id: str
    outcome: str
    frees: bool  # the upstream is done with it, so its permit is released
    closes: bool  # nothing more is to be fetched or asked
    upstream_id: str | None
    poll_url: str | None
    result: list[ResultLink] | None
    error_code: str | None
    error_detail: str | None
    retryable: bool | None
    retry_after_s: float | None
    kept: int
    written_off: bool
    deadline_s: float | None
    reported_cost: int | None
    usage: Mapping[str, Any] | None


def call_row(
    call_id: str,
    outcome: Outcome,
    *,
    upstream_id: str | None = None,
    poll_url: str | None = None,
    result: Sequence[ResultLink] | None = None,
    error_code: str | None = None,
    error_detail: str | None = None,
    retryable: bool | None = None,
    retry_after_s: float | None = None,
    kept: int = 0,
    written_off: bool = False,
    deadline_s: float | None = None,
    reported_cost_microusd: int | None = None,
    usage: Mapping[str, Any] | None = None,
) -> CallRow:
    """Return a call's outcome as a parameter of the statements."""
    frees = outcome not in OPEN_OUTCOMES
    return {
        "id": call_id,
        "outcome": outcome.value,
        "frees": frees,
        "closes": frees and outcome is not Outcome.FINISHED,
        "upstream_id": upstream_id,
        "poll_url": poll_url,
        "result": None if result is None else list(result),
        "error_code": error_code,
        "error_detail": error_detail,
        "retryable": retryable,
        "retry_after_s": retry_after_s,
        "kept": kept,
        "written_off": written_off,
        "deadline_s": deadline_s,
        "reported_cost": reported_cost_microusd,
        "usage": usage,
    }


# The job is locked first, as everywhere (lock order: docs/architecture.md section 4), and its version is raised, so
# that decisions on its earlier state are found stale.
RECORD = Statement("""
WITH said AS (
    SELECT c.id, c.outcome, c.frees, c.closes, c.upstream_id, c.poll_url, c.result, c.error_code, c.error_detail,
        c.retryable, c.retry_after_s, c.kept, c.written_off, c.deadline_s, c.reported_cost, c.usage
    FROM jsonb_to_record(CAST(:call AS jsonb)) AS c(id text, outcome text, frees boolean, closes boolean,
        upstream_id text, poll_url text, result jsonb, error_code text, error_detail text, retryable boolean,
        retry_after_s float, kept smallint, written_off boolean, deadline_s float, reported_cost bigint, usage jsonb)
),
job AS (
    UPDATE jobs SET version = version + 1
    WHERE id = (SELECT u.job_id FROM upstream_calls AS u JOIN said ON u.id = said.id)
    RETURNING id
),
seen AS (
    SELECT u.id, u.outcome FROM job JOIN upstream_calls AS u ON u.job_id = job.id JOIN said ON u.id = said.id
    WHERE u.outcome IS NULL OR u.outcome = ANY(CAST(:replaces AS text[]))
    FOR UPDATE OF u
),
call AS (
    UPDATE upstream_calls AS c
    SET outcome = said.outcome, answered_at = coalesce(c.answered_at, clock_timestamp()),
        closed_at = CASE WHEN said.closes THEN clock_timestamp() END,
        upstream_id = coalesce(said.upstream_id, c.upstream_id), poll_url = coalesce(said.poll_url, c.poll_url),
        result = said.result, missing_since = NULL, error_code = said.error_code, error_detail = said.error_detail,
        retryable = said.retryable, retry_after_s = said.retry_after_s, pictures_kept = said.kept,
        written_off = c.written_off OR said.written_off,
        give_up_at = greatest(c.give_up_at, c.intended_at + make_interval(secs => said.deadline_s)),
        reported_cost = coalesce(said.reported_cost, c.reported_cost), usage = coalesce(said.usage, c.usage)
    FROM said, seen WHERE c.id = seen.id
    RETURNING c.id, c.job_id
),
image AS (
    INSERT INTO images (job_id, index, call_id, key, mime, width_px, height_px, size_bytes, sha256, seed,
        revised_prompt, text)
    SELECT call.job_id, i.index, i.call_id, i.key, i.mime, i.width_px, i.height_px, i.size_bytes, i.sha256, i.seed,
        i.revised_prompt, i.text
    FROM call, jsonb_to_recordset(CAST(:images AS jsonb)) AS i(index smallint, call_id text, key text, mime text,
        width_px int, height_px int, size_bytes bigint, sha256 text, seed bigint, revised_prompt text, text text)
    ON CONFLICT (job_id, index) DO NOTHING
),
freed AS (
    UPDATE permits SET call_id = NULL, taken_at = NULL FROM call, said WHERE said.frees AND permits.call_id = call.id
)
SELECT id FROM call
""")


def record(
    connection: Connection,
    call: CallRow,
    *,
    replaces: Collection[Outcome] = OPEN_OUTCOMES,
    images: Sequence[KeptImage] = (),
) -> bool:
    """Record a call's outcome once, whatever the state of its job. For the worker that made the call or gave it up.

    Returns whether it was recorded; False: the call has an outcome that is not in ``replaces``. ``images`` go with
    the outcome KEPT.
    """
    row = Hot.of(connection).one_or_none(
        RECORD,
        {
            "call": json.dumps(call),
            "replaces": [outcome.value for outcome in replaces],
            "images": json.dumps(image_rows([(call["id"], image) for image in images])),
        },
    )
    return row is not None


def image_rows(images: Sequence[tuple[str, KeptImage]]) -> list[dict[str, Any]]:
    """Return rows of the table ``images`` without the job's id. Each image comes with the id of its call."""
    return [
        {"call_id": call_id, **{name: getattr(image, name) for name in KeptImage.__slots__}}
        for call_id, image in images
    ]


NOTE_MISSING = Statement("""
UPDATE upstream_calls SET missing_since = coalesce(missing_since, clock_timestamp())
WHERE id = :id AND outcome IN ('accepted', 'uncertain')
RETURNING missing_since <= clock_timestamp() - make_interval(secs => CAST(:after_s AS float)) AS long_enough
""")


def note_missing(hot: Hot, call_id: str, *, after_s: float) -> bool:
    """Record that the upstream does not know a call. True: that has been so for ``after_s`` seconds."""
    return bool(hot.scalar(NOTE_MISSING, {"id": call_id, "after_s": after_s}))


NOTE_FOUND = Statement("UPDATE upstream_calls SET missing_since = NULL WHERE id = :id")


def note_found(hot: Hot, call_id: str) -> None:
    """Record that the upstream knows the call, so that ``note_missing`` starts counting again."""
    hot.run(NOTE_FOUND, {"id": call_id})


NOTE_SEARCH = Statement("""
UPDATE upstream_calls SET searches = searches + 1, missing_since = coalesce(missing_since, clock_timestamp())
WHERE id = :id AND outcome = 'uncertain'
RETURNING searches >= :searches AND missing_since <= clock_timestamp() - make_interval(secs => CAST(:over_s AS float))
""")


def note_search(hot: Hot, call_id: str, *, searches: int, over_s: float) -> bool:
    """Count a search that did not find the call. True: ``searches`` of them over at least ``over_s`` seconds."""
    return bool(hot.scalar(NOTE_SEARCH, {"id": call_id, "searches": searches, "over_s": over_s}))


NOTE_RESEND = Statement("""
WITH job AS (
    SELECT j.id FROM jobs AS j
    WHERE j.id = (SELECT job_id FROM upstream_calls WHERE id = :id) AND j.status = 'waiting'
        AND j.cancel_requested_at IS NULL
    FOR UPDATE
),
call AS (
    UPDATE upstream_calls AS c
    SET resends = c.resends + 1, missing_since = NULL,
        give_up_at = clock_timestamp() + make_interval(secs => CAST(:deadline_s AS float))
    FROM job
    WHERE c.id = :id AND c.job_id = job.id AND c.outcome = 'uncertain' AND c.resends < :most
        AND c.give_up_at > clock_timestamp()
        AND EXISTS (
            SELECT 1 FROM credentials AS k
            WHERE k.id = c.credential_id AND k.paused_at IS NULL
                AND (k.not_before IS NULL OR k.not_before <= clock_timestamp())
        )
        AND NOT EXISTS (
            SELECT 1 FROM providers AS p
            WHERE p.name = c.provider AND (p.paused_at IS NOT NULL OR p.open_until IS NOT NULL)
        )
    RETURNING c.id, c.job_id, c.give_up_at
),
kept AS (
    UPDATE jobs SET version = jobs.version + 1,
        deadline_at = greatest(jobs.deadline_at, call.give_up_at + make_interval(secs => CAST(:backoff_s AS float)))
    FROM call WHERE jobs.id = call.job_id
    RETURNING jobs.version
)
SELECT (SELECT version FROM kept) AS version, u.resends >= :most AS used_up
FROM upstream_calls AS u WHERE u.id = :id
""")


@dataclass(frozen=True, slots=True)
class Resend:
    """``version``: the job's, if the call may be sent again now, else None. ``used_up``: it may never be again."""

    version: int | None
    used_up: bool


def note_resend(connection: Connection, call_id: str, *, most: int, deadline_s: float, backoff_s: float) -> Resend:
    """Count and allow one resend of an uncertain call's bytes, with a new deadline from now on.

    Not allowed for a cancelled job or past the call's deadline, nor while its provider is paused, the circuit is
    open, or its credential must wait. ``most``: resends per call; ``deadline_s`` and ``backoff_s`` in seconds.
    """
    row = Hot.of(connection).one_or_none(
        NOTE_RESEND, {"id": call_id, "most": most, "deadline_s": deadline_s, "backoff_s": backoff_s}
    )
    return Resend(row.version, row.used_up) if row else Resend(None, used_up=True)


NOTE_CANCEL_ASKED = Statement("UPDATE upstream_calls SET cancel_asked_at = clock_timestamp() WHERE id = :id")


def note_cancel_asked(hot: Hot, call_id: str) -> None:
    """Record that the upstream was asked to cancel the call, so that it is asked only once."""
    hot.run(NOTE_CANCEL_ASKED, {"id": call_id})


NOTE_PROGRESS = Statement("""
WITH job AS (
    UPDATE jobs SET progress = said.progress, progress_at = clock_timestamp(), version = version + 1
    FROM jsonb_to_recordset(CAST(:progress AS jsonb)) AS said(id text, progress float)
    WHERE jobs.id = said.id AND jobs.status = 'waiting' AND jobs.progress IS DISTINCT FROM said.progress
        AND (jobs.progress_at IS NULL OR jobs.progress_at <= clock_timestamp() - interval '1 second')
    RETURNING jobs.id, jobs.account_id
),
told AS (
    INSERT INTO webhook_messages (account_id, job_id, event, endpoint_id, target, form)
    SELECT job.account_id, job.id, 'image.task.progress', receiver.endpoint_id, receiver.target, receiver.form
    FROM job CROSS JOIN LATERAL (
        -- The account's endpoints and the order's own URL; without any, this is two looks into an index.
        SELECT e.id AS endpoint_id, e.id AS target, 'standard' AS form, e.events
        FROM webhook_endpoints AS e WHERE e.account_id = job.account_id AND e.disabled_at IS NULL
        UNION ALL
        SELECT NULL, o.webhook ->> 'target', o.webhook ->> 'form', o.webhook -> 'events'
        FROM orders AS o WHERE o.job_id = job.id AND o.webhook IS NOT NULL
    ) AS receiver
    WHERE receiver.events @> '"image.task.progress"'
        -- A message says what is true when it is sent, so one that waits is enough.
        AND NOT EXISTS (
            SELECT 1 FROM webhook_messages AS m
            WHERE m.job_id = job.id AND m.target = receiver.target AND m.event = 'image.task.progress'
                AND m.state = 'pending'
        )
)
SELECT id FROM job
""")


def note_progress(hot: Hot, progress: Mapping[str, float]) -> list[str]:
    """Store the progress of jobs, 0 to 1, at most once a second each. Returns the ids of jobs whose value changed."""
    rows = [{"id": job_id, "progress": value} for job_id, value in progress.items()]
    return [row.id for row in hot.all(NOTE_PROGRESS, {"progress": json.dumps(rows)})]


ON_RECORD = Statement("SELECT count(*) FROM upstream_calls WHERE id = ANY(CAST(:ids AS text[]))")


def on_record(hot: Hot, call_ids: Sequence[str]) -> bool:
    """Return whether these calls are recorded. Asked before sending, when the answer to a COMMIT was lost."""
    return bool(hot.scalar(ON_RECORD, {"ids": list(call_ids)}) == len(call_ids))
