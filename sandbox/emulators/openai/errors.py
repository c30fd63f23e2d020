"""OpenAI's error envelope, and the errors that have a fixed text."""

from flask import Response, jsonify

from sandbox.markers import Fault


class ApiError(Exception):
    """``{"error": {"message", "type", "param", "code"}}`` with an HTTP status."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.param = status, kind, code, param

    def document(self) -> dict[str, object]:
        """The body."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The answer."""
        answer = jsonify(self.document())
        answer.status_code = self.status
        return answer


def invalid_value(param: str, message: str) -> ApiError:
    """A known parameter with a value that will not do."""
    return ApiError(message, code="invalid_value", param=param)


def unknown_parameter(param: str) -> ApiError:
    """A parameter this route or model does not have."""
    return ApiError(f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param)


def missing(param: str) -> ApiError:
    """A parameter that must be there."""
    return ApiError(f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)


def bad_key(shown: str) -> ApiError:
    """401; ``shown`` is the key with its middle masked."""
    text = (
        f"Incorrect API key provided: {shown}. You can find your API key at "
        "https://platform.openai.com/account/api-keys."
    )
    return ApiError(text, status=401, code="invalid_api_key")


def no_key() -> ApiError:
    """401 without any key."""
    text = "You didn't provide an API key. Provide it in an Authorization header using Bearer auth."
    return ApiError(text, status=401)


def model_not_found(model: str) -> ApiError:
    """404, for a model that never was or is shut down."""
    text = f"The model '{model}' does not exist or you do not have access to it."
    return ApiError(text, status=404, code="model_not_found", param="model")


def unverified_organization(model: str) -> ApiError:
    """403: the key works, but not for pictures."""
    text = f"Your organization must be verified to use the model `{model}`. See the organization settings."
    return ApiError(text, status=403)


def no_quota() -> ApiError:
    """429 that no waiting mends."""
    text = "You exceeded your current quota, please check your plan and billing details."
    return ApiError(text, status=429, kind="insufficient_quota", code="insufficient_quota")


def moderation_blocked() -> ApiError:
    """400: the prompt, or what was drawn, was refused."""
    text = (
        "Your request was rejected by the safety system. If you believe this is an error, contact support "
        "and include the request ID. safety_violations=[violence]."
    )
    return ApiError(text, kind="image_generation_user_error", code="moderation_blocked")


def rate_limited(model: str, retry_after: str) -> ApiError:
    """429 that waiting mends."""
    text = (
        f"Rate limit reached for {model} in organization org-sandbox on images per min: "
        f"Limit 5, Used 5, Requested 1. Please try again in {retry_after or '12'}s."
    )
    return ApiError(text, status=429, kind="images", code="rate_limit_exceeded")


def server_error(status: int = 500) -> ApiError:
    """5xx in the service's own words."""
    if status == 503:
        text = "The server is currently overloaded. Please try again later."
        return ApiError(text, status=503, kind="server_error", code="server_is_overloaded")
    text = "The server had an error while processing your request. Sorry about that!"
    return ApiError(text, status=status, kind="server_error")


def for_fault(fault: Fault, model: str) -> Response:
    """The answer to a scripted refusal, an empty purse, or a bare HTTP status."""
    if fault.name == "refuse":
        return moderation_blocked().response()
    if fault.name == "quota":
        return no_quota().response()
    status = fault.status or 503
    if status == 429:
        return rate_limited(model, fault.options.get("retry_after", "")).response()
    if status in (502, 504, 413) or status >= 520:
        return gateway_page(status)
    if status >= 500:
        return server_error(status).response()
    return ApiError(f"Scripted by the sandbox: HTTP {status}.", status=status).response()


def gateway_page(status: int) -> Response:
    """What the proxy in front says: HTML."""
    page = f"<html><head><title>{status}</title></head><body><center><h1>{status}</h1></center></body></html>"
    return Response(page, status=status, content_type="text/html")
