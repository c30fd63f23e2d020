"""What all schemas share: strict requests, closed answers, and types that recur."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_PAGE = 100

Text = Annotated[str, StringConstraints(max_length=200)]

OperationName = Annotated[str, StringConstraints(max_length=40)]

Microcredits = Annotated[int, Field(description="whole micro-credits; 1,000,000 are one credit")]

Credits = Annotated[str, Field(description="the same in credits, as a decimal", examples=["5.3"])]


class Request(BaseModel):
    """What callers send: no coercion, no unknown member."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Shape(BaseModel):
    """What the service answers: no member that is not described."""

    model_config = ConfigDict(extra="forbid")


class Empty(Request):
    """No parameters."""
