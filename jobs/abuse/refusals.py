"""Refusals of content, of each account and key: what every source knows of them, added up.

A source is a statement with the parameters ``since`` and ``until`` (times) and ``after`` and ``before`` (ids of jobs
that may have been refused between them), whose rows are ``account_id``, ``key_id`` and ``refusals``.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from core.db import Hot, Statement
from core.ids import id_before

# A refusal comes at most so long after its order, but for orders that waited in the queue for longer.
_LONGEST_LIFE = timedelta(days=1)
_CLOCKS_APART = timedelta(minutes=10)

# Jobs that their upstream's content policy refused. The codes are those of jobs.failures that say so.
OF_UPSTREAMS = Statement("""
SELECT account_id, coalesce(key_id, '') AS key_id, count(*) AS refusals FROM jobs
WHERE status = 'failed' AND failure_code = 'content_refused' AND id > :after AND id < :before
    AND finished_at >= CAST(:since AS timestamptz) AND finished_at < CAST(:until AS timestamptz)
GROUP BY account_id, coalesce(key_id, '')
""")

# Orders and texts that a screen refused, of which there is no job.
OF_SCREENS = Statement("""
SELECT account_id, coalesce(key_id, '') AS key_id, count(*) AS refusals FROM screening_refusals
WHERE at >= CAST(:since AS timestamptz) AND at < CAST(:until AS timestamptz)
GROUP BY account_id, coalesce(key_id, '')
""")

SOURCES = (OF_UPSTREAMS, OF_SCREENS)


def refusals(hot: Hot, since: datetime, until: datetime) -> Counter[tuple[str, str]]:
    """How often content was refused from ``since`` on and before ``until``, by account and key."""
    values = {
        "since": since,
        "until": until,
        "after": id_before("job", since - _LONGEST_LIFE),
        "before": id_before("job", until + _CLOCKS_APART),
    }
    found: Counter[tuple[str, str]] = Counter()
    for source in SOURCES:
        given = {name: values[name] for name in source.parameters}
        for row in hot.all(source, given):
            found[row.account_id, row.key_id] += int(row.refusals)
    return found
