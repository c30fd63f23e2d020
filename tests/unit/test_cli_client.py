"""The commands against a small HTTP server that speaks the API, over real sockets."""

from __future__ import annotations

import email
import hashlib
import io
import itertools
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from app.cli import main
from app.cli.client import address, options, watching
from app.cli.client import connection as client_module
from app.cli.client.answers import read_task
from app.cli.client.run import OPERATIONS as RUN_OPERATIONS
from app.cli.output import CommandError
from app.cli.service import demo as demo_module
from app.orders.operations import OPERATIONS
from app.shapes.schemas.tasks import TaskOut

HERE = Path(__file__).resolve().parents[2]
JOB = "job_01J9Z3ABCDEFGHJKMNPQRSTVWX"
KEY = "dk_abc_s3cret"
UNUSED_PORT_URL = "http://127.0.0.1:1"
# A process or a thread that has not answered by then never will.
HUNG_S = 10.0


def png(width: int = 64, height: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "orange").save(buffer, "PNG")
    return buffer.getvalue()


def task(status: str = "queued", **changes: Any) -> dict[str, Any]:
    done = status == "succeeded"
    return {
        "id": JOB,
        "object": "image.task",
        "operation": "generate",
        "status": status,
        "model": "painter-1",
        "provider": "chatgpt2api",
        "progress": None,
        "step": None,
        "queue_position": 3 if status == "queued" else None,
        "created_at": "2026-11-20T12:00:00.000Z",
        "price": {"quoted_microcredits": 5_300_000, "captured_microcredits": 5_300_000 if done else None},
        "request": {"prompt": "a fox", "n": 1},
        "images": [],
        "error": None,
        "warnings": [],
        **changes,
    }


def test_what_a_task_waits_for_is_said_with_its_end() -> None:
    waiting = {"reason": "upstream_pool_empty", "message": "x", "retry_at": "x", "until": "2026-11-20T13:00:00.000Z"}
    said = watching.headline(read_task(task("queued", waiting_for=waiting)))
    assert said.startswith("queued, upstream_pool_empty: waiting for another try, at most until 2026-11-20 ")
    assert "place" not in said
    assert watching.headline(read_task(task("queued", waiting_for=None))) == "queued, place 3 in the queue"


def image_facts(data: bytes, index: int = 0) -> dict[str, Any]:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    digest = hashlib.sha256(data).hexdigest()
    facts = {"index": index, "mime": "image/png", "width": width, "height": height}
    return {**facts, "size_bytes": len(data), "sha256": digest}


class Seen:
    """One request as it arrived."""

    def __init__(self, method: str, target: str, headers: Any, body: bytes) -> None:
        url = urlsplit(target)
        self.method, self.path, self.headers, self.body = method, url.path, headers, body
        self.query = {k: v[0] for k, v in parse_qs(url.query).items()}

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def parts(self) -> dict[str, list[bytes]]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        found: dict[str, list[bytes]] = {}
        for part in email.message_from_bytes(head + self.body).get_payload():
            name = part.get_param("name", header="content-disposition")
            found.setdefault(name, []).append(part.get_payload(decode=True))
        return found


Answer = tuple[int, dict[str, str], bytes] | None  # None: hang up without a word


class FakeServer:
    """Answers ``routes[(method, path)]`` in turn, the last answer from then on; keeps the requests."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.routes: dict[tuple[str, str], list[Any]] = {}
        self.waiting = threading.Event()  # a client long-polls
        self.go_on = threading.Event()  # set: long-polls are answered
        self.go_on.set()
        self.url = ""

    def on(self, method: str, path: str, *answers: Any) -> None:
        self.routes[(method, path)] = list(answers)

    def answer(self, seen: Seen) -> Answer:
        self.seen.append(seen)
        if "wait" in seen.query:
            self.waiting.set()
            self.go_on.wait(HUNG_S)
        answers = self.routes.get((seen.method, seen.path))
        if not answers:
            return problem(404, "not_found", "there is nothing here")
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer = answer(seen) if callable(answer) else answer
        return answer if answer is None or isinstance(answer, tuple) else ok(answer)

    def asked(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]

    def job(self, *states: dict[str, Any], sample_images: tuple[bytes, ...] = ()) -> None:
        """A job that goes through these states, one per look, and serves these images."""
        self.on("POST", "/api/images/generate", (202, {}, json.dumps(states[0]).encode()))
        self.on("POST", "/api/images/edit", (202, {}, json.dumps(states[0]).encode()))
        self.on("GET", f"/api/images/tasks/{JOB}", *states)
        serve: Callable[[Seen], Answer] = lambda seen: (200, {}, sample_images[int(seen.query["index"])])  # noqa: E731
        self.on("GET", f"/api/images/tasks/{JOB}/image", serve)

    def finished_job(self, *sample_images: bytes) -> None:
        images = [image_facts(data, index) for index, data in enumerate(sample_images)]
        self.job(task("queued"), task("running"), task("succeeded", images=images), sample_images=sample_images)


def ok(value: Any) -> Answer:
    return (
        200,
        {"Content-Type": "application/json", "ETag": f'"{hash(str(value))}"'},
        json.dumps(value).encode(),
    )


def problem(status: int, code: str, detail: str, **facts: Any) -> Answer:
    body = {"status": status, "code": code, "detail": detail, "request_id": "req_1", **facts}
    return status, {"Content-Type": "application/problem+json"}, json.dumps(body).encode()


def events(*pairs: tuple[str, str]) -> Answer:
    body = "".join(f"event: {name}\ndata: {data}\n\n" for name, data in pairs)
    return 200, {"Content-Type": "text/event-stream"}, body.encode()


@contextmanager
def serving(fake: FakeServer) -> Iterator[FakeServer]:
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = fake.answer(Seen(self.command, self.path, self.headers, body))
            if answer is None:
                self.close_connection = True
                return
            status, headers, data = answer
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = handle_any  # noqa: N815

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        fake.go_on.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving(FakeServer()) as fake:
        yield fake


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, no settings of the machine, and no pauses."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("DARKROOM_") or n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(watching, "PAUSE_S", 0.0)
    monkeypatch.setattr(client_module, "RETRY_WAIT_S", 0.0)
    return tmp_path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(server: FakeServer | str, *arguments: str, stdin: str | None = None) -> Result:
    url = server if isinstance(server, str) else server.url
    return CliRunner().invoke(main, [*arguments, "--server", url, "--key", KEY], input=stdin)


# --- generate and edit -------------------------------------------------------------------------------


def test_generate_saves_the_image_and_says_where(server: FakeServer, place: Path) -> None:
    server.finished_job(png())
    result = run(server, "generate", "a fox", "-o", "fox.png")
    assert (result.exit_code, (place / "fox.png").read_bytes()) == (0, png())
    assert result.stdout.startswith("fox.png  64x64")
    assert "place 3 in the queue" in result.stderr and "5.3 credits" in result.stderr
    assert names_in(place) == ["fox.png"]


def test_an_order_holds_what_was_given_and_nothing_else(server: FakeServer) -> None:
    server.finished_job(png())
    flags = ["--size", "64x64", "--seed", "7", "-n", "1", "--deadline", "2m", "--format", "png", "--lenient"]
    flags += ["--set", "steps=4", "--set", "style=oil"]
    run(server, "generate", "a fox", *flags, "--set", 'extra={"hd": true}')
    (seen,) = server.asked("POST", "/api/images/generate")
    assert seen.json == {
        "prompt": "a fox",
        "size": "64x64",
        "seed": 7,
        "n": 1,
        "deadline_s": 120,
        "output_format": "png",
        "lenient": True,
        "steps": 4,
        "style": "oil",
        "extra": {"hd": True},
    }
    assert seen.headers["Authorization"] == f"Bearer {KEY}"
    assert seen.headers["Idempotency-Key"]


@pytest.mark.parametrize(
    ("output", "names"),
    [
        ("fox.png", ["fox-0.png", "fox-1.png"]),
        ("{index}-fox.png", ["0-fox.png", "1-fox.png"]),
        (None, [f"{JOB}-0.png", f"{JOB}-1.png"]),
    ],
)
def test_several_images_get_names_of_their_own(
    server: FakeServer, place: Path, output: str | None, names: list[str]
) -> None:
    server.finished_job(png(), png(32, 32))
    result = run(server, "generate", "a fox", "-n", "2", *(["-o", output] if output else []))
    assert result.exit_code == 0
    assert names_in(place) == names
    assert (place / names[1]).read_bytes() == png(32, 32)


def test_a_file_in_the_way_is_found_before_anything_is_ordered(server: FakeServer, place: Path) -> None:
    server.finished_job(png(), png())
    (place / "fox-1.png").write_text("mine")
    result = run(server, "generate", "a fox", "-n", "2", "-o", "fox.png")
    assert (result.exit_code, server.seen) == (2, [])
    assert "fox-1.png exists already" in result.stderr and "--force" in result.stderr
    assert run(server, "generate", "a fox", "-n", "2", "-o", "fox.png", "--force").exit_code == 0
    assert (place / "fox-1.png").read_bytes() == png()


def test_a_file_that_came_in_between_is_not_replaced(server: FakeServer, place: Path) -> None:
    server.finished_job(png())
    ordered = server.routes[("POST", "/api/images/generate")][0]
    server.on("POST", "/api/images/generate", lambda _: (place / "fox.png").write_text("mine") and ordered)
    result = run(server, "generate", "a fox", "-o", "fox.png")
    assert (result.exit_code, (place / "fox.png").read_text()) == (2, "mine")
    assert f"darkroom watch {JOB}" in result.stderr


def test_only_regular_files_are_replaced(server: FakeServer, place: Path) -> None:
    server.finished_job(png())
    os.mkfifo(place / "pipe")
    result = run(server, "generate", "a fox", "-o", "pipe", "--force")
    assert (result.exit_code, server.seen) == (2, [])
    assert (place / "pipe").is_fifo()
    assert "not a regular file" in result.stderr


def test_what_is_no_regular_file_by_the_end_is_left_too(server: FakeServer, place: Path) -> None:
    server.finished_job(png())
    ordered = server.routes[("POST", "/api/images/generate")][0]
    server.on("POST", "/api/images/generate", lambda _: os.mkfifo(place / "pipe") or ordered)
    result = run(server, "generate", "a fox", "-o", "pipe", "--force")
    assert (result.exit_code, (place / "pipe").is_fifo(), names_in(place)) == (2, True, ["pipe"])


def test_no_folder_nothing_ordered(server: FakeServer) -> None:
    result = run(server, "generate", "a fox", "-o", "no/where/fox.png")
    assert (result.exit_code, server.seen) == (2, [])
    assert "there is no folder no/where" in result.stderr


@pytest.mark.parametrize("data", [png()[:-1] + b"?", png()[:-5], png() + b"more"])
def test_a_damaged_image_is_not_kept(server: FakeServer, place: Path, data: bytes) -> None:
    server.job(task(), task("succeeded", images=[image_facts(png())]), sample_images=(data,))
    result = run(server, "generate", "a fox", "-o", "fox.png")
    assert (result.exit_code, names_in(place)) == (1, [])
    assert "image_damaged" in result.stderr and f"darkroom watch {JOB} -o FILE" in result.stderr


def test_a_transfer_that_breaks_off_is_tried_again(server: FakeServer, place: Path) -> None:
    server.finished_job(png())
    server.on("GET", f"/api/images/tasks/{JOB}/image", None, (200, {}, png()))
    assert run(server, "generate", "a fox", "-o", "fox.png").exit_code == 0
    assert (place / "fox.png").read_bytes() == png()


def test_no_space_left_is_one_line_and_says_how_to_fetch_again(
    server: FakeServer, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    server.finished_job(png())
    monkeypatch.setattr(os, "fsync", full)
    result = run(server, "generate", "a fox", "-o", "fox.png")
    assert (result.exit_code, names_in(place)) == (1, [])
    assert "No space left on device" in result.stderr and f"darkroom watch {JOB}" in result.stderr


def test_json_is_one_document_with_the_files(server: FakeServer, place: Path) -> None:
    server.finished_job(png())
    result = run(server, "generate", "a fox", "-o", "fox.png", "--json")
    answer = json.loads(result.stdout)
    assert (answer["id"], answer["status"], result.stderr) == (JOB, "succeeded", "")
    assert answer["files"] == [{"index": 0, "path": str(place / "fox.png")}]


def test_quiet_prints_the_path_alone(server: FakeServer) -> None:
    server.finished_job(png())
    result = run(server, "generate", "a fox", "-o", "fox.png", "-q")
    assert (result.stdout, result.stderr) == ("fox.png\n", "")


def test_no_wait_prints_the_id(server: FakeServer, place: Path) -> None:
    server.finished_job(png())
    result = run(server, "generate", "a fox", "--no-wait")
    assert (result.exit_code, result.stdout, names_in(place)) == (0, f"{JOB}\n", [])


def test_estimate_runs_nothing(server: FakeServer) -> None:
    price = {"unit": "2.65", "total": "5.3", "total_microcredits": 5_300_000}
    server.on("POST", "/api/images/estimate", {"model": "painter-1", "price": price, "warnings": []})
    result = run(server, "generate", "a fox", "-n", "2", "--estimate")
    assert (result.exit_code, result.stdout) == (0, "5.3 credits  painter-1\n")
    assert server.asked("POST", "/api/images/estimate")[0].json == {
        "operation": "generate",
        "prompt": "a fox",
        "n": 2,
    }


def test_the_prompt_can_come_from_stdin(server: FakeServer) -> None:
    server.finished_job(png())
    run(server, "generate", "-", "--no-wait", stdin="a long story\n")
    assert server.seen[0].json["prompt"] == "a long story"


def test_edit_sends_images_mask_and_fields_as_multipart(server: FakeServer, place: Path) -> None:
    server.finished_job(png())
    (place / "in.png").write_bytes(png(8, 8))
    (place / "mask.png").write_bytes(png(9, 9))
    flags = ["-i", "in.png", "-i", "in.png", "--mask", "mask.png", "-o", "out.png", "--seed", "4"]
    result = run(server, "edit", "make it night", *flags, "--set", 'metadata={"a": "b"}')
    assert (result.exit_code, (place / "out.png").read_bytes()) == (0, png())
    parts = server.asked("POST", "/api/images/edit")[0].parts()
    assert parts["image"] == [png(8, 8), png(8, 8)]
    assert parts["mask"] == [png(9, 9)]
    assert (parts["prompt"], parts["seed"]) == ([b"make it night"], [b"4"])
    assert json.loads(parts["metadata"][0]) == {"a": "b"}


def test_an_estimate_of_an_edit_sends_its_images(server: FakeServer, place: Path) -> None:
    (place / "in.png").write_bytes(png())
    server.on("POST", "/api/images/estimate", {"model": "painter-1", "price": {"total": "5.3"}})
    assert run(server, "edit", "make it night", "-i", "in.png", "--estimate").exit_code == 0
    parts = server.asked("POST", "/api/images/estimate")[0].parts()
    assert (parts["operation"], parts["image"]) == ([b"edit"], [png()])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"<svg/>", "is not a PNG"),
        (png() + bytes(10 * 2**20), "may be sent"),
    ],
)
def test_an_image_that_will_not_do_is_refused_here(
    server: FakeServer, place: Path, data: bytes | None, words: str
) -> None:
    if data is not None:
        (place / "in.png").write_bytes(data)
    result = run(server, "edit", "make it night", "-i", "in.png")
    assert (result.exit_code, server.seen) == (2, [])
    assert "in.png" in result.stderr and words in result.stderr


def test_edit_without_an_image_is_a_usage_error(server: FakeServer) -> None:
    assert (run(server, "edit", "make it night").exit_code, server.seen) == (2, [])


def test_a_field_given_twice_is_a_usage_error(server: FakeServer) -> None:
    assert run(server, "generate", "a fox", "--seed", "1", "--set", "seed=2").exit_code == 2
    assert run(server, "generate", "a fox", "--set", "prompt=b").exit_code == 2
    assert server.seen == []


# --- how it ends -------------------------------------------------------------------------------------


def test_a_failed_job_ends_with_1_and_its_reason(server: FakeServer) -> None:
    error = {"code": "content_refused", "message": "the upstream refused the prompt"}
    server.job(task(), task("failed", error=error))
    result = run(server, "generate", "a fox")
    assert result.exit_code == 1
    assert "content_refused" in result.stderr and "refused the prompt" in result.stderr
    server.job(task(), task("failed", error=error))
    answer = json.loads(run(server, "generate", "a fox", "--json").stdout)
    assert answer["error"]["code"] == "content_refused"


def test_show_says_where_a_job_failed(server: FakeServer) -> None:
    error = {"code": "result_gone", "message": "its link had died", "stage": "download", "provider": "flux"}
    server.on("GET", f"/api/images/tasks/{JOB}", task("failed", error=error))
    shown = run(server, "show", JOB).stdout
    assert "result_gone: its link had died" in shown
    assert "while the result was fetched, at flux" in shown


def test_show_says_why_a_model_was_chosen(server: FakeServer) -> None:
    chosen = {"asked": None, "model": "painter-1", "rule": "cheapest", "reason": "the cheapest of 80 models"}
    server.on("GET", f"/api/images/tasks/{JOB}", task("succeeded", chosen=chosen))
    assert "the cheapest of 80 models" in run(server, "show", JOB).stdout


def test_a_cancelled_job_ends_with_6(server: FakeServer) -> None:
    server.job(task(), task("cancelled"))
    assert run(server, "generate", "a fox").exit_code == 6


def test_a_job_that_takes_too_long_ends_the_wait_with_7(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    # The module's own clock alone: the server's thread reads the real one as often as it likes.
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)), sleep=lambda seconds: None)
    monkeypatch.setattr(watching, "time", clock)
    server.job(task("running"))
    result = run(server, "watch", JOB, "--timeout", "5s")
    assert result.exit_code == 7
    assert f"darkroom watch {JOB}" in result.stderr


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "key_invalid", 4),
        (403, "scope_missing", 4),
        (402, "insufficient_credits", 5),
        (404, "not_found", 1),
        (429, "rate_limited", 1),
        (500, "internal_error", 1),
        (502, "upstream_failed", 1),
        (503, "database_unavailable", 3),
    ],
)
def test_a_refusal_gives_its_exit_code_and_one_clear_line(
    server: FakeServer, status: int, code: str, exit_code: int
) -> None:
    server.on("GET", "/api/quota", problem(status, code, "this is why"))
    result = run(server, "quota")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert result.stderr.splitlines()[0] == f"darkroom: {code}: this is why"
    error = json.loads(run(server, "quota", "--json").stdout)["error"]
    assert (error["code"], error["status"], error["exit_code"]) == (code, status, exit_code)


def test_each_bad_field_stands_on_its_own_line(server: FakeServer) -> None:
    faults = [
        {"field": "size", "code": "out_of_range", "message": "at most 3840x2160"},
        {"field": "stepz", "code": "not_supported", "message": "painter-1 takes no such field"},
    ]
    server.on("POST", "/api/images/generate", problem(422, "invalid_order", "two", errors=faults))
    result = run(server, "generate", "a fox")
    assert result.exit_code == 1
    assert "  size: at most 3840x2160 (out_of_range)\n" in result.stderr
    assert "  stepz: painter-1 takes no such field (not_supported)\n" in result.stderr
    assert "req_1" in result.stderr


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"[]", b'{"data": 1}', b"\xff\xfe"])
def test_something_else_at_the_address_is_said(server: FakeServer, body: bytes) -> None:
    server.on("GET", "/api/images/tasks", (200, {"Content-Type": "text/html"}, body))
    result = run(server, "tasks")
    assert result.exit_code == 3
    assert result.stderr.startswith("darkroom: bad_answer")
    assert "welcome" not in result.stderr


def test_a_redirect_is_not_followed_with_the_key(server: FakeServer) -> None:
    server.on("GET", "/api/quota", (302, {"Location": f"{server.url}/elsewhere"}, b""))
    assert run(server, "quota").exit_code == 3
    assert [seen.path for seen in server.seen] == ["/api/quota"]


def test_an_image_in_a_bucket_is_fetched_from_there_without_the_key(server: FakeServer, place: Path) -> None:
    server.finished_job(png())
    with serving(FakeServer()) as bucket:
        bucket.on("GET", "/pictures/a.png", (200, {}, png()))
        link = (302, {"Location": f"{bucket.url}/pictures/a.png?X-Amz-Signature=abc"}, b"")
        server.on("GET", f"/api/images/tasks/{JOB}/image", link)
        assert run(server, "generate", "a fox", "-o", "fox.png").exit_code == 0
        [asked] = bucket.seen
    assert (place / "fox.png").read_bytes() == png()
    assert "Authorization" not in asked.headers
    assert asked.query == {"X-Amz-Signature": "abc"}


def test_a_server_that_is_away_is_said_at_once() -> None:
    result = run(UNUSED_PORT_URL, "generate", "a fox")
    assert result.exit_code == 3
    assert "Connection refused" in result.stderr and "darkroom up" in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://user:pw@host", "http://h:x"])
def test_a_bad_address_is_a_usage_error(url: str) -> None:
    result = run(url, "quota")
    assert (result.exit_code, "pw" in result.stderr) == (2, False)


def test_a_key_that_fits_no_header_is_not_repeated(server: FakeServer) -> None:
    result = CliRunner().invoke(main, ["quota", "--server", server.url, "--key", "dk_x_geh\neim"])
    assert (result.exit_code, server.seen) == (2, [])
    assert "geh" not in result.output


def test_an_unanswered_order_is_repeated_under_the_same_key(server: FakeServer) -> None:
    server.finished_job(png())
    accepted = server.routes[("POST", "/api/images/generate")][0]
    server.on("POST", "/api/images/generate", None, problem(503, "database_unavailable", "away"), accepted)
    assert run(server, "generate", "a fox", "--no-wait").exit_code == 0
    keys = {seen.headers["Idempotency-Key"] for seen in server.asked("POST", "/api/images/generate")}
    assert (len(keys), len(server.asked("POST", "/api/images/generate"))) == (1, 3)


def test_an_order_never_answered_says_how_to_repeat_it(server: FakeServer) -> None:
    server.on("POST", "/api/images/generate", None)
    result = run(server, "generate", "a fox", "--idempotency-key", "mine-1")
    assert result.exit_code == 3
    assert "--idempotency-key mine-1" in result.stderr


# --- watching ----------------------------------------------------------------------------------------


def test_watch_json_prints_a_line_per_change(server: FakeServer) -> None:
    server.job(task(), task("running", progress=0.5), task("running", progress=0.5), task("succeeded"))
    result = run(server, "watch", JOB, "--json")
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == [
        "queued",
        "running",
        "succeeded",
    ]


def test_a_server_away_in_between_is_waited_for(server: FakeServer) -> None:
    server.job(task("running"))
    away = problem(503, "database_unavailable", "the database is away")
    path = f"/api/images/tasks/{JOB}"
    server.on("GET", path, task("running"), away, None, task("succeeded"))
    result = run(server, "watch", JOB)
    assert result.exit_code == 0
    assert "trying again" in result.stderr and f"{JOB}  succeeded" in result.stdout


def test_a_server_that_stays_away_ends_the_watch(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PATIENCE_S", 0.0)
    server.on("GET", f"/api/images/tasks/{JOB}", task("running"), None)
    result = run(server, "watch", JOB)
    assert result.exit_code == 3
    assert f"The job goes on: darkroom watch {JOB}" in result.stderr


def test_unchanged_answers_are_asked_for_by_etag(server: FakeServer) -> None:
    path = f"/api/images/tasks/{JOB}"
    running = (200, {"ETag": '"v1"'}, json.dumps(task("running")).encode())
    server.on("GET", path, task("running"), running, (304, {}, b""), task("succeeded"))
    assert run(server, "watch", JOB).exit_code == 0
    assert [seen.headers["If-None-Match"] for seen in server.asked("GET", path)][-2:] == ['"v1"', '"v1"']


def start(server: FakeServer, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
    # What a shell starts in the background ignores SIGINT, and so do the children of such a test run.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from app.cli import main; main()"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(HERE), "TERM": "xterm"}
    command = [sys.executable, "-c", code, *arguments, "--server", server.url, "--key", KEY]
    return subprocess.Popen(command, env=environ, **popen)


def test_ctrl_c_says_how_to_watch_or_cancel_later(server: FakeServer) -> None:
    server.job(task("running"))
    server.go_on.clear()
    process = start(server, "generate", "a fox", stderr=subprocess.PIPE)
    assert server.waiting.wait(HUNG_S)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=HUNG_S)
    assert process.returncode == 130
    assert f"darkroom watch {JOB}".encode() in stderr and f"darkroom cancel {JOB}".encode() in stderr
    assert b"Traceback" not in stderr


def test_a_terminal_gets_a_bar(server: FakeServer) -> None:
    step = "upscaling \x1b]0;owned\x07"
    server.job(task("running", progress=0.4, step=step), task("succeeded"))
    server.go_on.clear()
    ours, theirs = pty.openpty()
    process = start(server, "watch", JOB, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = read_until(ours, b"upscaling")
    server.go_on.set()
    shown += read_until(ours, None)
    assert process.wait(HUNG_S) == 0
    assert b"running 40%, upscaling" in shown and b"0:00:0" in shown
    assert b"\x1b]0;owned" not in shown
    assert f"{JOB}  succeeded".encode() in shown


def read_until(descriptor: int, words: bytes | None) -> bytes:
    """What a terminal shows until these words or, without any, until it is closed."""
    shown = b""
    while words is None or words not in shown:
        assert select.select([descriptor], [], [], HUNG_S)[0], shown
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:  # Linux: the other side is closed
            break
        if not chunk:
            break
        shown += chunk
    return shown


# --- lists and facts ---------------------------------------------------------------------------------


def test_tasks_lists_and_pages(server: FakeServer) -> None:
    rows = [task("succeeded", request={"prompt": "a \x1b[31mfox\nin snow"}), task("running", progress=0.25)]
    server.on("GET", "/api/images/tasks", {"data": rows, "next_cursor": "job_next"})
    flags = ["--status", "succeeded", "--metadata", "shoot=12", "--limit", "2"]
    result = run(server, "tasks", *flags)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout and "running 25%" in result.stdout
    assert "--cursor job_next" in result.stderr
    assert server.seen[0].query == {"status": "succeeded", "metadata.shoot": "12", "limit": "2"}


def test_show_keeps_escapes_from_the_terminal(server: FakeServer) -> None:
    server.on("GET", f"/api/images/tasks/{JOB}", task(model="\x1b]0;owned\x07"))
    assert "\x1b" not in run(server, "show", JOB).stdout


def test_show_tells_the_whole_task(server: FakeServer) -> None:
    server.on("GET", f"/api/images/tasks/{JOB}", task("succeeded", images=[image_facts(png())]))
    result = run(server, "show", JOB)
    for words in ("painter-1", "a fox", "captured 5.3", image_facts(png())["sha256"]):
        assert words in result.stdout


@pytest.mark.parametrize("bad", ["../../admin", "job 1", "job_1?x=1", "jöb"])
def test_an_id_that_is_none_is_not_sent(server: FakeServer, bad: str) -> None:
    assert (run(server, "show", bad).exit_code, server.seen) == (2, [])


@pytest.mark.parametrize(("outcome", "exit_code"), [("freed_in_queue", 0), ("stop_requested", 0), ("too_late", 1)])
def test_cancel_prints_the_outcome(server: FakeServer, outcome: str, exit_code: int) -> None:
    server.on("POST", f"/api/images/tasks/{JOB}/cancel", {"outcome": outcome, "task": task()})
    result = run(server, "cancel", JOB)
    assert (result.exit_code, result.stdout) == (exit_code, f"{JOB}  {outcome}\n")


def test_models_lists_and_filters(server: FakeServer) -> None:
    model = {"id": "painter-1", "provider": "openai", "operations": ["generate", "edit"]}
    listed = {**model, "name": "Painter", "configured": False, "price": {"unit": "5.3"}}
    server.on("GET", "/api/models", {"data": [listed]})
    result = run(server, "models", "--operation", "edit", "--max-price", "6")
    assert "generate, edit" in result.stdout and "5.3" in result.stdout and "not configured" in result.stdout
    assert server.seen[0].query == {"operation": "edit", "max_price": "6"}


def test_models_passes_every_filter_on(server: FakeServer) -> None:
    gone = {"id": "painter-0", "provider": "openai", "operations": [], "status": "shutdown", "configured": False}
    server.on("GET", "/api/models", {"data": [gone]})
    result = run(server, "models", "--status", "all", "--capability", "typography", "--configured")
    assert "shutdown, not configured" in result.stdout
    assert server.seen[0].query == {"status": "all", "capability": "typography", "configured": "true"}
    assert run(server, "models", "painter-0", "--configured").exit_code == 2


def test_models_says_until_when_a_model_answers(server: FakeServer) -> None:
    going = {"id": "painter-0", "provider": "openai", "operations": [], "status": "retiring"}
    server.on("GET", "/api/models", {"data": [{**going, "retires_on": "2027-03-15"}, {**going, "id": "painter-9"}]})
    lines = [line.rstrip() for line in run(server, "models").stdout.splitlines()]
    assert next(line for line in lines if "painter-0" in line).endswith("retiring on 2027-03-15")
    assert next(line for line in lines if "painter-9" in line).endswith("retiring")


def test_models_shows_each_price_that_depends_on_settings_on_one_line(server: FakeServer) -> None:
    tiers = [
        {"when": {"quality": "high", "size": "1024x1024"}, "unit_microcredits": 21_100_000, "add_microcredits": None},
        {"when": {"upscale": True}, "unit_microcredits": None, "add_microcredits": 500_000},
    ]
    server.on("GET", "/api/models/painter-1", {"id": "painter-1", "tiers": tiers})
    lines = [line.split() for line in run(server, "models", "painter-1").stdout.splitlines()]
    assert ["tiers.quality", "high,", "size", "1024x1024", "21.1"] in lines
    assert ["tiers.upscale", "True", "+0.5"] in lines


def test_models_recommends_with_reasons(server: FakeServer) -> None:
    model = {"id": "painter-1", "provider": "openai", "operations": ["edit"], "price": {"unit": "5.3"}}
    reasons = [{"code": "cheapest", "message": "least price of 3"}, {"code": "takes_mask", "message": "takes a mask"}]
    server.on("GET", "/api/models/recommend", {"data": [{"model": model, "reasons": reasons}]})
    result = run(server, "models", "--recommend", "--operation", "edit")
    for words in ("painter-1", "5.3", "least price of 3", "takes a mask"):
        assert words in result.stdout
    assert server.seen[0].query == {"operation": "edit"}
    assert run(server, "models", "--recommend").exit_code == 2


def test_models_shows_the_limits_of_one(server: FakeServer) -> None:
    limits = {"limits": {"n": {"max": 4}}, "orders": {"generate": {}}, "capabilities": ["mask", "seed"]}
    server.on("GET", "/api/models/black-forest/flux", {"id": "flux", **limits})
    result = run(server, "models", "black-forest/flux")
    assert "limits.n.max" in result.stdout and "mask, seed" in result.stdout
    assert "orders" not in result.stdout


def test_quota_shows_balance_and_ledger(server: FakeServer) -> None:
    amounts = {"available_microcredits": 5_300_000, "spendable_microcredits": 1, "queued_microcredits": 0}
    limits = [
        {"name": "account", "requests": 600, "window_s": 60},
        {"name": "key-in-flight", "unit": "concurrent-requests", "limit": 5, "window_s": None},
        {"name": "key-images", "unit": "images", "limit": 20, "window_s": 60},
        {"name": "key-day", "unit": "microcredits", "limit": 7_500_000, "window_s": None},
    ]
    server.on("GET", "/api/quota", {**amounts, "held_microcredits": 0, "limits": limits})
    result = run(server, "quota")
    assert "available  5.3 credits" in result.stdout and "spendable  0.000001 credits" in result.stdout
    for words in ("account: 600 in 60 s", "flight: 5 jobs at once", "images: 20 images in 60 s", "day: 7.5 credits"):
        assert words in result.stdout
    entry = {"id": 9, "kind": "hold", "source": "acct:available", "target": "acct:held", "task_id": JOB}
    page = {"data": [{**entry, "amount_microcredits": 5_300_000, "amount": "5.3"}], "next_cursor": 9}
    server.on("GET", "/api/quota/ledger", page)
    ledger = run(server, "quota", "--ledger")
    assert "hold" in ledger.stdout and "5.3" in ledger.stdout and "--cursor 9" in ledger.stderr


# --- enhance -----------------------------------------------------------------------------------------


def test_enhance_streams_text_without_escapes(server: FakeServer) -> None:
    pieces = [("delta", '{"text": "A fox "}'), ("delta", '{"text": "\\u001b[2Jasleep"}'), ("done", "{}")]
    server.on("POST", "/api/prompts/enhance", events(*pieces))
    result = run(server, "enhance", "a fox", "--mode", "creative")
    assert (result.exit_code, result.stdout) == (0, "A fox \ufffd[2Jasleep\n")
    assert server.seen[0].json == {"prompt": "a fox", "mode": "creative"}
    lines = run(server, "enhance", "a fox", "--json").stdout.splitlines()
    assert json.loads(lines[0]) == {"delta": "A fox "}
    assert json.loads(lines[-1]) == {"done": True, "text": "A fox \x1b[2Jasleep"}


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (("error", '{"code": "upstream_failed", "detail": "it broke"}'), "upstream_failed"),
        (None, "stream_broken"),
    ],
)
def test_an_enhancement_that_breaks_off_is_no_success(
    server: FakeServer, end: tuple[str, str] | None, code: str
) -> None:
    pieces = [("delta", '{"delta": "A fox"}'), *([end] if end else [])]
    server.on("POST", "/api/prompts/enhance", events(*pieces))
    result = run(server, "enhance", "a fox")
    assert (result.exit_code, result.stdout) == (1, "A fox\n")
    assert code in result.stderr


# --- whose server, which key -------------------------------------------------------------------------


def test_the_admin_key_of_this_machine_goes_to_this_machine_only(
    server: FakeServer, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_VAR", str(place))
    (place / "admin.key").write_text("dk_admin_secret\n")
    server.on("GET", "/api/quota", {})
    CliRunner().invoke(main, ["quota", "--server", server.url])
    assert server.seen[-1].headers["Authorization"] == "Bearer dk_admin_secret"
    monkeypatch.setattr(options, "is_this_machine", lambda _: False)
    CliRunner().invoke(main, ["quota", "--server", server.url])
    assert server.seen[-1].headers["Authorization"] is None


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://[::1]:8000", True),
        ("http://localhost", True),
        ("http://127.0.0.1.evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://10.0.0.1", False),
    ],
)
def test_this_machine_is_told_from_others(url: str, here: bool) -> None:
    assert address.is_this_machine(url) is here


def test_a_netrc_does_not_replace_the_key(server: FakeServer, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(place / "netrc"))
    monkeypatch.setattr(client_module, "is_this_machine", lambda _: False)
    server.on("GET", "/api/quota", {})
    run(server, "quota")
    assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"


# --- demo against a running service ------------------------------------------------------------------


def timeline() -> dict[str, Any]:
    steps = [
        {"seq": 1, "type": "queued", "data": {}},
        {
            "seq": 2,
            "type": "started",
            "data": {"attempt": 1, "provider": "chatgpt2api", "microcredits": 5_300_000},
        },
        {"seq": 3, "type": "odd", "data": {"why": "new"}},
        {"seq": 4, "type": "succeeded", "data": {}},
    ]
    return {"data": steps}


def ledger(*kinds: str) -> dict[str, Any]:
    entries = [{"kind": kind, "task_id": JOB, "amount_microcredits": 5_300_000} for kind in kinds]
    return {"data": entries, "next_cursor": None}


@pytest.fixture
def demo_server(server: FakeServer, place: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    monkeypatch.setenv("DARKROOM_VAR", str(place / "var"))
    server.finished_job(png())
    server.on("GET", f"/api/images/tasks/{JOB}/timeline", timeline())
    server.on("GET", "/api/quota/ledger", ledger("capture", "hold"))
    return server


def test_demo_tells_each_step_once_and_ends_with_the_image(demo_server: FakeServer) -> None:
    result = run(demo_server, "demo", "--size", "64x64")
    assert result.exit_code == 0, result.stderr
    for words in (
        "a worker took it and held the credits (5.3 credits, chatgpt2api, attempt 1)",
        "odd why=new",
        "ledger: capture 5.3",
    ):
        assert result.stdout.count(words) == 1
    last = result.stdout.splitlines()[-1]
    path = Path(last.removeprefix("image: ").partition(" (")[0])
    assert last.endswith("(64x64, 1 kB)") and path.is_absolute() and path.read_bytes() == png()


def test_demo_fails_on_an_image_of_another_size(demo_server: FakeServer) -> None:
    result = run(demo_server, "demo", "--size", "64x65")
    assert result.exit_code == 1
    assert "demo_wrong_size" in result.stderr and "image:" not in result.stdout


def test_demo_fails_when_the_ledger_does_not_show_the_price(demo_server: FakeServer) -> None:
    demo_server.on("GET", "/api/quota/ledger", ledger("hold"))
    result = run(demo_server, "demo", "--size", "64x64")
    assert result.exit_code == 1
    assert "demo_unbalanced" in result.stderr


@pytest.mark.parametrize("data", [b"", png()[:60], b"\xff\xd8\xff\xe0 jpeg"])
def test_demo_wants_a_whole_png(place: Path, data: bytes) -> None:
    (place / "a.png").write_bytes(data)
    with pytest.raises(CommandError, match="not a valid PNG"):
        demo_module.check_png(place / "a.png", (64, 64))


# --- any task, any operation ---------------------------------------------------------------------------


def shapes_of(schema: dict[str, Any], spec: dict[str, Any], *, least: bool) -> Any:
    """A value of a JSON Schema: with ``least`` null and empty wherever that is allowed, else filled in."""
    if "$ref" in spec:
        return shapes_of(schema, schema["$defs"][spec["$ref"].rpartition("/")[2]], least=least)
    if "anyOf" in spec:
        kinds = sorted(spec["anyOf"], key=lambda each: (each.get("type") == "null") != least)
        return shapes_of(schema, kinds[0], least=least)
    if "const" in spec or "enum" in spec:
        return spec.get("const", (spec.get("enum") or [None])[0])
    if spec.get("type") == "object":
        names = spec.get("required", []) if least else spec.get("properties", {})
        return {name: shapes_of(schema, spec["properties"][name], least=least) for name in names}
    if spec.get("type") == "array":
        return [shapes_of(schema, spec["items"], least=least)]
    text = "2026-11-20T12:00:00.000Z" if spec.get("format") == "date-time" else "abc"
    return {"integer": 3, "number": 0.5, "boolean": not least, "string": text}.get(str(spec.get("type")))


@pytest.mark.parametrize("least", [True, False])
def test_every_task_of_the_api_document_can_be_shown(server: FakeServer, least: bool) -> None:
    """The document says what may be null; a caption and a 3D file have no width."""
    schema = TaskOut.model_json_schema(mode="serialization")
    document = {**shapes_of(schema, schema, least=least), "id": JOB}
    images = [each["width"] for each in document["images"]]
    assert images == ([None] if least else [3])
    server.on("GET", f"/api/images/tasks/{JOB}", {**document, "status": "succeeded"})
    server.on("GET", "/api/images/tasks", {"object": "list", "data": [document], "next_cursor": None})
    for command in (["show", JOB], ["watch", JOB], ["tasks"]):
        found = run(server, *command)
        assert found.exit_code == 0, found.output
        assert JOB in found.stdout


def text_facts(data: bytes, mime: str, text: str | None = None) -> dict[str, Any]:
    facts = {"index": 0, "mime": mime, "width": None, "height": None, "text": text}
    return {**facts, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_a_task_that_cannot_be_read_does_not_hide_the_others(server: FakeServer) -> None:
    broken = {**task(), "images": [{"index": "zero"}], "id": "job_broken"}
    server.on("GET", "/api/images/tasks", {"data": [broken, task()], "next_cursor": None})
    found = run(server, "tasks")
    assert found.exit_code == 0
    assert "job_broken" in found.stdout
    assert JOB in found.stdout


def test_run_orders_any_operation_with_its_fields_and_files(server: FakeServer, place: Path) -> None:
    words = b"a fox under a tree"
    ended = task("succeeded", operation="caption", images=[text_facts(words, "text/plain", words.decode())])
    server.job(ended, sample_images=(words,))
    server.on("POST", "/api/images/face-swap", (202, {}, json.dumps(ended).encode()))
    (place / "a.png").write_bytes(png())
    found = run(server, "run", "face-swap", "strength=0.5", "prompt=a hat", "-i", "a.png", "--face", "a.png", "-n", "2")
    assert found.exit_code == 0, found.output
    assert "a fox under a tree" in found.stdout
    assert (place / f"{JOB}-0.txt").read_bytes() == words
    [sent] = server.asked("POST", "/api/images/face-swap")
    parts = sent.parts()
    assert sorted(parts) == ["face", "image", "n", "prompt", "strength"]
    assert parts["strength"] == [b"0.5"]


def test_run_knows_every_operation_of_the_api() -> None:
    assert tuple(OPERATIONS) == RUN_OPERATIONS


def test_run_wants_a_field_once(server: FakeServer) -> None:
    for twice in (["n=1", "n=2"], ["seed=1", "--seed", "2"]):
        assert run(server, "run", "generate", *twice).exit_code == 2
    assert server.seen == []


def test_a_result_without_pixels_has_the_right_suffix(server: FakeServer, place: Path) -> None:
    mesh = b"glTF mesh"
    server.job(task("succeeded", images=[text_facts(mesh, "model/gltf-binary")]), sample_images=(mesh,))
    assert run(server, "generate", "a chair").exit_code == 0
    assert names_in(place) == [f"{JOB}-0.glb"]


def test_a_name_of_another_type_has_the_image_converted(server: FakeServer, place: Path) -> None:
    kept, converted = png(), b"\xff\xd8\xff jpeg of another size"
    server.finished_job(kept)
    answers = {None: kept, "jpeg": converted}
    server.on("GET", f"/api/images/tasks/{JOB}/image", lambda seen: (200, {}, answers[seen.query.get("format")]))
    found = run(server, "generate", "a fox", "-o", "fox.jpg")
    assert found.exit_code == 0, found.output
    assert (place / "fox.jpg").read_bytes() == converted
    assert "converted" in found.stderr
    assert run(server, "generate", "a fox", "-o", "fox.png").exit_code == 0
    assert (place / "fox.png").read_bytes() == kept


def test_an_image_that_is_gone_is_not_promised_again(server: FakeServer) -> None:
    server.finished_job(png())
    server.on("GET", f"/api/images/tasks/{JOB}/image", problem(410, "image_gone", "its time is over"))
    found = run(server, "watch", JOB, "-o", "fox.png")
    assert found.exit_code == 1
    assert "fetches it" not in found.stderr


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "/proc/fox.png", "file/fox.png"])
def test_a_name_that_cannot_be_written_is_a_usage_error(server: FakeServer, place: Path, name: str) -> None:
    (place / "file").write_bytes(b"no folder")
    found = run(server, "generate", "a fox", "-o", name)
    assert found.exit_code == 2, found.output
    assert server.seen == []


def test_an_empty_key_is_not_replaced_by_the_admins(server: FakeServer, place: Path) -> None:
    server.on("GET", "/api/quota", {})
    (place / "var").mkdir()
    (place / "var" / "admin.key").write_text("dk_admin_secret")
    CliRunner().invoke(main, ["quota", "--server", server.url, "--key", ""])
    CliRunner().invoke(main, ["quota", "--server", server.url])
    assert [seen.headers.get("Authorization") for seen in server.seen] == [None, "Bearer dk_admin_secret"]


def test_the_service_that_runs_here_is_found_whatever_its_port(server: FakeServer, place: Path) -> None:
    server.on("GET", "/api/quota", {})
    (place / "var" / "run").mkdir(parents=True)
    (place / "var" / "run" / "urls.json").write_text(json.dumps({"api_url": server.url}))
    assert CliRunner().invoke(main, ["quota"]).exit_code == 0
    assert len(server.seen) == 1


def test_models_shows_what_may_be_set_as_a_table(server: FakeServer) -> None:
    size = {"type": "string", "enum": ["1K", "2K"], "default": "1K"}
    steps = {"type": "integer", "minimum": 1, "maximum": 50}
    orders = {
        "generate": {"properties": {"size": size, "steps": steps}},
        "edit": {"properties": {"size": size, "images": {"type": "array", "minItems": 1, "maxItems": 4}},
                 "required": ["images"]},
    }  # fmt: skip
    server.on("GET", "/api/models/painter", {"id": "painter", "orders": orders})
    lines = [" ".join(line.split()) for line in run(server, "models", "painter").stdout.splitlines()]
    assert "size 1K | 2K 1K" in lines
    assert "steps 1 to 50 generate" in lines
    assert "images* a list of 1 to 4 edit" in lines


def test_models_leaves_out_what_is_empty(server: FakeServer) -> None:
    server.on(
        "GET", "/api/models/painter", {"id": "painter", "warnings": [], "inputs": {"fields": []}, "also": ["auto"]}
    )
    assert run(server, "models", "painter").stdout.split() == ["id", "painter", "also", "auto"]


def test_a_file_to_send_that_is_no_image_is_told_before_anything_is_sent(server: FakeServer, place: Path) -> None:
    (place / "notes.txt").write_text("words")
    refused = run(server, "run", "upscale", "-i", "notes.txt")
    assert (refused.exit_code, server.seen) == (2, [])
    assert "not_an_image: notes.txt is not a PNG" in refused.stderr


def test_rerun_places_the_order_again_with_what_was_changed(server: FakeServer, place: Path) -> None:
    server.finished_job(png())
    server.on("POST", f"/api/images/tasks/{JOB}/rerun", ok(task("queued")))
    found = run(server, "rerun", JOB, "prompt=at night", "seed=null", "-o", "night.png")
    assert found.exit_code == 0, found.output
    assert (place / "night.png").read_bytes() == png()
    [sent] = server.asked("POST", f"/api/images/tasks/{JOB}/rerun")
    assert json.loads(sent.body) == {"prompt": "at night", "seed": None}
    assert sent.headers["Idempotency-Key"].startswith("cli-")
    assert run(server, "rerun", JOB, "n=1", "n=2").exit_code == 2


def test_an_upload_goes_by_its_id(server: FakeServer) -> None:
    server.finished_job(png())
    server.on("POST", "/api/images/edit", ok(task("queued")))
    upload = "upl_01M80P7MCJFVXDXW6B0M82E9GZ"
    found = run(server, "edit", "at night", "-i", upload, "--no-wait")
    assert found.exit_code == 0, found.output
    [sent] = server.asked("POST", "/api/images/edit")
    assert sent.parts()["image"] == [upload.encode()]
