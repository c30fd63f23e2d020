"""The life of a job, and the only writer of ``Job.status``.

                          retry, fail_over
             .---------------------------------------------------.
             v                                                   |
    submit QUEUED --- start, claim ---> RUNNING --- park, lapse -> WAITING
             |                             |                     |
             '-----------------------------+---------------------'
                                           v
                             SUCCEEDED, FAILED or CANCELLED

    verb           from                       to
    submit         -                          QUEUED
    start          QUEUED                     RUNNING
    claim          QUEUED                     RUNNING
    park           RUNNING WAITING            WAITING
    retry          RUNNING WAITING            QUEUED
    fail_over      QUEUED RUNNING WAITING     QUEUED
    lapse          RUNNING                    WAITING
    succeed        QUEUED RUNNING WAITING     SUCCEEDED
    fail           QUEUED RUNNING WAITING     FAILED
    expired        QUEUED RUNNING WAITING     FAILED
    cancelled      QUEUED RUNNING WAITING     CANCELLED
    cancel         QUEUED                     CANCELLED

RUNNING: a worker holds the job; ``owner`` is its boot id, ``fence`` its number. WAITING: the upstream
works and no one here waits. The three states at the bottom are final.

``start`` is the first attempt in one statement; ``claim`` and ``hold`` are the longer way of a retry. ``lapse`` takes a
job from a worker that is lost; the next look finds out what became of its calls. ``succeed``, ``fail``, ``expired``
and ``cancelled`` say how ``end`` ends a job; a queued job succeeds with what earlier calls have made. ``cancel`` is
the caller's: of a job that has begun it is a request, and a worker ends the job. ``defer`` and ``due_now`` move
``due_at`` alone.

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
