"""The life of a job, and the only writer of ``Job.status``.

                      retry, fail_over, adjust
             .---------------------------------------------------.
             v                                                   |
    submit QUEUED --- start, claim ---> RUNNING --- park, lapse -> WAITING
             |                             |                     |
             '-----------------------------+---------------------'
                                           v
                             SUCCEEDED, FAILED or CANCELLED

    verb           from                       to
    submit         -                          QUEUED
    answer         -                          SUCCEEDED
    start          QUEUED                     RUNNING
    claim          QUEUED                     RUNNING
    park           RUNNING WAITING            WAITING
    retry          RUNNING WAITING            QUEUED
    fail_over      QUEUED RUNNING WAITING     QUEUED
    adjust         RUNNING WAITING            QUEUED
    lapse          RUNNING                    WAITING
    succeed        QUEUED RUNNING WAITING     SUCCEEDED
    fail           QUEUED RUNNING WAITING     FAILED
    expired        QUEUED RUNNING WAITING     FAILED
    cancelled      QUEUED RUNNING WAITING     CANCELLED
    cancel         QUEUED                     CANCELLED

RUNNING: a worker has the job; ``owner`` is the worker's boot id, and ``fence`` is raised by each claim. WAITING: the
upstream works on the job and no worker waits for it. The three states at the bottom are final.

``answer`` writes a job that has ended already, with the images of an earlier one. ``start`` claims a first attempt in
one statement; a retry uses ``claim`` and ``hold`` in a transaction. ``lapse`` takes a job from a lost worker; the next
status check finds out what became of its calls. ``succeed``, ``fail``,
``expired`` and ``cancelled`` say how ``end`` ends a job; a queued job can succeed with the images of earlier calls.
``cancel`` is the caller's verb: once a job has begun it is only a request, and a worker ends the job. ``defer``,
``due_now`` and ``reported`` change only when the job is due. ``adjust`` puts a job whose prompt was refused back into
the queue, where no claim takes it before ``adjusted`` has given it another wording.

A verb is a conditional statement: it moves the job only from the states it names. Verbs that act on a decision
(``park``, ``retry``, ``end``, and ``fail_over`` after a step) also name the ``version`` that their caller has read;
``start`` and ``claim`` want a job that is queued and due, ``lapse`` the fence of the lost worker. Every writer of
what a decision rests on (state, calls' outcomes, images) raises the version, so no verb acts on outdated data; moving
``due_at`` or ``published_at`` does not. If no row changes, nothing has happened: StaleJobError, or what the verb's
docstring says. Money moves
in the same statement; the balance is updated last, because balances are the most contended rows. Times are the
database's.

Verbs return the signals to publish after the commit: messages for workers (Nudge), and the end or retry of the job
(Ended).
"""

from jobs.lifecycle.adjusting import adjust, adjusted, take_adjusting
from jobs.lifecycle.answer import Copy, SourceGoneError, answer
from jobs.lifecycle.cancel import Cancellation, cancel
from jobs.lifecycle.end import Done, End, cancelled, end, expired, fail, succeed
from jobs.lifecycle.moves import claim, defer, due_now, fail_over, hold, lapse, retry
from jobs.lifecycle.park import park
from jobs.lifecycle.reported import reported
from jobs.lifecycle.start import Full, Started, start
from jobs.lifecycle.submit import NewJob, Submitted, submit

__all__ = [
    "Cancellation",
    "Copy",
    "Done",
    "End",
    "Full",
    "NewJob",
    "SourceGoneError",
    "Started",
    "Submitted",
    "adjust",
    "adjusted",
    "answer",
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
    "reported",
    "retry",
    "start",
    "submit",
    "succeed",
    "take_adjusting",
]
