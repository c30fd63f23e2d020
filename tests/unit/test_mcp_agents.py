"""What `darkroom mcp` decides by itself: keys of repeated orders, progress, answers, images, cut streams."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from app.cli.agents import answers, following, images
from app.cli.agents.following import Progress
from app.cli.agents.jobs import refusal
from app.cli.agents.repeats import KEPT, Repeats
from app.cli.client.answers import read_task
from app.cli.client.connection import Client
from app.cli.output import CommandError, Exit

ROOT = Path(__file__).resolve().parents[2]
ORDER = {"prompt": "a fox"}


def test_only_its_own_command_loads_the_protocol() -> None:
    code = (
        "import importlib, sys; from app.cli import COMMANDS\n"
        "for name, place in COMMANDS.items():\n"
        "    if name != 'mcp': importlib.import_module(place.target.split(':')[0])\n"
        "assert not {'mcp', 'mcp_types', 'starlette', 'uvicorn', 'app.cli.agents.command'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# ---------------------------------------------------------------- repeats


def test_an_order_without_an_answer_is_joined_by_the_next_and_by_another_process() -> None:
    repeats = Repeats()
    first = repeats.take("me", "generate", ORDER)
    second = repeats.take("me", "generate", ORDER)
    assert first.key != second.key
    repeats.give_back(first)
    assert repeats.take("me", "generate", ORDER) == first == Repeats().take("me", "generate", ORDER)


def test_an_order_with_an_answer_is_another_the_next_time() -> None:
    repeats = Repeats()
    keys = {repeats.take("me", "generate", ORDER).key for _ in range(3)}
    assert len(keys) == 3


def test_orders_differ_by_caller_operation_and_fields_and_not_by_their_order() -> None:
    repeats = Repeats()
    told = [("me", "generate", ORDER), ("you", "generate", ORDER), ("me", "edit", ORDER), ("me", "generate", {"n": 2})]
    assert len({repeats.take(*each).key for each in told}) == len(told)
    both = [Repeats().take("me", "edit", fields).key for fields in ({"n": 1, "seed": 2}, {"seed": 2, "n": 1})]
    assert both[0] == both[1]


def test_an_end_that_another_call_tells_is_an_answer() -> None:
    repeats = Repeats()
    turn = repeats.take("me", "generate", ORDER)
    repeats.give_back(turn, "job_1")
    repeats.told("job_1")
    assert repeats.take("me", "generate", ORDER) != turn


def test_what_is_remembered_is_bounded() -> None:
    repeats = Repeats()
    first = repeats.take("me", "generate", ORDER)
    for number in range(KEPT):
        repeats.give_back(repeats.take("me", "generate", {"seed": number}), f"job_{number}")
    assert len(repeats._taken) == len(repeats._by_task) == KEPT
    repeats.give_back(first, "job_first")  # forgotten by then, which is no error
    assert repeats.take("me", "generate", ORDER) == first


# ---------------------------------------------------------------- progress


def test_progress_only_grows_whatever_an_upstream_says() -> None:
    progress = Progress(images=2)
    events: list[dict[str, Any]] = [
        {"status": "queued"},
        {"status": "queued"},
        {"status": "running", "provider": "openai"},
        {"status": "running", "progress": 0.8},
        {"status": "running", "progress": 0.8},
        {"status": "queued", "code": "upstream_failed"},
        {"status": "running", "progress": 0.1},
        {"status": "running", "image": {"index": 0}},
        {"status": "running", "image": {"index": 1}},
        {"status": "succeeded"},
    ]
    told = [step for event in events if (step := progress.of(event)) is not None]
    values = [value for value, _ in told]
    assert values == sorted(set(values)) and (values[0], values[-1]) == (0.0, 1.0)
    assert [words for _, words in told] == [
        "queued", "running at openai", "running 80%", "queued again: upstream_failed", "running 10%",
        "image 1 of 2", "image 2 of 2", "succeeded",
    ]  # fmt: skip


# ---------------------------------------------------------------- streams that are cut


def record(number: int, **data: Any) -> bytes:
    return f"id: {number}\ndata: {following.json.dumps(data)}\n\n".encode()


class Server:
    """Answers each connection with the next of its parts; a CommandError is raised after the bytes before it."""

    def __init__(self, *parts: list[bytes | CommandError] | int) -> None:
        self.parts, self.asked = list(parts), list[str | None]()

    @contextmanager
    def open(self, method: str, path: str, *, headers: dict[str, str], **_: Any) -> Iterator[Any]:
        self.asked.append(headers.get("Last-Event-ID"))
        part = self.parts.pop(0)
        if isinstance(part, int):
            yield SimpleNamespace(status_code=part)
            return
        yield SimpleNamespace(status_code=200, headers={}, iter_content=lambda chunk_size: _raised(part))

    def get(self, path: str) -> dict[str, Any]:
        return {"id": path.rpartition("/")[2], "status": "succeeded"}


def _raised(part: list[bytes | CommandError]) -> Iterator[bytes]:
    for each in part:
        if isinstance(each, CommandError):
            raise each
        yield each


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSE_S", 0)


AWAY = CommandError(Exit.AWAY, "server_away", "away")


@pytest.mark.usefixtures("_no_pause")
def test_a_cut_stream_goes_on_behind_the_last_event() -> None:
    server = Server([record(1, n=1), b": beat\n", AWAY], [AWAY], [record(2, n=2)], 204)
    seen = list(following.Stream(server, "job_1").steps())  # type: ignore[arg-type]
    assert server.asked == [None, "1", "1", "2"]
    assert [each.get("n") for each in seen if each and "n" in each] == [1, 2]
    assert seen[-1] == {"task": {"id": "job_1", "status": "succeeded"}}


@pytest.mark.usefixtures("_no_pause")
def test_a_stream_that_is_refused_is_not_asked_for_again() -> None:
    refused = CommandError(Exit.FAILED, "not_found", "there is no such task", facts={"status": 404})
    with pytest.raises(CommandError, match="no such task"):
        list(following.Stream(Server([refused]), "job_1").steps())  # type: ignore[arg-type]


@pytest.mark.usefixtures("_no_pause")
def test_a_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PATIENCE_S", -1.0)
    with pytest.raises(CommandError, match="away"):
        list(following.Stream(Server([AWAY]), "job_1").steps())  # type: ignore[arg-type]


def test_a_stream_that_is_left_ends_in_the_middle_of_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    event, reads = record(1, status="queued"), Event()

    def arriving(response: requests.Response) -> Iterator[bytes]:
        pieces = response.iter_content(chunk_size=1)
        yield from itertools.islice(pieces, len(event))
        reads.set()
        yield from pieces

    monkeypatch.setattr(following, "arriving", arriving)
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        stream = following.Stream(Client(f"http://127.0.0.1:{listening.getsockname()[1]}"), "job_1")
        steps = pool.submit(list, stream.steps())
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event)
            assert reads.wait(30)  # what never comes; its own patience is longer than ours
            stream.leave()
            assert steps.result(following.READ_TIMEOUT_S - 15)[0] == {"status": "queued"}


# ---------------------------------------------------------------- answers


def task(**facts: Any) -> Any:
    document = {"id": "job_1", "status": "succeeded", "model": "m", "provider": "p", "images": [], **facts}
    return read_task(document)


def image(index: int = 0, **facts: Any) -> dict[str, Any]:
    told = {"index": index, "mime": "image/png", "width": 8, "height": 4, "size_bytes": 9, "sha256": "x"}
    return {**told, "signed_url": f"http://h/{index}", **facts}


def test_a_job_that_goes_on_is_no_failure_and_names_its_task() -> None:
    answer = answers.of_task(task(status="running"), key="k")
    assert (answer["success"], answer["code"], answer["error"]) == (False, 504, "request_timeout")
    assert (answer["task_id"], answer["task"]["idempotency_key"]) == ("job_1", "k")


def test_the_first_image_that_is_left_is_the_answer() -> None:
    answer = answers.of_task(task(images=[image(0, deleted=True), image(1)], request={"quality": "low"}))
    assert answer["data"] == {
        "image_url": "http://h/1", "provider": "p", "model": "m",
        "settings": {"image": {"model": "m", "width": 8, "height": 4, "quality": "low"}},
    }  # fmt: skip
    assert [each["url"] for each in answer["task"]["images"]] == [None, "http://h/1"]
    assert answers.of_task(task(images=[image(deleted=True)]))["error"] == "image_gone"


@pytest.mark.parametrize(
    ("code", "status"),
    [("content_refused", 400), ("insufficient_credits", 402), ("internal_error", 500), ("upstream_failed", 502)],
)
def test_a_failed_job_has_the_status_of_the_replaced_service(code: str, status: int) -> None:
    answer = answers.of_task(task(status="failed", error={"code": code, "message": "why"}))
    assert (answer["success"], answer["code"], answer["error"], answer["message"]) == (False, status, code, "why")


@pytest.mark.parametrize(
    ("facts", "code", "status"),
    [({"status": 422}, "invalid_order", 400), ({"status": 402}, "insufficient_credits", 402),
     ({"status": 500}, "internal_error", 500), ({}, "server_unreachable", 503), ({}, "cannot_read", 400)],
)  # fmt: skip
def test_a_refusal_has_its_status(facts: dict[str, Any], code: str, status: int) -> None:
    assert answers.of_error(CommandError(Exit.FAILED, code, "why", facts=facts))["code"] == status


def test_a_refusal_says_what_helps() -> None:
    lost = CommandError(Exit.AWAY, "server_away", "away", facts={"idempotency_key": "mcp-1"})
    assert "idempotency_key mcp-1" in refusal(lost).content[1].text  # type: ignore[union-attr]
    full = CommandError(Exit.FAILED, "rate_limited", "full", hint="Try again in 7 s.", facts={"status": 429})
    assert refusal(full).content[1].text == "Try again in 7 s."  # type: ignore[union-attr]
    assert len(refusal(CommandError(Exit.NOT_ALLOWED, "x", "x", hint="--key", facts={"status": 401})).content) == 1


# ---------------------------------------------------------------- images


class Bucket:
    """Variants that weigh what ``weigh`` says of their longest edge."""

    def __init__(self, weigh: Any) -> None:
        self.weigh, self.asked = weigh, list[int | None]()

    @contextmanager
    def image(self, task_id: str, index: int, **variant: Any) -> Iterator[Any]:
        edge = variant.get("width_px")
        self.asked.append(edge)
        yield SimpleNamespace(content=b"x" * self.weigh(edge))


def shown(bucket: Bucket, *kept: dict[str, Any]) -> list[Any]:
    return images.shown(bucket, task(images=list(kept)), edge_px=1024)  # type: ignore[arg-type]


def test_a_small_image_is_shown_as_it_is_and_a_large_one_smaller() -> None:
    bucket = Bucket(lambda edge: 10)
    blocks = shown(bucket, image(), image(1, width=2000), image(2, mime="image/avif"))
    assert bucket.asked == [None, 1024, 1024]
    assert [each.mime_type for each in blocks] == ["image/png", "image/webp", "image/webp"]


def test_images_share_what_an_answer_may_weigh() -> None:
    bucket = Bucket(lambda edge: (edge or 9999) * 500)
    many = [image(index, width=4000, size_bytes=9_000_000) for index in range(4)]
    blocks = shown(bucket, *many)
    assert sum(len(each.data) for each in blocks) <= images.MOST_BYTES * 4 / 3 + 16
    assert bucket.asked == [1024, 512, 256] * 4


def test_an_image_that_stays_too_large_is_told_by_its_link() -> None:
    [block] = shown(Bucket(lambda edge: 10**6), image(width=4000))
    assert block.type == "text" and "link" in block.text


def test_only_paths_are_read_as_files(tmp_path: Path) -> None:
    for given in ("job_1#0", "upl_1", "https://h/x.png", "data:image/png;base64,AA", "/9j/4AAQSkZJRg", "iVBORw0K"):
        assert images.reference(None, given, local_files=True) == given  # type: ignore[arg-type]
    for given in ("/etc/passwd", "~/x.png", "./x.png", "file:///etc/passwd"):
        with pytest.raises(CommandError) as refused:
            images.reference(None, given, local_files=False)  # type: ignore[arg-type]
        assert refused.value.code == "no_local_files"
    secret = tmp_path / "secret"
    secret.write_text("not an image")
    with pytest.raises(CommandError) as refused:
        images.reference(None, str(secret), local_files=True)  # type: ignore[arg-type]
    assert refused.value.code == "not_an_image"
