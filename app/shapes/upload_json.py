"""An upload as app.shapes.schemas.uploads.UploadOut."""

from __future__ import annotations

from typing import Any

from app.http.links import Here
from core.wire import rfc3339
from jobs.reads.uploads import Upload

UPLOADS = "/api/uploads"


def content_path(upload_id: str) -> str:
    return f"{UPLOADS}/{upload_id}/content"


def signed_content(here: Here, upload: Upload, upload_id: str = "", *, life_s: int | None = None) -> str:
    """A link to the image that needs no key; relative where the base is unknown. ``upload_id``: another id of it."""
    path = content_path(upload_id or upload.id)
    return f"{here.base}{path}?{here.signer.link(path, account_id=upload.account_id, index=0, life_s=life_s)}"


def upload_json(upload: Upload, here: Here) -> dict[str, Any]:
    return {
        "id": upload.id,
        "object": "image.upload",
        "file_name": upload.file_name,
        "source": upload.source,
        "mime": upload.mime,
        "width": upload.width_px,
        "height": upload.height_px,
        "size_bytes": upload.size_bytes,
        "sha256": upload.sha256,
        "sent": {"size_bytes": upload.sent_bytes, "sha256": upload.sent_sha256},
        "created_at": rfc3339(upload.created_at),
        "expires_at": rfc3339(upload.expires_at),
        "last_used_at": rfc3339(upload.last_used_at),
        "url": f"{here.base}{content_path(upload.id)}",
        "signed_url": signed_content(here, upload),
    }
