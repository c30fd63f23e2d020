"""Errors: RFC 9457."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from app.shapes.schemas.base import Shape


class FieldError(Shape):
    field: str
    code: str
    message: str


class CompatError(Shape):
    message: str
    type: str
    param: str | None
    code: str


class ProblemOut(BaseModel):
    """RFC 9457, with the members that clients of other services read. Some codes add members of their own."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldError] | None = Field(None, description="every bad field at once, 50 at most")
    more_errors: int | None = Field(None, description="how many more bad fields there are than `errors` names")
    error: CompatError
    error_type: str
    message: str
