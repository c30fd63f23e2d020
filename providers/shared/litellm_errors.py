"""The errors of an upstream behind the gateway LiteLLM, in the words of OpenAI again.

LiteLLM puts the HTTP status into ``code`` (``"500"``), changes ``type``, and writes the upstream's message, or its
whole JSON error, behind a prefix such as ``litellm.RateLimitError: RateLimitError: OpenAIException - ``.

Source: the proxy of litellm 1.106.2 before an upstream with OpenAI's errors, its answers recorded 2026-11-21.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from providers.shared.reading import json_object

_PREFIX: Final = re.compile(r"litellm\.(?P<kind>\w+): (?:\w+: )?(?:\w*Exception - )?")
_OWN_REMARK: Final = "\n\nLiteLLM:"
# By what the message says, whatever its class: OpenAI's code for it.
_BY_MESSAGE: Final = (
    (re.compile(r"exceeded your current quota|check your plan and billing"), "insufficient_quota"),
    (re.compile(r"billing hard limit|budget has been exceeded"), "billing_hard_limit_reached"),
    (re.compile(r"invalid model name passed"), "model_not_found"),
    (re.compile(r"the model .{1,200} does not exist"), "model_not_found"),
    (re.compile(r"rejected by the safety system"), "content_policy_violation"),
)
# By LiteLLM's class of exception: OpenAI's type and code.
_BY_KIND: Final = {
    "InternalServerError": ("server_error", ""),
    "ServiceUnavailableError": ("server_error", "server_is_overloaded"),
    "RateLimitError": ("requests", "rate_limit_exceeded"),
    "AuthenticationError": ("invalid_request_error", "invalid_api_key"),
    "ContentPolicyViolationError": ("invalid_request_error", "content_policy_violation"),
}
# By the type of the gateway's own refusals: its key is unknown, or its own budget is spent.
_BY_TYPE: Final = {"no_db_connection": "invalid_api_key", "budget_exceeded": "insufficient_quota"}


def in_openais_words(texts: Mapping[str, str]) -> dict[str, str]:
    """``message``, ``type``, ``code`` and ``param`` of an error, as OpenAI itself would have sent them.

    An error that is not of LiteLLM comes back as it is. A page of a proxy and a broken connection behind the gateway
    keep neither type nor code, because they do not prove that no image was made.
    """
    found = _PREFIX.match(texts["message"])
    message = texts["message"].partition(_OWN_REMARK)[0][found.end() if found else 0 :].strip()
    if found is None:
        code = _BY_TYPE.get(texts["type"]) or (_told_by(message) if texts["code"].isdigit() else "")
        return {**texts, "code": code} if code else dict(texts)
    if message.startswith("{"):
        error = (json_object(message.encode()) or {}).get("error")
        if isinstance(error, dict):
            return {name: str(error.get(name) or "") for name in texts}
    if message.startswith("<") or found["kind"] in {"APIConnectionError", "Timeout", "BadGatewayError"}:
        return {**texts, "message": message, "type": "", "code": ""}
    kind, code = _BY_KIND.get(found["kind"], (texts["type"], ""))
    return {**texts, "message": message, "type": kind, "code": _told_by(message) or code}


def _told_by(message: str) -> str:
    lowered = message.lower()
    return next((code for pattern, code in _BY_MESSAGE if pattern.search(lowered)), "")
