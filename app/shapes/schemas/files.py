"""Files as OpenAI's clients and Replicate's know them: each member of both."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.shapes.schemas.base import Shape

FileId = Annotated[str, StringConstraints(pattern=r"^(upl|file)_[0-9A-HJKMNP-TV-Z]{26}$")]


class FilesQuery(BaseModel):
    """Parameters that only tell other kinds of files apart are taken and have no effect."""

    model_config = ConfigDict(extra="ignore")

    after: FileId | None = Field(None, description="the last file of the page before")
    limit: int = Field(100, ge=1, le=10_000)
    purpose: Annotated[str, StringConstraints(max_length=40)] | None = Field(
        None, description="only files of this purpose: `vision`, `user_data`, `batch`, `batch_output`"
    )
    order: Literal["asc", "desc"] = Field("desc", description="only `desc`, newest first, is served")


class FileQuery(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Checksums(Shape):
    sha256: str


class FileUrls(Shape):
    get: str = Field(description="also goes where an order takes an image")


class FileObject(Shape):
    """A file. Its size and checksum are those of the file as it was sent; the image is kept encoded again.

    The size of a file of results is about what will be sent, and its checksum is empty: it is written when it is read.
    """

    id: str
    # OpenAI's
    object: Literal["file"]
    bytes: int
    filename: str
    purpose: str
    status: Literal["processed"]
    # Replicate's
    name: str
    content_type: str
    size: int
    etag: str
    checksums: Checksums
    metadata: dict[str, Any]
    urls: FileUrls
    # Both
    created_at: int | datetime = Field(description="Unix seconds for OpenAI's clients, a text for Replicate's")
    expires_at: int | datetime | None


class Files(Shape):
    # OpenAI's
    object: Literal["list"]
    data: list[FileObject]
    has_more: bool
    first_id: str | None
    last_id: str | None
    # Replicate's
    results: list[FileObject]
    next: str | None
    previous: None


class FileDeleted(Shape):
    id: str
    object: Literal["file"]
    deleted: Literal[True]
