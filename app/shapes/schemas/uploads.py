"""Uploads: images that a caller keeps here to order with."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.shapes.schemas.base import MAX_PAGE, Request, Shape, Text
from jobs.reads.uploads import Source

FileName = Annotated[str, StringConstraints(max_length=255)]
MAX_EXPIRES_S = 36_500 * 86_400


class UploadBody(Request):
    """An upload by URL; one by its bytes is a form with the part `file` or `image`."""

    url: str = Field(min_length=1, description="https URL, `data:` URL, base64, or `job_id#index` of your own task")
    file_name: FileName | None = None
    expires_s: int | None = Field(
        None, ge=60, le=MAX_EXPIRES_S, description="seconds to keep it, where that is sooner than it would expire here"
    )


class UploadQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cursor: Annotated[str, StringConstraints(pattern=r"^upl_[0-9A-HJKMNP-TV-Z]{26}$")] | None = None
    limit: int = Field(20, ge=1, le=MAX_PAGE)


class ContentQuery(BaseModel):
    """``index``, ``expires``, ``account``, ``kid`` and ``signature`` are part of a signed link; they cannot be made
    up."""

    model_config = ConfigDict(extra="forbid")

    download: Literal["0", "1"] = "0"
    index: Literal["0"] = "0"
    expires: int | None = None
    account: Text | None = None
    kid: Text | None = None
    signature: Text | None = None


class SentFile(Shape):
    """The file as it came, before it was encoded again."""

    size_bytes: int
    sha256: str


class UploadOut(Shape):
    """An upload as its owner sees it."""

    id: str
    object: Literal["image.upload"]
    file_name: str = Field(description="as sent; empty where none was")
    source: Source = Field(description="`file`, `url`, or the service whose route it came by")
    mime: str
    width: int
    height: int
    size_bytes: int
    sha256: str = Field(description="of the image as it is kept and served")
    sent: SentFile
    created_at: datetime
    expires_at: datetime | None = Field(description="sending the same bytes again puts it off; null: never")
    last_used_at: datetime | None = Field(description="by an order")
    url: str = Field(description="needs your key")
    signed_url: str = Field(description="needs no key, and expires")


class UploadList(Shape):
    object: Literal["list"]
    data: list[UploadOut]
    next_cursor: str | None = Field(description="pass as `cursor` for the next page; null on the last")


class UploadDeleted(Shape):
    id: str
    object: Literal["image.upload"]
    deleted: Literal[True]
