"""Answers about jobs; ``app/http/errors.py`` gives each code its HTTP status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from core.errors import ServiceError


class StaleJobError(ServiceError):
    """The job has moved on: another worker, a sweep or the caller was first."""

    code = "stale_job"


class JobFailedError(Exception):
    """A step found that its job has failed, and left the end to the failure hook.

    Raised by a step so that Celery calls its ``on_failure``, which ends the job and returns the credits
    (``jobs.execution.give_up.end_failed``). ``learned`` is what the step found out about its calls and has not
    recorded yet.
    """

    def __init__(self, job_id: str, code: str, *, job: object = None, learned: Sequence[object] = ()) -> None:
        super().__init__(code)  # the text that Flower shows
        self.job_id = job_id
        self.code = code
        self.job = job
        self.learned = learned

    def __repr__(self) -> str:
        """What Flower shows as the exception."""
        return self.code

    def __reduce__(self) -> tuple[type[JobFailedError], tuple[str, str]]:
        """Celery pickles an exception before it calls the hook, and hands the hook another one where that fails."""
        return type(self), (self.job_id, self.code)


class JobNotFoundError(ServiceError):
    """No such job, or another account's: the caller cannot tell which."""

    code = "not_found"


class NotEndedError(ServiceError):
    """Only what has ended can be deleted."""

    code = "task_not_ended"


class UnknownOperationError(ServiceError):
    code = "unknown_operation"


@dataclass(frozen=True, slots=True)
class FieldFault:
    field: str
    code: str
    message: str


class InvalidOrderError(ServiceError):
    """The order cannot be run as it stands; ``faults`` names every bad field at once."""

    code = "invalid_order"

    def __init__(self, faults: list[FieldFault]) -> None:
        super().__init__("; ".join(f"{f.field}: {f.message}" for f in faults), errors=[asdict(f) for f in faults])
        self.faults = faults


class BadImageError(ServiceError):
    """Pictures that came with the order cannot be used; ``code`` is the first one's."""

    def __init__(self, faults: list[FieldFault]) -> None:
        super().__init__("; ".join(f"{f.field}: {f.message}" for f in faults), errors=[asdict(f) for f in faults])
        self.code = faults[0].code
        self.faults = faults


class IdempotencyMismatchError(ServiceError):
    """The key was used for another order within its life."""

    code = "idempotency_mismatch"


class ImageNotReadyError(ServiceError):
    """The job has not ended; look again after ``retry_after_s``."""

    code = "image_not_ready"

    def __init__(self, detail: str = "", *, retry_after_s: int = 2) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class ImageNotFoundError(ServiceError):
    """The job has ended without an image of this index."""

    code = "image_not_found"


class ImageGoneError(ServiceError):
    """There was one; it has been deleted."""

    code = "image_gone"
