"""The errors of an upstream behind LiteLLM: the answers of its proxy 1.106.2 as they were recorded."""

from __future__ import annotations

import json

import pytest

from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
    UnknownModel,
)
from providers.shared.openai_errors import classify, read_fault

REMARK = "\n\nLiteLLM: model group 'gpt-image-2' failed with the error above. No fallback was attempted."
QUOTA = "You exceeded your current quota, please check your plan and billing details."
RATE = (
    "Rate limit reached for gpt-image-2 in organization org-x on images per min (IPM): Limit 5, Used 5, Requested 1."
    " Please try again in 12s."
)
NO_MODEL = "The model 'gpt-image-2' does not exist or you do not have access to it."
REFUSED = "Your request was rejected by the safety system. safety_violations=[sexual]."


def wrapped(kind: str, message: str, *, twice: bool = True) -> str:
    """A message as the proxy writes it; some classes are named twice."""
    named = f"{kind}: " if twice else ""
    return f"litellm.{kind}: {named}OpenAIException - {message}{REMARK}"


def inside(message: str, kind: str, code: str | None) -> str:
    """The upstream's JSON as the message of an edit holds it."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


@pytest.mark.parametrize(
    ("status", "message", "kind", "error", "code"),
    [
        (500, wrapped("InternalServerError", "The server had an error."), "internal_server_error", Failed, "failed"),
        (
            500,
            wrapped("InternalServerError", inside("The server had an error.", "server_error", None)),
            "internal_server_error",
            Failed,
            "failed",
        ),
        (
            503,
            wrapped("ServiceUnavailableError", "The engine is currently overloaded, please try again later"),
            "internal_server_error",
            NotRun,
            "overloaded",
        ),
        (429, wrapped("RateLimitError", QUOTA), "throttling_error", OutOfCredit, "out_of_credit"),
        (
            429,
            wrapped("RateLimitError", inside(QUOTA, "insufficient_quota", "insufficient_quota")),
            "throttling_error",
            OutOfCredit,
            "out_of_credit",
        ),
        (
            400,
            wrapped("BadRequestError", "Billing hard limit has been reached", twice=False),
            "billing_limit_user_error",
            OutOfCredit,
            "out_of_credit",
        ),
        (400, "Budget has been exceeded! Current cost: 1.2", "budget_exceeded", OutOfCredit, "out_of_credit"),
        (429, wrapped("RateLimitError", RATE), "throttling_error", NotRun, "rate_limited"),
        (
            404,
            wrapped("NotFoundError", NO_MODEL, twice=False),
            "invalid_request_error",
            UnknownModel,
            "model_unknown",
        ),
        (
            400,
            wrapped("BadRequestError", NO_MODEL, twice=False),
            "invalid_request_error",
            UnknownModel,
            "model_unknown",
        ),
        (
            400,
            "400: {'error': '/image/generations: Invalid model name passed in model=gpt-image-9. Call `/v1/models`'}",
            "invalid_request_error",
            UnknownModel,
            "model_unknown",
        ),
        (
            401,
            wrapped("AuthenticationError", "Incorrect API key provided: sandbox."),
            "authentication_error",
            BadCredentials,
            "bad_credentials",
        ),
        (400, "No connected db.", "no_db_connection", BadCredentials, "bad_credentials"),
        (
            403,
            wrapped("BadRequestError", "Your organization must be verified to use the model.", twice=False),
            "invalid_request_error",
            BadCredentials,
            "forbidden",
        ),
        (
            400,
            wrapped("BadRequestError", REFUSED, twice=False),
            "image_generation_user_error",
            ContentRefused,
            "content_refused",
        ),
        (
            400,
            wrapped("BadRequestError", inside(REFUSED, "image_generation_user_error", "moderation_blocked")),
            "invalid_request_error",
            ContentRefused,
            "content_refused",
        ),
        (
            400,
            wrapped("BadRequestError", "Invalid value: '7x7'. Supported values are: '1024x1024'.", twice=False),
            "invalid_request_error",
            RequestRefused,
            "rejected",
        ),
        # What does not prove that no image was made is never sent again.
        (500, wrapped("InternalServerError", "<html>oops"), "internal_server_error", Uncertain, "error"),
        (503, wrapped("ServiceUnavailableError", "<html>nginx"), "internal_server_error", Uncertain, "error"),
        (502, wrapped("BadGatewayError", "<html>bad gateway"), "internal_server_error", Uncertain, "error"),
        (500, wrapped("APIConnectionError", "Connection error."), "internal_server_error", Uncertain, "error"),
        (408, wrapped("Timeout", "Request timed out."), "timeout_error", Uncertain, "error"),
    ],
)
def test_each_recorded_answer_has_the_class_of_the_upstreams_own(
    status: int, message: str, kind: str, error: type[ProviderError], code: str
) -> None:
    answer = {"error": {"message": message, "type": kind, "param": None, "code": str(status)}}
    found = classify(status, {}, json.dumps(answer).encode())
    assert (type(found), found.code.removeprefix("upstream_")) == (error, code)
    assert getattr(found, "retryable", True)
    assert "litellm" not in found.detail.lower()


def test_the_pause_that_the_upstream_asks_for_is_still_read() -> None:
    answer = {"error": {"message": wrapped("RateLimitError", RATE), "type": "throttling_error", "code": "429"}}
    assert classify(429, {}, json.dumps(answer).encode()).retry_after_s == 12


def test_an_error_of_openai_itself_is_left_as_it_is() -> None:
    error = {"message": "Invalid model name passed", "type": "invalid_request_error", "code": "invalid_value"}
    fault = read_fault({"error": error})
    assert fault is not None
    assert (fault.message, fault.type, fault.code) == tuple(error.values())
