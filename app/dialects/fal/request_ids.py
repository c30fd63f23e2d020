"""fal's request ids: a job's own id written as a UUID, which is what fal's clients know and other tools keep."""

from __future__ import annotations

import re
from functools import lru_cache
from uuid import UUID

from core.ids import as_uuid, is_id, of_uuid

KNOWN = 4096  # clients ask for one request again and again
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def request_id_of(job_id: str) -> str:
    """The request id of a job."""
    return str(as_uuid(job_id))


@lru_cache(maxsize=KNOWN)
def job_id_of(request_id: str) -> str | None:
    """The job of a request id, or of a job's own id, so that any job can be read here; None for anything else."""
    if _UUID.fullmatch(request_id):
        return of_uuid("job", UUID(request_id))
    return request_id if is_id(request_id, "job") else None
