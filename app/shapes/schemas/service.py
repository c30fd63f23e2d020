"""The audit, prompt enhancement and health."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from app.shapes.schemas.base import Request, Shape, Text
from providers.orders.texts import clean_text


class FindingOut(Shape):
    invariant: str = Field(description="the rule that does not hold")
    subject: str = Field(description="what it is about: an account, a task, a credential")
    detail: str = Field(description="the figures")


class AuditOut(Shape):
    clean: bool
    findings: list[FindingOut]


def _cleaned(text: str) -> str:
    """The text as an order's prompt would be. Raises ValueError for one that says nothing."""
    if not (clean := clean_text(text)):
        raise ValueError("must say what the image shall show")
    return clean


class EnhanceIn(Request):
    prompt: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000), AfterValidator(_cleaned)
    ]
    mode: Literal["detail", "creative"] = "detail"
    model: Text | None = Field(
        None,
        examples=["gpt-5.4-mini", "openai/gpt-5.4-mini"],
        description="the language model that enhances, as `capabilities.prompt_model` of a provider names it, or the"
        " provider; left out, the first configured",
    )
    language: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z \-]{1,39}$")] | None = Field(
        None, description="language of the answer, as a name or tag", examples=["German", "pt-BR"]
    )


class Health(Shape):
    status: Literal["ok"]


class CheckOut(Shape):
    ok: bool
    detail: str | None = None


class Ready(Shape):
    """``degraded``: orders are accepted and kept, but a part that only makes them quicker is away."""

    status: Literal["ready", "degraded", "unavailable"]
    checks: dict[str, CheckOut]
