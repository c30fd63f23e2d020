"""How fal's API differs from ours in HTTP itself."""

from __future__ import annotations

from flask import Response, g

from app.dialects.fal.errors import say
from app.http.dialect import Dialect

REQUEST_ID = "x-fal-request-id"


def name_request(request_id: str) -> None:
    """Have the answer name this request of fal's."""
    g.fal_request_id = request_id


def _finish(response: Response) -> None:
    """Name the request: that of the job, else that of this call, so that clients tell our errors from a proxy's."""
    if REQUEST_ID not in response.headers:  # the hot route has named it
        response.headers.add(REQUEST_ID, g.get("fal_request_id") or response.headers.get("X-Request-Id", ""))


FAL = Dialect("fal", ("/fal/",), say, schemes=("key", "bearer"), finish=_finish)
