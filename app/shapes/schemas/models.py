"""The catalogue of models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from app.shapes.schemas.base import Credits, Microcredits, OperationName, Request, Shape, Text

PRICE_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"


class ModelsQuery(Request):
    operation: OperationName | None = None
    provider: Text | None = None
    capability: Text | None = None
    max_price: Annotated[str, StringConstraints(pattern=PRICE_PATTERN)] | None = Field(
        None, description="credits for one image"
    )
    configured: Literal["true", "false"] | None = Field(None, description="only models that can run here, or cannot")
    status: Literal["live", "retiring", "redirected", "shutdown", "unknown", "all"] | None = Field(
        None, description="left out: models that still answer"
    )


class RecommendQuery(Request):
    operation: OperationName
    provider: Text | None = None
    capability: Text | None = None
    max_price: Annotated[str, StringConstraints(pattern=PRICE_PATTERN)] | None = Field(
        None, description="credits for one image"
    )
    images: int = Field(0, ge=0, le=16, description="reference images that will come along")
    mask: Literal["true", "false"] = Field("false", description="whether a mask will come along")


class UnitPrice(Shape):
    unit_microcredits: Microcredits
    unit: Credits


class ModelOut(Shape):
    id: str
    name: str
    provider: str
    operations: list[str]
    capabilities: list[str]
    status: str
    retires_on: str | None = Field(description="the day from which it no longer answers, if its vendor has named one")
    replaced_by: str | None = Field(description="who answers instead, once it is gone")
    configured: bool = Field(description="whether its provider is set up here")
    quality: int = Field(description="3: its vendor's best, 1: small or fast; for `auto:quality`")
    price: UnitPrice = Field(description="one image with default settings")


class ModelList(Shape):
    object: Literal["list"]
    catalog_version: str
    data: list[ModelOut]


class ReasonOut(Shape):
    code: Literal[
        "default", "best_quality", "cheapest", "fastest", "takes_mask", "most_pictures", "transparent", "lettering"
    ]
    message: str


class Recommended(Shape):
    model: ModelOut
    reasons: list[ReasonOut]


class Recommendations(Shape):
    object: Literal["list"]
    catalog_version: str
    operation: str
    data: list[Recommended]


class PriceTier(Shape):
    when: dict[str, Any]
    unit_microcredits: int | None
    add_microcredits: int | None


class ModelDetail(ModelOut):
    output: str
    inputs: dict[str, Any]
    size: Any
    limits: dict[str, Any]
    tiers: list[PriceTier]
    orders: dict[str, dict[str, Any]] = Field(description="JSON Schema of the order, by operation")
    warnings: list[str] = Field(description="what an order for it is told: what stands in for it, when it ends")
    note: str | None
