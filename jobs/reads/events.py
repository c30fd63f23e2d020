"""What has happened to jobs, for callers who follow them: the rows of ``job_events``, in the order of their ids.

Of one job the ids come in the order of the commits, because every verb locks the job before its event gets an id. Of
several jobs they do not: a lower id may be committed after a higher one. :func:`newest` and :func:`in_flight` let a
reader of many jobs find out up to which id nothing is missing (app/streams/horizon.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from core.ids import is_id
from jobs.documents import StepData
from jobs.reads.tasks import Image, image_of


@dataclass(frozen=True, slots=True)
class Event:
    """A row of ``job_events``. ``image``: the one that an event of the type ``image`` is about."""

    id: int
    account_id: str
    job_id: str
    type: str
    at: datetime
    data: StepData
    image: Image | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running job has come, 0 to 1, when that changed, and the job's version."""

    account_id: str
    job_id: str
    progress: float
    at: datetime
    version: int


@dataclass(frozen=True, slots=True)
class Life:
    """A job at one moment, and its events after some id up to then.

    ``whole``: whether its events are there from its beginning on.
    """

    version: int
    ended: bool
    progress: Progress | None  # None: nothing is reported, or it has ended
    events: Sequence[Event]
    last_id: int  # of all its events, told or not; 0 without any
    whole: bool


# One statement, so that the version, the progress and the events are those of the same moment.
_LIVES = text("""
SELECT j.account_id, j.id, wanted.after, j.version, j.finished_at IS NOT NULL AS ended,
    CASE WHEN j.status IN ('running', 'waiting') THEN j.progress END AS progress, j.progress_at,
    coalesce((SELECT max(e.id) FROM job_events AS e WHERE e.job_id = j.id), 0) AS last_id,
    coalesce((SELECT e.type = 'queued' FROM job_events AS e WHERE e.job_id = j.id ORDER BY e.id LIMIT 1), false)
        AS whole,
    coalesce((
        SELECT jsonb_agg(to_jsonb(e) || jsonb_build_object('image', (
            SELECT to_jsonb(i) FROM images AS i
            WHERE e.type = 'image' AND i.job_id = e.job_id AND i.index = CAST(e.data ->> 'index' AS int)
        )) ORDER BY e.id)
        FROM job_events AS e WHERE e.job_id = j.id AND e.id > wanted.after
    ), '[]') AS events
FROM unnest(CAST(:account_ids AS text[]), CAST(:ids AS text[]), CAST(:afters AS bigint[]))
    AS wanted (account_id, id, after)
JOIN jobs AS j ON j.id = wanted.id AND j.account_id = wanted.account_id
""")

Followed = tuple[str, str, int]  # account id, job id, and the id of the last event that is known


def lives(connection: Connection, wanted: Collection[Followed]) -> dict[Followed, Life]:
    """Return jobs with their events after an id, each only within its account; unknown ones are left out."""
    asked = sorted({each for each in wanted if is_id(each[1], "job")})
    if not asked:
        return {}
    account_ids, ids, afters = zip(*asked, strict=True)
    rows = connection.execute(_LIVES, {"account_ids": list(account_ids), "ids": list(ids), "afters": list(afters)})
    return {(row.account_id, row.id, row.after): _life(row) for row in rows}


def _life(row: Any) -> Life:
    progress = None
    if row.progress is not None:
        progress = Progress(row.account_id, row.id, row.progress, row.progress_at, row.version)
    events = [_event(each, row.account_id) for each in row.events]
    return Life(row.version, row.ended, progress, events, row.last_id, row.whole)


def _event(row: Mapping[str, Any], account_id: str) -> Event:
    return Event(
        id=row["id"],
        account_id=account_id,
        job_id=row["job_id"],
        type=row["type"],
        at=datetime.fromisoformat(row["at"]),
        data=row["data"],
        image=image_of(row["image"]) if row["image"] else None,
    )


# ---------------------------------------------------------------- events of many jobs


def newest(connection: Connection) -> int:
    """Return the highest id among the events that are committed; 0 without any."""
    return int(connection.execute(text("SELECT coalesce(max(id), 0) FROM job_events")).scalar_one())


def oldest(connection: Connection) -> int:
    """Return the lowest id among the events that are kept; 0 without any."""
    return int(connection.execute(text("SELECT coalesce(min(id), 0) FROM job_events")).scalar_one())


@dataclass(frozen=True, slots=True)
class InFlight:
    """The server's transactions at one moment: those below ``oldest`` have ended, those from ``next`` on not begun."""

    oldest: int
    next: int


def in_flight(connection: Connection) -> InFlight:
    """Return which transactions are under way."""
    row = connection.execute(
        text(
            "SELECT CAST(CAST(pg_snapshot_xmin(seen) AS text) AS bigint) AS oldest,"
            " CAST(CAST(pg_snapshot_xmax(seen) AS text) AS bigint) AS next FROM pg_current_snapshot() AS seen"
        )
    ).one()
    return InFlight(row.oldest, row.next)


# The range of ids is bounded by the caller, and so is what is read. A subquery for each row instead of a join: it stays
# a lookup by primary key however many jobs an account has.
_OF_ACCOUNTS = text("""
SELECT jsonb_build_object('id', e.id, 'job_id', e.job_id, 'type', e.type, 'at', e.at, 'data', e.data, 'image', (
    SELECT to_jsonb(i) FROM images AS i
    WHERE e.type = 'image' AND i.job_id = e.job_id AND i.index = CAST(e.data ->> 'index' AS int)
)) AS event, e.account_id
FROM (
    SELECT id, job_id, type, at, data, (SELECT j.account_id FROM jobs AS j WHERE j.id = found.job_id) AS account_id
    FROM job_events AS found WHERE id > :after AND id <= :last
) AS e
WHERE e.account_id = ANY(CAST(:account_ids AS text[]))
ORDER BY e.id
""")


def of_accounts(connection: Connection, account_ids: Collection[str], *, after: int, last: int) -> list[Event]:
    """Return the events of these accounts' jobs with ids above ``after`` and up to ``last``, by id."""
    rows = connection.execute(_OF_ACCOUNTS, {"account_ids": list(account_ids), "after": after, "last": last})
    return [_event(row.event, row.account_id) for row in rows]


# Bounded for an account with ten thousands of running jobs: the newest are looked at.
PROGRESS_OF = 2000
_PROGRESS = text("""
SELECT found.account_id, found.id, found.progress, found.progress_at, found.version
FROM unnest(CAST(:account_ids AS text[])) AS wanted (account_id)
CROSS JOIN LATERAL (
    SELECT j.account_id, j.id, j.progress, j.progress_at, j.version FROM jobs AS j
    WHERE j.account_id = wanted.account_id AND j.status IN ('running', 'waiting')
    ORDER BY j.id DESC LIMIT :most
) AS found
WHERE found.progress IS NOT NULL
    AND found.progress_at > coalesce(CAST(:since AS timestamptz), clock_timestamp()) - CAST(:overlap AS interval)
ORDER BY found.progress_at
""")


def progress_of(
    connection: Connection, account_ids: Collection[str], *, since: datetime | None, overlap: timedelta
) -> list[Progress]:
    """Return what running jobs of these accounts have reported since a moment (None: now) less ``overlap``.

    Of each account its newest ``PROGRESS_OF`` running jobs are looked at.
    """
    rows = connection.execute(
        _PROGRESS,
        {"account_ids": list(account_ids), "since": since, "overlap": overlap, "most": PROGRESS_OF},
    )
    return [Progress(row.account_id, row.id, row.progress, row.progress_at, row.version) for row in rows]
