"""Calls to upstreams: intent before action, and an outcome written once by whoever made the call.

A call's row is committed before the paid request leaves. Who made the request may always record its
outcome, whether the job has moved on or not, so that no purchase is ever forgotten. While a call is
open (unanswered, accepted or uncertain) it occupies a slot of its credential.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from jobs import capacity
from jobs.states import OPEN_OUTCOMES, Outcome


@dataclass(frozen=True, slots=True)
class Intent:
    """A call about to be made: ``pictures`` slots from ``slot`` on."""

    id: str
    slot: int
    attempt: int
    pictures: int
    dedupe_key: str


@dataclass(frozen=True, slots=True)
class Seated:
    """The calls that found room at a credential; the others wait for a later claim.

    ``endless``: nothing limits the credential, so the next job will find room too.
    """

    credential_id: str
    intents: Sequence[Intent]
    endless: bool = True


@dataclass(frozen=True, slots=True)
class KeptImage:
    """A picture at rest, ready for its row."""

    index: int
    key: str
    mime: str
    width_px: int | None  # None: a 3D file or a text
    height_px: int | None
    size_bytes: int
    sha256: str
    seed: int | None = None
    revised_prompt: str | None = None
    text: str | None = None


_INTEND = text("""
WITH called AS (
    INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url, dedupe_key,
                                give_up_at, unit_price)
    SELECT c.id, :job_id, c.slot, c.attempt, c.pictures, :provider, :model, :credential_id, :base_url, c.dedupe_key,
           clock_timestamp() + make_interval(secs => :deadline_s), :unit_price
    FROM jsonb_to_recordset(CAST(:intents AS jsonb))
        AS c(id text, slot smallint, attempt smallint, pictures smallint, dedupe_key text)
    RETURNING id
)
UPDATE jobs SET attempt = attempt + (SELECT count(*) FROM called) WHERE id = :job_id
""")


def intend(
    connection: Connection,
    *,
    job_id: str,
    provider: str,
    model: str,
    credentials: Mapping[str, str],
    intents: Sequence[Intent],
    deadline_s: float,
    unit_price: int | None = None,
) -> Seated | None:
    """Write down the calls about to be made, as many as a credential has room for; None if none has.

    ``credentials`` maps the ids this worker can use to their base URLs, which are pinned on the call.
    """
    attempt = connection.execute(text("SELECT attempt FROM jobs WHERE id = :id"), {"id": job_id}).scalar() or 0
    ids = [intent.id for intent in intents]
    taken = capacity.take(connection, provider, known=list(credentials), call_ids=ids, attempt=attempt)
    if taken is None:
        return None
    seated = intents[: taken.calls]
    connection.execute(
        _INTEND,
        {
            "job_id": job_id,
            "provider": provider,
            "model": model,
            "credential_id": taken.credential_id,
            "base_url": credentials[taken.credential_id],
            "intents": json.dumps(
                [
                    {
                        "id": i.id,
                        "slot": i.slot,
                        "attempt": i.attempt,
                        "pictures": i.pictures,
                        "dedupe_key": i.dedupe_key,
                    }
                    for i in seated
                ]
            ),
            "deadline_s": deadline_s,
            "unit_price": unit_price,
        },
    )
    return Seated(taken.credential_id, seated, not taken.limited)


_RECORD = (
    # The job first, as everywhere (DESIGN section 4, lock order): who lapses it waits, and no deadlock.
    "WITH job AS (SELECT id FROM jobs WHERE id = (SELECT job_id FROM upstream_calls WHERE id = :id) FOR UPDATE),"
    " seen AS (SELECT u.id, u.outcome FROM job JOIN upstream_calls AS u ON u.job_id = job.id WHERE u.id = :id"
    " AND (u.outcome IS NULL OR u.outcome = ANY(:sources)) FOR UPDATE OF u),"
    " call AS (UPDATE upstream_calls AS c SET outcome = :outcome,"
    " answered_at = coalesce(c.answered_at, clock_timestamp()),"
    " closed_at = CASE WHEN :closes THEN clock_timestamp() END,"
    " upstream_id = coalesce(:upstream_id, c.upstream_id), poll_url = coalesce(:poll_url, c.poll_url),"
    " result = CAST(:result AS jsonb), missing_since = NULL, error_code = :error_code, error_detail = :error_detail,"
    " retryable = :retryable, retry_after_s = :retry_after_s, pictures_kept = :kept,"
    " written_off = c.written_off OR :written_off,"
    " give_up_at = greatest(c.give_up_at, c.intended_at + make_interval(secs => CAST(:deadline_s AS double precision)))"
    " FROM seen WHERE c.id = seen.id RETURNING c.id, c.job_id, c.provider, c.credential_id, seen.outcome AS was),"
    " freed AS (UPDATE permits AS p SET call_id = NULL, taken_at = NULL FROM call"
    " WHERE p.call_id IS NOT NULL AND p.call_id = call.id AND :frees)"
)
_TROUBLED = (
    "EXISTS (SELECT 1 FROM providers AS p WHERE p.name = call.provider AND (p.failures > 0 OR p.trips > 0)) AS troubled"
)


def record(
    connection: Connection,
    call_id: str,
    outcome: Outcome,
    *,
    sources: Collection[Outcome] = OPEN_OUTCOMES,
    upstream_id: str | None = None,
    poll_url: str | None = None,
    result: Sequence[Mapping[str, Any]] | None = None,
    error_code: str | None = None,
    error_detail: str | None = None,
    retryable: bool | None = None,
    retry_after_s: float | None = None,
    written_off: bool = False,
    deadline_s: float | None = None,
    images: Sequence[KeptImage] = (),
) -> bool:
    """Write what became of a call, once; frees its credential's slot when the upstream is done with it.

    Whether it was written: False means somebody wrote an outcome before. ``images`` go with KEPT.
    """
    frees = outcome not in OPEN_OUTCOMES
    statement = _RECORD
    if images:
        statement += (
            ", kept AS (INSERT INTO images (job_id, index, call_id, key, mime, width_px, height_px, size_bytes, sha256,"
            " seed, revised_prompt, text) SELECT call.job_id, i.index, call.id, i.key, i.mime, i.width_px, i.height_px,"
            " i.size_bytes, i.sha256, i.seed, i.revised_prompt, i.text FROM call,"
            " jsonb_to_recordset(CAST(:images AS jsonb)) AS i(index smallint, key text, mime text, width_px int,"
            " height_px int, size_bytes bigint, sha256 text, seed bigint, revised_prompt text, text text)"
            " ON CONFLICT (job_id, index) DO NOTHING)"
        )
    row = connection.execute(
        text(f"{statement} SELECT job_id, provider, credential_id, was, {_TROUBLED} FROM call"),
        {
            "id": call_id,
            "sources": [str(source) for source in sources],
            "outcome": str(outcome),
            "closes": frees and outcome is not Outcome.FINISHED,
            "frees": frees,
            "upstream_id": upstream_id,
            "poll_url": poll_url,
            "result": json.dumps(list(result)) if result is not None else None,
            "error_code": error_code,
            "error_detail": error_detail,
            "retryable": retryable,
            "retry_after_s": retry_after_s,
            "kept": len(images),
            "written_off": written_off,
            "deadline_s": deadline_s,
            **({"images": json.dumps([_image_row(image) for image in images])} if images else {}),
        },
    ).one_or_none()
    away_s = capacity.stay_away_s(outcome, error_code, retry_after_s)
    if row and away_s is not None:
        capacity.stay_away(connection, row.credential_id, away_s)
    if row and row.was is None and (row.troubled or error_code):
        capacity.note(
            connection,
            row.provider,
            call_id=call_id,
            job_id=row.job_id,
            outcome=outcome,
            code=error_code,
            retryable=bool(retryable),
        )
    return row is not None


def _image_row(image: KeptImage) -> dict[str, Any]:
    return {name: getattr(image, name) for name in KeptImage.__slots__}


def doubt_unanswered(connection: Connection, job_id: str, *, give_up_s: float | None) -> None:
    """Calls of a job whose sender is gone may have run; ``give_up_s`` bounds the wait for a late answer."""
    connection.execute(
        text(
            "UPDATE upstream_calls SET outcome = 'uncertain', give_up_at = least(give_up_at,"
            " clock_timestamp() + make_interval(secs => coalesce(CAST(:give_up_s AS double precision), 1e6)))"
            " WHERE job_id = :job_id AND outcome IS NULL"
        ),
        {"job_id": job_id, "give_up_s": give_up_s},
    )


def note_missing(connection: Connection, call_id: str, *, after_s: float) -> bool:
    """Remember that the upstream does not know a call; True once it has been so for ``after_s``."""
    row = connection.execute(
        text(
            "UPDATE upstream_calls SET missing_since = coalesce(missing_since, clock_timestamp()) WHERE id = :id"
            " AND outcome IN ('accepted', 'uncertain') RETURNING"
            " missing_since <= clock_timestamp() - make_interval(secs => :after_s) AS long_enough"
        ),
        {"id": call_id, "after_s": after_s},
    ).one_or_none()
    return bool(row and row.long_enough)


def note_found(connection: Connection, call_id: str) -> None:
    """The upstream knows the call after all: being missing begins anew the next time."""
    connection.execute(text("UPDATE upstream_calls SET missing_since = NULL WHERE id = :id"), {"id": call_id})


def note_resend(connection: Connection, call_id: str, *, most: int) -> bool:
    """Take the right to send an uncertain call's bytes again; False when it was used up."""
    done = connection.execute(
        text(
            "UPDATE upstream_calls SET resends = resends + 1, missing_since = NULL"
            " WHERE id = :id AND outcome = 'uncertain' AND resends < :most"
        ),
        {"id": call_id, "most": most},
    )
    return done.rowcount == 1


def note_cancel_asked(connection: Connection, call_id: str) -> None:
    connection.execute(
        text("UPDATE upstream_calls SET cancel_asked_at = clock_timestamp() WHERE id = :id"), {"id": call_id}
    )


def write_off(connection: Connection, call_id: str) -> None:
    """The upstream may have billed us for something nobody will receive."""
    connection.execute(text("UPDATE upstream_calls SET written_off = true WHERE id = :id"), {"id": call_id})


def on_record(connection: Connection, call_ids: Sequence[str]) -> bool:
    """Whether these calls are on record: asked when a COMMIT's answer was lost, before anything is sent."""
    found = connection.execute(
        text("SELECT count(*) FROM upstream_calls WHERE id = ANY(:ids)"), {"ids": list(call_ids)}
    ).scalar_one()
    return bool(found == len(call_ids))
