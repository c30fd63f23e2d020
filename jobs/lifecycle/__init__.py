"""The life of a job, and the only writer of ``Job.status``.

    submit -> QUEUED -- start --> RUNNING -- park --> WAITING -- succeed | fail
                 ^                  |   succeed | fail   |          terminal: SUCCEEDED FAILED CANCELLED
                 '------ retry -----'--------------------'

RUNNING: a worker holds the job; ``owner`` is its boot id, ``fence`` its number. WAITING: the upstream
works and no one here waits. Terminal states are absorbing.

Each verb is one conditional statement. It moves the job only from the states it names, and only if the
job's ``version`` is the one its caller has seen: every writer of a job, of its calls and of its images
raises the version, so a decision never rests on something that has changed since. Where no row moves,
the verb raises StaleJobError and nothing has happened. Money moves in the same statement, the balance
last, for balances are the hottest locks. Times are the database's.

Verbs return what to publish after the commit: messages for workers (Nudge), and what became of the job
(Ended).
"""

from jobs.lifecycle.cancel import Cancellation, cancel
from jobs.lifecycle.end import Done, End, cancelled, end, expired, fail, succeed
from jobs.lifecycle.moves import claim, defer, due_now, fail_over, hold, lapse, retry
from jobs.lifecycle.park import park
from jobs.lifecycle.start import Full, Started, start
from jobs.lifecycle.submit import NewJob, Submitted, submit

__all__ = [
    "Cancellation",
    "Done",
    "End",
    "Full",
    "NewJob",
    "Started",
    "Submitted",
    "cancel",
    "cancelled",
    "claim",
    "defer",
    "due_now",
    "end",
    "expired",
    "fail",
    "fail_over",
    "hold",
    "lapse",
    "park",
    "retry",
    "start",
    "submit",
    "succeed",
]
