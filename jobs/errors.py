"""Errors about jobs. ``app/http/errors.py`` gives each code its HTTP status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from core.errors import ServiceError, UnavailableError


class StaleJobError(ServiceError):
    """The job has changed since it was read: another worker, a sweep or the caller was first."""

    code = "stale_job"


class JobFailedError(Exception):
    """A step found that its job has failed; the failure hook ends the job.

    A step raises it so that Celery calls the task's ``on_failure``, which ends the job and returns the credits
    (``jobs.execution.give_up.end_failed``). ``learned`` holds the call outcomes that the step has not recorded yet.
    """

    def __init__(self, job_id: str, code: str, *, job: object = None, learned: Sequence[object] = ()) -> None:
        super().__init__(code)  # the text that Flower shows
        self.job_id = job_id
        self.code = code
        self.job = job
        self.learned = learned

    def __repr__(self) -> str:
        """Return the code, which Flower shows as the exception."""
        return self.code

    def __reduce__(self) -> tuple[type[JobFailedError], tuple[str, str]]:
        """Pickle without ``job`` and ``learned``: the hook gets another exception if Celery cannot pickle this one."""
        return type(self), (self.job_id, self.code)


class JobNotFoundError(ServiceError):
    """There is no such job, or it belongs to another account; the caller cannot distinguish the two."""

    code = "not_found"


class CredentialNotFoundError(ServiceError):
    """No worker has announced a credential of this id."""

    code = "not_found"


class NotEndedError(ServiceError):
    """The job has not ended, so it cannot be deleted."""

    code = "task_not_ended"


class UnknownOperationError(ServiceError):
    code = "unknown_operation"


@dataclass(frozen=True, slots=True)
class FieldFault:
    field: str
    code: str
    message: str


MAX_FAULTS_TOLD = 50


class FaultsError(ServiceError):
    """The base of errors about fields; the answer names ``MAX_FAULTS_TOLD`` of them and how many more there are."""

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        told = faults[:MAX_FAULTS_TOLD]
        more = len(faults) - len(told)
        words = [f"{fault.field}: {fault.message}" for fault in told] + ([f"and {more} more"] if more else [])
        facts = {"more_errors": more} if more else {}
        super().__init__("; ".join(words), errors=[asdict(fault) for fault in told], **facts)


class InvalidOrderError(FaultsError):
    """The order is invalid; ``faults`` lists every bad field."""

    code = "invalid_order"

    def __init__(self, faults: list[FieldFault]) -> None:
        super().__init__(faults)
        self.faults = faults


class BadImageError(FaultsError):
    """Reference images of the order cannot be used; ``code`` is that of the first fault."""

    def __init__(self, faults: list[FieldFault]) -> None:
        super().__init__(faults)
        self.code = faults[0].code
        self.faults = faults


class ModelNotAllowedError(ServiceError):
    """The key may not order of this model, or of its provider."""

    code = "model_not_allowed"

    def __init__(self, models: Sequence[str]) -> None:
        named = f"this key may not order from {', '.join(models)}" if models else "no model that this key may use fits"
        super().__init__(named, models=list(models))


class ContentRefusedError(FaultsError):
    """A screen of this service refuses the order or the text; ``category`` says what for, the fault where it lies."""

    code = "content_refused"

    def __init__(self, category: str, field_name: str = "prompt") -> None:
        told = f"the content rules of this service refuse it ({category})"
        self.faults = [FieldFault(field_name, "content_refused", told)]
        super().__init__(self.faults)
        self.category = category
        self.facts["category"] = category


class ScreeningUnavailableError(UnavailableError):
    """A screen has no opinion at the moment, and nothing is accepted without it."""

    code = "screening_unavailable"


class IdempotencyMismatchError(ServiceError):
    """The idempotency key is still valid and belongs to a different order."""

    code = "idempotency_mismatch"


class ImageNotReadyError(ServiceError):
    """The job has not ended; look again after ``retry_after_s``."""

    code = "image_not_ready"

    def __init__(self, detail: str = "", *, retry_after_s: int = 2) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class ImageNotFoundError(ServiceError):
    """The job has ended without an image at this index."""

    code = "image_not_found"


class ImageGoneError(ServiceError):
    """The image existed and has been deleted."""

    code = "image_gone"


class InputsGoneError(FaultsError):
    """The order to repeat came with images that have been deleted; the faults name each."""

    code = "inputs_gone"


class UploadNotFoundError(ServiceError):
    """There is no such upload, or it belongs to another account; the caller cannot distinguish the two."""

    code = "upload_not_found"

    def __init__(self, detail: str = "there is no such upload of yours") -> None:
        super().__init__(detail)


class UploadGoneError(ServiceError):
    """The upload has expired."""

    code = "upload_gone"

    def __init__(self, detail: str = "the upload has expired; upload the image again") -> None:
        super().__init__(detail)


class TooManyUploadsError(ServiceError):
    """The account keeps as many uploads, or as many bytes of them, as it may."""

    code = "too_many_uploads"


class UploadLinkUsedError(ServiceError):
    """A link to upload to has been used before."""

    code = "upload_link_used"


class LinesFileError(FaultsError):
    """A file is no file of lines, or has too much of them; ``fault`` says which."""

    code = "invalid_request"

    def __init__(self, fault: str, message: str) -> None:
        super().__init__([FieldFault("file", fault, message)])


class FileInUseError(ServiceError):
    """A batch that goes on is ordered by the file."""

    code = "file_in_use"


class BatchNotFoundError(ServiceError):
    """There is no such batch, or it belongs to another account; the caller cannot distinguish the two."""

    code = "batch_not_found"

    def __init__(self, detail: str = "there is no such batch of yours") -> None:
        super().__init__(detail)


class BatchEndedError(ServiceError):
    """The batch has ended: there is nothing to cancel."""

    code = "batch_ended"
