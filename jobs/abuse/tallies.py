"""What web processes count and write down in batches: wrong keys, by key and by address, and requests of keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sqlalchemy import Connection, text

from core.db import Hot, Statement

TallyKind = Literal["wrong_key", "wrong_address", "requests"]
KEPT_HOURS = 7  # longer than the longest window

# Only ids of keys that exist: whoever guesses ids must not fill the table. A join by the primary key.
ADD = Statement("""
INSERT INTO abuse_tallies AS t (kind, minute, subject, tally)
SELECT CAST(:kind AS text), date_trunc('minute', statement_timestamp()), given.subject, given.tally
FROM unnest(CAST(:subjects AS text[]), CAST(:tallies AS int[])) AS given(subject, tally)
WHERE CAST(:kind AS text) = 'wrong_address' OR EXISTS (SELECT 1 FROM api_keys AS k WHERE k.id = given.subject)
ON CONFLICT (kind, minute, subject) DO UPDATE SET tally = least(2000000000, t.tally::bigint + excluded.tally)
""")


def add(hot: Hot, kind: TallyKind, tallies: Mapping[str, int]) -> None:
    """Add what a process has counted of each subject since the last time, to this minute."""
    subjects = sorted(tallies)  # in one order, so that processes that add at the same time do not wait in a circle
    hot.run(ADD, {"kind": kind, "subjects": subjects, "tallies": [tallies[each] for each in subjects]})


_DELETE_OLD = text("""
WITH old AS MATERIALIZED (
    SELECT ctid FROM abuse_tallies
    WHERE kind = ANY(ARRAY['wrong_key', 'wrong_address', 'requests'])
        AND minute < statement_timestamp() - make_interval(hours => :kept_hours)
    LIMIT :page FOR UPDATE SKIP LOCKED
)
DELETE FROM abuse_tallies WHERE ctid = ANY(ARRAY(SELECT ctid FROM old)) RETURNING 1
""")


def delete_old(connection: Connection, *, size: int) -> int:
    """Delete at most ``size`` rows that no window reaches any more; how many."""
    return len(connection.execute(_DELETE_OLD, {"kept_hours": KEPT_HOURS, "page": size}).all())
