"""What xAI's image and chat routes take (``schemas.yaml``), and how large their images are."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from flask import request

from sandbox.chat import user_text
from sandbox.drawing.images import dimensions
from sandbox.emulators.xai import errors
from sandbox.emulators.xai.errors import ApiError
from sandbox.plumbing.inputs import BadInput, image_in_data_url
from sandbox.plumbing.validation import Problem, Schema, closed, load_yaml

INPUT_BYTES_MAX = 10 * 2**20
BODY_BYTES_MAX = 20 * 2**20
STEP_PX = 16
_AREA_PX = {"1k": 2**20, "2k": 4 * 2**20}
_INPUT_TYPES = ("image/png", "image/jpeg", "image/webp")
_FORMS = load_yaml(__file__, "schemas.yaml")
MODELS: Mapping[str, Any] = _FORMS["models"]
TEXT_MODELS: tuple[str, ...] = tuple(_FORMS["chat"]["model"]["enum"])
_CHAT = Schema(
    closed(_FORMS["chat"], ["model", "messages"], free=_FORMS["chat_takes"]),
    first=("additionalProperties",),
)


@dataclass(frozen=True)
class Order:
    """A request that passed every rule: its fields with their defaults."""

    fields: Mapping[str, Any]
    inputs: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def prompt(self) -> str:
        return str(self.fields["prompt"])

    @property
    def model(self) -> Mapping[str, Any]:
        """The model's entry in schemas.yaml."""
        entry: Mapping[str, Any] = MODELS[self.fields["model"]]
        return entry

    @property
    def ticks(self) -> int:
        """The price of the whole call in units of 1e-10 US dollars."""
        return int(self.model["price_cents"]) * 10**8 * int(self.fields["n"])


def json_body() -> dict[str, Any]:
    """The request's JSON object. Raises ApiError."""
    if request.mimetype != "application/json":
        raise ApiError("Expected request with `Content-Type: application/json`", status=415)
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise ApiError("Request body is too large.")
    try:
        document = json.loads(request.get_data())
    except ValueError as error:
        raise ApiError(f"Failed to parse the request body as JSON: {error}") from error
    if not isinstance(document, dict):
        raise errors.misfit("expected an object")
    return document


def read_generation() -> Order:
    """The body of ``/images/generations``. Raises ApiError."""
    return Order(_checked(json_body(), ""))


def read_edit() -> Order:
    """The body of ``/images/edits``: one ``image``, or several ``images``. Raises ApiError."""
    body = json_body()
    given = [name for name in _FORMS["edit"] if name in body]
    if len(given) != 1:
        raise ApiError(f"An edit needs image or images, one of them; it has {' and '.join(given) or 'none'}.")
    fields = _checked(body, given[0])
    references = fields[given[0]] if given[0] == "images" else [fields[given[0]]]
    if len(references) == 1 and "aspect_ratio" in body:
        raise errors.unsupported("aspect_ratio")  # the output follows the one input
    return Order(fields, tuple(_image(reference) for reference in references))


@cache
def _schema(model: str, reference: str) -> Schema:
    known = _FORMS["image"] | ({reference: _FORMS["edit"][reference]} if reference else {})
    form = closed({**known, **MODELS[model]["takes"]}, ["prompt"])
    return Schema(form, first=("additionalProperties", "required"))


def _checked(body: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """The fields with their defaults; ``reference`` is the field that holds an edit's images."""
    name = str(body.get("model"))
    schema = _schema(name if name in MODELS else next(iter(MODELS)), reference)
    if problem := schema.problem(body):
        raise _worded(problem)
    if name not in MODELS:
        raise errors.no_model(name)
    return schema.filled(body)


def _worded(problem: Problem) -> ApiError:
    """What xAI says to a field that does not fit."""
    name, value = problem.field, problem.value
    match problem.keyword:
        case "additionalProperties" | "unsupported":
            return errors.unsupported(name)
        case "required" | "pattern":
            return errors.misfit(f"missing field `{name}`")
        case "enum":
            return ApiError(f"Invalid {name}: {value}. Supported values: {', '.join(problem.limit)}.")
        case "minimum" | "maximum":
            low, high = problem.schema["minimum"], problem.schema["maximum"]
            return ApiError(f"Invalid {name}: {value}. It must be between {low} and {high}.")
        case "minItems" | "maxItems":
            return errors.misfit(f"{name}: expected 1 to {problem.schema.get('maxItems', 'any')} objects")
    return errors.misfit(f"{name}: expected a value of type {problem.limit}")


def _image(reference: Mapping[str, Any]) -> bytes:
    """A data URL of at most 10 MiB; the sandbox fetches no link and keeps no file."""
    if "file_id" in reference:
        raise ApiError("File not found: the sandbox keeps no files.", status=404)
    try:
        blob = image_in_data_url(reference.get("url", ""), types=_INPUT_TYPES)
    except BadInput as error:
        if error.why == "link":
            text = "Could not fetch the image: the sandbox takes data URLs of PNG, JPEG and WebP alone."
            raise ApiError(text) from error
        raise ApiError("Invalid image: it cannot be decoded.") from error
    if len(blob) > INPUT_BYTES_MAX:
        raise ApiError("Invalid image: it is larger than 10 MiB.")
    return blob


def size_px(order: Order) -> tuple[int, int]:
    """Width and height: the ratio asked, or the first input's, at the area of the class."""
    ratio = order.fields["aspect_ratio"]
    if ratio == "auto":
        ratio = "{}:{}".format(*(dimensions(order.inputs[0]) if order.inputs else (1, 1)))
    across, up = ratio.split(":")
    share, area_px = float(across) / float(up), _AREA_PX[order.fields["resolution"]]
    return _stepped(math.sqrt(area_px * share)), _stepped(math.sqrt(area_px / share))


def _stepped(side_px: float) -> int:
    return max(STEP_PX, round(side_px / STEP_PX) * STEP_PX)


def read_chat() -> tuple[dict[str, Any], str]:
    """The body of a chat and its last user message. Raises ApiError."""
    document = json_body()
    for problem in _CHAT.problems(document):
        raise errors.no_model(str(document.get("model"))) if problem.top == "model" else _worded(problem)
    return document, user_text(document["messages"])
