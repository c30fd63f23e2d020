"""Chat streams, the words of upstreams, and the two enhancement prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    Misconfigured,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
    UnknownModel,
)
from providers.http.sse import EventTooLongError, events
from providers.prompts import ENHANCEMENTS
from providers.shared.chat import deltas
from providers.shared.openai_errors import classify
from providers.shared.reading import image_bytes, json_object
from providers.shared.redaction import redact
from providers.shared.retry_after import retry_after_s


def chunk(text: str, finish: str = "null") -> str:
    return f'data: {{"choices":[{{"delta":{{"content":"{text}"}},"finish_reason":{finish}}}]}}\n\n'


DONE = "data: [DONE]\n\n"


def bytewise(text: str) -> Iterator[bytes]:
    return (bytes([byte]) for byte in text.encode())


# ---------------------------------------------------------------- events


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_survive_every_line_end_and_every_split(end: str) -> None:
    stream = end.join([": stream-open", "", "data: ein", "data: zwei", "", "event: x", "data:drei Füße", "", ""])
    expected = ["ein\nzwei", "drei Füße"]
    assert list(events([stream.encode()])) == expected
    assert list(events(bytewise(stream))) == expected


def test_the_last_event_counts_without_its_blank_line() -> None:
    assert list(events([b"data: a\n\ndata: b"])) == ["a", "b"]
    assert list(events([b"data: a\r\n\r\ndata: b\r\n\r"])) == ["a", "b"]


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 2_000_000, b"data: xxxxxxxxx\n" * 200_000])
def test_an_endless_event_is_refused(stream: bytes) -> None:
    with pytest.raises(EventTooLongError):
        list(events([stream]))


# ---------------------------------------------------------------- chat deltas


def test_deltas_are_the_text_alone() -> None:
    role = 'data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    usage = 'data: {"choices":[],"usage":{"total_tokens":3},"obfuscation":"x"}\n\n'
    stream = ": open\n\n" + role + chunk("A red ") + chunk("kite ☀") + chunk("", '"stop"') + usage + DONE
    assert list(deltas(bytewise(stream))) == ["A red ", "kite ☀"]


def test_a_missing_end_mark_is_fine_when_the_model_was_done() -> None:
    assert list(deltas([(chunk("A") + chunk("", '"stop"')).encode()])) == ["A"]


@pytest.mark.parametrize(
    ("tail", "error"),
    [
        ("", Uncertain),
        ("data: {broken\n\n", Uncertain),
        ('data: {"error":{"message":"boom"}}\n\n', Failed),
        ('data: {"error":{"message":"","code":"insufficient_quota"}}\n\n', OutOfCredit),
        (chunk("", '"content_filter"'), ContentRefused),
        ('data: {"choices":[{"delta":{"refusal":"I cannot"}}]}\n\n', ContentRefused),
    ],
)
def test_a_stream_that_ends_badly_says_so_after_its_text(tail: str, error: type[ProviderError]) -> None:
    stream = deltas([(chunk("A") + tail).encode()])
    assert next(stream) == "A"
    with pytest.raises(error):
        next(stream)


# ---------------------------------------------------------------- OpenAI's errors


def body(**error: object) -> bytes:
    return json.dumps({"error": error}).encode()


HTML = b"<html>Bad gateway</html>"


@pytest.mark.parametrize(
    ("status", "answer", "error", "code"),
    [
        (400, body(code="unknown_parameter", param="seed"), RequestRefused, "upstream_rejected"),
        (400, HTML, RequestRefused, "upstream_rejected"),
        (
            400,
            body(type="image_generation_user_error", code="moderation_blocked"),
            ContentRefused,
            "content_refused",
        ),
        (400, body(code="content_policy_violation"), ContentRefused, "content_refused"),
        (400, body(message="Rejected. safety_violations=[sexual]."), ContentRefused, "content_refused"),
        (400, body(code="billing_hard_limit_reached"), OutOfCredit, "upstream_out_of_credit"),
        (401, body(code="invalid_api_key"), BadCredentials, "upstream_bad_credentials"),
        (
            403,
            body(message="Your organization must be verified", code=None),
            BadCredentials,
            "upstream_forbidden",
        ),
        (404, body(code="model_not_found"), UnknownModel, "upstream_model_unknown"),
        (
            404,
            body(message="The model 'dall-e-2' has been deprecated"),
            UnknownModel,
            "upstream_model_unknown",
        ),
        (404, HTML, Misconfigured, "upstream_not_found"),
        (408, body(type="server_error"), Uncertain, "upstream_error"),
        (409, body(type="server_error"), Uncertain, "upstream_error"),
        (413, HTML, RequestRefused, "upstream_too_large"),
        (429, body(type="requests", code="rate_limit_exceeded"), NotRun, "upstream_rate_limited"),
        (429, HTML, NotRun, "upstream_rate_limited"),
        (
            429,
            body(type="insufficient_quota", code="insufficient_quota"),
            OutOfCredit,
            "upstream_out_of_credit",
        ),
        (429, body(type="insufficient_quota", code=None), OutOfCredit, "upstream_out_of_credit"),
        (429, body(code="project_spend_limit_exceeded"), OutOfCredit, "upstream_out_of_credit"),
        (500, body(type="server_error", message="The server had an error"), Failed, "upstream_failed"),
        (500, body(type="image_generation_server_error"), Failed, "upstream_failed"),
        # In none of these does OpenAI itself say that nothing was made.
        (500, HTML, Uncertain, "upstream_error"),
        (500, b"", Uncertain, "upstream_error"),
        (500, body(message="Connection error", type=None), Uncertain, "upstream_error"),
        (502, body(type="server_error"), Uncertain, "upstream_error"),
        (504, HTML, Uncertain, "upstream_error"),
        (524, HTML, Uncertain, "upstream_error"),
        (500, body(type="x", code="insufficient_quota"), Uncertain, "upstream_error"),
        (503, HTML, Uncertain, "upstream_error"),
        (503, body(code="server_is_overloaded"), NotRun, "upstream_overloaded"),
        (307, b"", Misconfigured, "upstream_redirects"),
    ],
)
def test_every_answer_of_the_table_has_its_class(
    status: int, answer: bytes, error: type[ProviderError], code: str
) -> None:
    found = classify(status, {}, answer)
    assert (type(found), found.code) == (error, code)


def test_a_refusal_names_its_stage() -> None:
    details = {"moderation_stage": "output"}
    found = classify(400, {}, body(code="moderation_blocked", moderation_details=details))
    assert isinstance(found, ContentRefused)
    assert found.stage == "output"


@pytest.mark.parametrize(
    ("headers", "message", "expected"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, "", 1.5),
        ({"retry-after": "2.5"}, "", 2.5),
        ({"retry-after": "1e9"}, "", 300.0),
        ({"retry-after": "inf"}, "", None),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "-3"}, "", None),
        ({"retry-after": "soon"}, "", None),
        ({}, "Limit 5 per min. Please try again in 12s.", 12.0),
        ({}, "Please try again in 359ms. Visit", 0.359),
        ({}, "try again in 1m30s", 90.0),
        ({}, "Please retry after 20 seconds.", 20.0),
        ({}, "An image in many colours after dark", None),
        ({}, "", None),
    ],
)
def test_the_wait_is_read_from_headers_or_words_and_bounded(
    headers: dict[str, str], message: str, expected: float | None
) -> None:
    assert retry_after_s(headers, message) == expected


def test_the_wait_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert retry_after_s({"retry-after": date}) == pytest.approx(60, abs=2)
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=60), usegmt=True)
    assert retry_after_s({"retry-after": past}) is None


# ---------------------------------------------------------------- bodies and words


@pytest.mark.parametrize("text", [b"", b"nope", b"[]", b"null", b"\xff", b'{"a":' * 100_000, b'{"a": 1'])
def test_garbage_is_no_object(text: bytes) -> None:
    assert json_object(text) is None


@pytest.mark.parametrize("encoded", ["", "a", "not base64!", 7, None, "data:image/png;base64,"])
def test_garbage_is_no_image(encoded: object) -> None:
    assert image_bytes(encoded) is None


def test_base64_may_come_as_a_data_url() -> None:
    assert image_bytes("aGk=") == image_bytes("data:image/png;base64,aGk=") == b"hi"


@pytest.mark.parametrize(
    "secret",
    [
        "Incorrect API key provided: sk-proj-abc123def456ghi",
        "Authorization: Bearer abcdefghijklmnop",
        "account someone@example.com is blocked",
        "see https://files.example/a.png?sig=abcdefghijklmnop",
        "token 0123456789abcdef0123456789abcdef0123456789abcdef",
        "https://user:hunter22@example.com/x",
        "Consumer 'api_key:AIzaSyA-0123456789abcdef-ghi_0123456789' is suspended",
    ],
)
def test_no_secret_survives_in_a_detail(secret: str) -> None:
    cleaned = redact(secret)
    for word in ("abc123", "ghi", "abcdefghijkl", "someone", "0123456789abcdef", "hunter22"):
        assert word not in cleaned


def test_a_detail_is_one_short_line() -> None:
    assert redact("a\nb\t c") == "a b c"
    assert len(redact("word " * 10_000)) <= 300


def test_both_enhancements_keep_the_prompt_apart_from_the_orders() -> None:
    assert {name: mode.temperature for name, mode in ENHANCEMENTS.items()} == {
        "detail": 0.35,
        "creative": 0.7,
    }
    for mode in ENHANCEMENTS.values():
        system, user = mode.messages("a fox", language="French")
        assert system["role"] == "system"
        assert "a fox" not in system["content"]
        assert "French" in system["content"]
        assert user == {"role": "user", "content": "a fox"}
