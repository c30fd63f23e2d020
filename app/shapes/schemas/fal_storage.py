"""fal's storage: a link to upload to, and where the file will be."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from app.shapes.schemas.base import Shape


class InitiateBody(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    content_type: str | None = Field(None, max_length=255)
    file_name: str | None = Field(None, max_length=255)


class InitiateQuery(BaseModel):
    model_config = ConfigDict(extra="ignore")

    storage_type: str | None = Field(None, max_length=100, description="taken, and without effect: there is one store")


class Initiated(Shape):
    upload_url: str = Field(description="takes one PUT of the file, without a key, within an hour")
    file_url: str = Field(description="goes where an order takes an image, and needs no key")


class PutQuery(BaseModel):
    """All of a link to upload to; its parts cannot be made up."""

    model_config = ConfigDict(extra="forbid")

    index: int = 0
    account: str = Field(max_length=200)
    expires: int = Field(ge=0, le=10**12)
    kid: str = Field(max_length=200)
    signature: str = Field(max_length=200)
    name: str = Field("", max_length=255)
    keep_s: int | None = Field(None, ge=1, le=10**10)


class Put(Shape):
    id: str
    file_url: str
