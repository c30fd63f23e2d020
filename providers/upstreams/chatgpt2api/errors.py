"""The errors of chatgpt2api as our classes: a task's, in free text, and an answer's (CONTRACT.md section 5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from providers.errors import ContentRefused, Failed, Misconfigured, NotRun, ProviderError, RequestRefused, UnknownModel
from providers.shared.reading import detail_text, json_object
from providers.shared.redaction import redact
from providers.shared.retry_after import retry_after_s
from providers.shared.statuses import by_status

_POOL_EMPTY_WAIT_S = 300.0
_RATE_LIMIT_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Rule:
    """``pattern`` is searched in the lower-cased text; the first rule that fits decides."""

    pattern: str
    error: Callable[[str], ProviderError]


def _retryable(code: str, wait_s: float | None = None) -> Callable[[str], ProviderError]:
    return lambda detail: Failed(code, detail, retryable=True, retry_after_s=wait_s)


_POOL_EMPTY = (
    r"no available.*quota|号池中没有可用账号|no account in the pool|生图额度已用完"
    r"|(?:reached|hit) (?:your|the) [^.]{0,60}\blimit"
)
# What the gateway's own code, its HTTP client, its disk and its way to ChatGPT say when they fail.
_OWN_FAULTS = (
    r"upstream connection timed out|upstream image connection failed|completed without generating images"
    r"|no image result found|returned a text description|the response was incomplete|result could not be retrieved"
    r"|^image (?:generation|task) failed$|^$|something went wrong|an error occurred|technical (?:error|issue|difficult)"
    r"|curl: \(\d+\)|https?connectionpool|max retries exceeded|connection (?:reset|refused|aborted)|timed out"
    r"|\[errno -?\d+\]|'nonetype' object|'\w+' object (?:is not|has no|does not)|cannot identify image file"
    r"|unexpected keyword argument|expecting value: line|webdav \w+ failed"
)
_ACCOUNT_TROUBLE = (
    r"\b(?:status=|http |oauth_refresh_http_)40[13]\b|token (?:invalidated|_?revoked)|access_token is required"
)
# The words by which the gateway itself knows a refusal, then those that it misses.
_REFUSED_CONTENT = (
    r"policy|policies|moderation|blocked|guardrail|内容政策|防护限制|违反|敏感词|审核未通过"
    r"|不能生成|无法生成|不能帮助|无法帮助|裸体|裸露|色情|性内容|未成年|抱歉，我不能"
    r"|\b(?:can['’]?t|can ?not|won['’]?t|unable to|not able to) (?:\w+ ){0,2}?"
    r"(?:help|assist|comply|create|generate|make|produce|draw|edit|fulfil|fulfill|provide|depict)\b"
)
_TASK_ERRORS: Final = (  # section 5.3; the order matters
    _Rule("超时", _retryable("upstream_timeout")),  # first, because such a text also mentions rate limits
    _Rule(_POOL_EMPTY, _retryable("upstream_pool_empty", _POOL_EMPTY_WAIT_S)),
    _Rule("服务已重启", _retryable("upstream_restarted")),
    _Rule("unsupported image model", lambda detail: UnknownModel("upstream_model_unknown", detail)),
    _Rule(r"\b(?:status=|http )429\b", _retryable("upstream_rate_limited", _RATE_LIMIT_WAIT_S)),
    _Rule(r"\b(?:status=|http )5\d\d\b", _retryable("upstream_failed")),
    _Rule(_ACCOUNT_TROUBLE, _retryable("upstream_account_trouble")),
    _Rule(_OWN_FAULTS, _retryable("upstream_failed")),
    _Rule(_REFUSED_CONTENT, lambda detail: ContentRefused(detail=detail)),
    _Rule("please try again", _retryable("upstream_failed")),  # refusals, too, ask for another prompt like this
    # Any other text is no refusal: a question of the model or a fault without a name, and the next try may do.
    _Rule("", _retryable("upstream_said_no")),
)


def classify_task_error(text: str) -> ProviderError:
    """The error of a task, from free text without a code."""
    lowered = text[:4000].strip().lower()
    rule = next(rule for rule in _TASK_ERRORS if re.search(rule.pattern, lowered, re.DOTALL))
    return rule.error(redact(text))


_REFUSALS: Final = (  # 400 of section 5.2; no task was made
    _Rule(r"敏感词|审核未通过", lambda detail: ContentRefused(detail=detail, stage="input")),
    _Rule("ai review config is incomplete", lambda detail: Misconfigured("upstream_misconfigured", detail)),
    _Rule("unsupported image model", lambda detail: UnknownModel("upstream_model_unknown", detail)),
    _Rule("", lambda detail: RequestRefused("upstream_rejected", detail)),
)
# 503 texts that the gateway itself sends before it makes a task.
_NOT_STARTED: Final = re.compile(r"审核服务暂时不可用|image_queue_unavailable")


def classify_answer(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """What an answer other than 200 of the task API means (section 5.2)."""
    text = detail_text(json_object(body), "detail", "error")
    detail = redact(f"HTTP {status} {text}")
    wait_s = retry_after_s(headers, text)
    if status == 400:
        rule = next(rule for rule in _REFUSALS if re.search(rule.pattern, text.lower()))
        return rule.error(detail)
    if status == 503 and _NOT_STARTED.search(text):
        return NotRun("upstream_overloaded", detail, retry_after_s=wait_s)
    return by_status(status, detail, wait_s=wait_s)
