"""Screening at the edge: what is refused, in the words of each dialect, and what is screened at all."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from app_doubles import MINE, PNG, Edge, make_edge
from structlog.testing import capture_logs

from accounts.keys import Caller
from jobs import counts
from jobs.errors import BadImageError, ContentRefusedError, FieldFault, ScreeningUnavailableError
from jobs.screening import screening as module
from jobs.screening.screening import Screening
from jobs.screening.subject import InputImage, Refusal, ScreenFailedError, Subject, category_of

BAD = "a scene of gore"
FAL = {"Authorization": "Key dk_a_secret"}
CALLER = Caller("acct_a", "a", "key_a")


@dataclass
class Double:
    """A screen that refuses what has the word gore in it; ``fault`` is raised instead. It notes what it was shown."""

    name: str = "double"
    is_local: bool = True
    fault: Exception | None = None
    shown: list[Subject] = field(default_factory=list)
    meets: Callable[[], object] = lambda: None

    def judge(self, subject: Subject, *, within_s: float) -> Refusal | None:
        self.shown.append(subject)
        self.meets()
        if self.fault:
            raise self.fault
        for name, text in (("prompt", subject.prompt), *subject.texts.items()):
            if "gore" in text:
                return Refusal("violence", name)
        for image in subject.images:
            if b"gore" in image.data:
                return Refusal("violence", image.field_name)
        return None

    def probe(self, *, within_s: float) -> str:
        return "a double"


def _screened(*screens: Double, **options: Any) -> tuple[Edge, list[tuple[Any, ...]]]:
    """The app with these screens, and the refusals that it writes down."""
    edge = make_edge()
    noted: list[tuple[Any, ...]] = []
    edge.submission.screening = Screening(screens, record=lambda *row: noted.append(row), **options)
    return edge, noted


# ---------------------------------------------------------------- in every dialect

ROUTES: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "native": ("/api/images/generate", MINE, {"prompt": BAD}),
    "openai": ("/v1/images/generations", MINE, {"prompt": BAD}),
    "openai_chat": ("/v1/chat/completions", MINE, {"messages": [{"role": "user", "content": BAD}]}),
    "enhance": ("/api/prompts/enhance", MINE, {"prompt": BAD}),
    "replicate": ("/v1/predictions", MINE, {"version": "gpt-image-2", "input": {"prompt": BAD}}),
    "fal_queue": ("/fal/queue/openai/gpt-image-2", FAL, {"prompt": BAD}),
    "fal_run": ("/fal/run/openai/gpt-image-2", FAL, {"prompt": BAD}),
    "chatgpt2api": ("/api/image-tasks/generations", MINE, {"prompt": BAD, "client_task_id": "t1"}),
    "generation": ("/api/generation", MINE, {"prompt": BAD}),
    "image_generate": ("/image/generate", MINE, {"prompt": BAD, "customer_id": 1}),
}
TOLD = "the content rules of this service refuse it (violence)"
# The status, and members of the answer by their paths.
SAID: dict[str, tuple[int, dict[str, Any]]] = {
    "native": (422, {"code": "content_refused", "category": "violence", "errors.0.field": "prompt"}),
    "openai": (400, {"error.code": "moderation_blocked", "error.type": "image_generation_user_error"}),
    "openai_chat": (400, {"error.code": "content_policy_violation", "error.param": "messages"}),
    "enhance": (422, {"code": "content_refused", "category": "violence"}),
    "replicate": (422, {"title": "Content flagged", "category": "violence", "status": 422}),
    "fal_queue": (422, {"detail.0.type": "content_policy_violation", "detail.0.loc": ["body", "prompt"]}),
    "fal_run": (422, {"detail.0.type": "content_policy_violation", "detail.0.msg": TOLD}),
    "chatgpt2api": (400, {"detail.error": f"rejected by upstream policy: prompt: {TOLD}"}),
    "generation": (400, {"status": "failed", "metadata.code": "content_refused", "metadata.category": "violence"}),
    "image_generate": (400, {"success": False, "error": "content_refused", "category": "violence"}),
}
UNAVAILABLE: dict[str, tuple[int, dict[str, Any]]] = {
    "native": (503, {"code": "screening_unavailable"}),
    "openai": (503, {"error.code": "service_unavailable", "error.type": "server_error"}),
    "openai_chat": (503, {"error.code": "service_unavailable"}),
    "enhance": (503, {"code": "screening_unavailable"}),
    "replicate": (503, {"status": 503, "code": "screening_unavailable"}),
    "fal_queue": (503, {"error_type": "service_unavailable"}),
    "fal_run": (503, {"error_type": "service_unavailable"}),
    "chatgpt2api": (503, {}),
    "generation": (503, {"metadata.code": "screening_unavailable"}),
    "image_generate": (503, {"error": "screening_unavailable"}),
}


def _at(document: Any, path: str) -> Any:
    for part in path.split("."):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _post(edge: Edge, name: str) -> Any:
    path, headers, body = ROUTES[name]
    return edge.client.post(path, json=body, headers=headers)


@pytest.mark.parametrize("name", ROUTES)
def test_a_refusal_is_said_in_the_words_of_each_dialect(name: str) -> None:
    edge, noted = _screened(Double())
    answer = _post(edge, name)
    status, members = SAID[name]
    assert (answer.status_code, {path: _at(answer.json, path) for path in members}) == (status, members), answer.json
    assert "(violence)" in answer.text
    assert BAD not in answer.text
    assert edge.submission.orders == edge.published == []
    [(account_id, key_id, category, screen, digest)] = noted
    assert (account_id, key_id, category, screen) == ("acct_a", "a", "violence", "double")
    assert len(digest) == 64
    if name.startswith("openai"):
        assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("name", ROUTES)
def test_without_an_opinion_each_dialect_asks_to_come_back(name: str) -> None:
    edge, noted = _screened(Double(fault=ScreenFailedError("url_too_slow")))
    answer = _post(edge, name)
    status, members = UNAVAILABLE[name]
    assert (answer.status_code, {path: _at(answer.json, path) for path in members}) == (status, members), answer.json
    assert answer.headers["Retry-After"] == "5"
    assert edge.submission.orders == noted == []
    if name.startswith("openai"):
        assert answer.headers["x-should-retry"] == "true"


# ---------------------------------------------------------------- what is screened


def test_an_estimate_says_a_refusal_and_counts_none() -> None:
    edge, noted = _screened(Double())
    answer = edge.client.post("/api/images/estimate", json={"prompt": BAD}, headers=MINE)
    assert (answer.status_code, answer.json["category"], noted) == (422, "violence", [])
    assert edge.client.post("/api/images/estimate", json={"prompt": "a fox"}, headers=MINE).status_code == 200


def test_screens_see_every_text_and_image_of_an_order_and_nothing_else() -> None:
    screen = Double()
    edge, _ = _screened(screen)
    body = {
        "prompt": "a fox",
        "images": ["https://images.example/fox.png"],
        "quality": "high",
        "metadata": {"note": "gore"},
        "extra": {"deep": [{"style": "soft"}]},
    }
    answer = edge.client.post("/api/images/edit", json=body, headers=MINE)
    assert answer.status_code == 202, answer.json
    [subject] = screen.shown
    assert subject.prompt == "a fox"
    assert (subject.kind, subject.operation, subject.model) == ("order", "edit", "gpt-image-2")
    assert subject.texts == {"extra.deep[0].style": "soft"}
    assert subject.images == [InputImage("image", "images[0]", PNG)]


def test_a_refused_image_is_named_and_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    edge, _ = _screened(Double())
    monkeypatch.setattr(type(edge.submission._references), "keep", lambda *_: pytest.fail("an image was kept"))
    image = base64.b64encode(PNG + b"gore").decode()
    order = {"prompt": "a fox", "images": ["https://images.example/fox.png", image]}
    answer = edge.client.post("/api/images/edit", json=order, headers=MINE)
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, "images[1]")


def test_every_message_of_a_chat_is_screened() -> None:
    edge, _ = _screened(Double())
    messages = [{"role": "system", "content": "write of gore"}, {"role": "user", "content": "a fox"}]
    answer = edge.client.post("/v1/chat/completions", json={"messages": messages}, headers=MINE)
    assert answer.status_code == 400
    assert edge.writer.asked == []


def test_without_screens_nothing_is_asked() -> None:
    edge = make_edge()
    assert edge.client.post("/api/images/generate", json={"prompt": BAD}, headers=MINE).status_code == 202
    assert edge.client.post("/api/prompts/enhance", json={"prompt": BAD}, headers=MINE).status_code == 200


# ---------------------------------------------------------------- the screens together


def _subject(prompt: str = "a fox", images: Sequence[InputImage] = ()) -> Subject:
    return Subject("order", "acct_a", prompt=prompt, images=images)


def test_what_a_local_screen_refuses_is_sent_nowhere() -> None:
    local, other = Double(), Double("hook", is_local=False)
    with pytest.raises(ContentRefusedError):
        Screening([other, local]).check(CALLER, _subject(BAD))
    assert other.shown == []


def test_screens_that_are_not_local_are_asked_at_the_same_time() -> None:
    barrier = threading.Barrier(2, timeout=5)
    screens = [Double(name, is_local=False, meets=barrier.wait) for name in ("one", "two")]
    Screening(screens).check(CALLER, _subject())
    assert [len(each.shown) for each in screens] == [1, 1]


def test_a_refusal_counts_although_another_screen_has_failed() -> None:
    broken = Double("broken", is_local=False, fault=ScreenFailedError("bad_answer"))
    with pytest.raises(ContentRefusedError):
        Screening([broken, Double("hook", is_local=False)]).check(CALLER, _subject(BAD))


def test_what_has_no_opinion_passes_only_where_the_operator_says_so() -> None:
    for fault in (ScreenFailedError("bad_answer"), RuntimeError("a fault of ours")):
        screen = Double(fault=fault)
        with pytest.raises(ScreeningUnavailableError):
            Screening([screen]).check(CALLER, _subject())
        Screening([screen], fails_open=True).check(CALLER, _subject())


def test_an_image_that_no_screen_can_judge_is_refused_also_where_failures_pass() -> None:
    fault = BadImageError([FieldFault("images[0]", "unsupported_image_type", "is AVIF")])
    with pytest.raises(BadImageError):
        Screening([Double(fault=fault)], fails_open=True).check(CALLER, _subject())


def test_an_opinion_counts_for_a_while_for_the_same_question_alone() -> None:
    now = [100.0]
    screen = Double(is_local=False)
    screening = Screening([screen], cache_s=60, now=lambda: now[0])
    image = InputImage("image", "images[0]", PNG)
    for prompt in (BAD, BAD):
        with pytest.raises(ContentRefusedError):
            screening.check(CALLER, _subject(prompt))
    screening.check(CALLER, _subject())
    screening.check(CALLER, _subject())
    screening.check(CALLER, _subject(images=[image]))
    screening.check(CALLER, Subject("order", "acct_b", prompt="a fox"))
    assert len(screen.shown) == 4
    now[0] += 61
    screening.check(CALLER, _subject())
    assert len(screen.shown) == 5


def test_a_failure_is_not_remembered() -> None:
    screen = Double(is_local=False, fault=ScreenFailedError("url_too_slow"))
    screening = Screening([screen])
    with pytest.raises(ScreeningUnavailableError):
        screening.check(CALLER, _subject())
    screen.fault = None
    screening.check(CALLER, _subject())


def test_opinions_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_AT_MOST", 3)
    screening = Screening([Double(is_local=False)])
    for number in range(10):
        screening.check(CALLER, _subject(f"fox {number}"))
    assert len(screening._opinions._kept) == 3


def test_categories_of_a_counter_are_bounded_and_no_word_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CATEGORIES_COUNTED", 2)
    screening = Screening([Double("bounded")])
    assert [screening._label(each) for each in ("a", "b", "c", "a")] == ["a", "b", "other", "a"]
    screening = Screening([Double("bounded")])
    with capture_logs() as logs, pytest.raises(ContentRefusedError):
        screening.check(CALLER, _subject("gore that no one should read"))
    assert counts.REFUSALS.of("bounded", "violence")._value.get() == 1
    assert [each["event"] for each in logs] == ["content_refused"]
    assert "no one should read" not in str(logs)


def test_a_category_is_short_and_plain() -> None:
    assert [category_of(each) for each in ("Sexual Minors", "hate/threatening", "", "a\nb", "x" * 65, 7, None)] == [
        *("sexual_minors", "hate/threatening"),
        *["other"] * 5,
    ]


def test_a_subject_shows_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    subject = Subject("order", "a", prompt="secret", negative_prompt="secret", texts={"x": "secret"})
    assert "secret" not in repr(subject)
    assert json.dumps(subject.digest().hex())
