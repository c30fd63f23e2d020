"""Agents over the Model Context Protocol, by its official client: `darkroom mcp` over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import jwt
import pytest
import requests
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from PIL import Image

from app.cli.agents.caller import owner
from app.cli.agents.jobs import Jobs
from app.cli.agents.tools import build
from app.cli.client.connection import Client as Connection
from core.embedded.ports import free_ports
from tests.client_programs import command_of_this_code
from tests.e2e.conftest import JWT_SECRET, Service, until

ROOT = Path(__file__).resolve().parents[2]
DARKROOM = "import sys; from app.cli import main; sys.argv[0] = 'darkroom'; main()"
EXAMPLE = ROOT / "examples" / "mcp" / "generate.py"
TOOLS = {"generate_image", "edit_image", "upscale", "enhance_prompt", "get_task", "list_models", "estimate"}
# It is asked for twice a second, and has not begun when it is left or killed.
SLOW = "[sandbox:latency=3]"


def key_of(service: Service) -> str:
    return str(service.http.headers["Authorization"]).removeprefix("Bearer ")


def environ_of(service: Service) -> dict[str, str]:
    return {"DARKROOM_API_URL": service.running.url, "DARKROOM_API_KEY": key_of(service), "PYTHONPATH": str(ROOT)}


def over_stdio(service: Service) -> Client:
    return Client(
        StdioServerParameters(command=sys.executable, args=["-c", DARKROOM, "mcp"], env=environ_of(service)),
    )


def in_process(service: Service) -> Client:
    """The same tools without a process, by the handshake that knows messages of cancellation."""
    connect = partial(Connection, service.running.url, key_of(service))
    return Client(build(owner(connect), Jobs(wait_s=50, edge_px=1024)), mode="legacy")


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        with anyio.fail_after(90):
            await scene()

    asyncio.run(limited())


def bought(service: Service, prompt: str) -> int:
    """How many images of a prompt the upstream was asked for."""
    name = sha256(prompt.encode()).hexdigest()[:16]
    return sum(each.get("submits_by_prompt", {}).get(name, 0) for each in service.counts().values())


def tasks_of(service: Service, prompt: str) -> list[dict[str, Any]]:
    listed = service.http.get(service.url("/api/images/tasks?limit=100"), timeout=30).json()["data"]
    return [each for each in listed if each["request"]["prompt"] == prompt]


async def awaited(question: Callable[[], Any], what: str) -> Any:
    return await anyio.to_thread.run_sync(lambda: until(question, 30, what))


def started(service: Service, prompt: str) -> Callable[[], Any]:
    """Asks for the task of a prompt, once its upstream works on it."""
    return lambda: next((each for each in tasks_of(service, prompt) if each["status"] == "running"), None)


def opened(block: Any) -> Image.Image:
    assert block.type == "image", block
    return Image.open(io.BytesIO(base64.b64decode(block.data)))


def test_an_agent_uses_every_tool(service: Service, tmp_path: Path) -> None:
    told: list[tuple[float, str | None]] = []

    async def hear(done: float, total: float | None, message: str | None) -> None:
        told.append((done, message))

    async def scene() -> None:
        async with over_stdio(service) as agent:
            assert {tool.name for tool in (await agent.list_tools()).tools} == TOOLS
            ask = {"prompt": "an agent's fox", "model": "gpt-image-2", "size": "1536x1024", "quality": "low"}
            price = (await agent.call_tool("estimate", {**ask})).structured_content
            made = await agent.call_tool("generate_image", ask, progress_callback=hear)
            task = made.structured_content["task"]
            assert price["price"]["total"] == task["captured_credits"]
            assert_as_the_replaced_service(service, made.structured_content, ask)
            values = [value for value, _ in told]
            assert values == sorted(set(values)) and values[-1] == 1.0, told
            assert [words for _, words in told][:1] == ["queued"] and told[-1][1] == "succeeded"
            # Smaller than the image of the task, whose link leads to the whole one.
            shown, whole = opened(made.content[1]), requests.get(task["images"][0]["url"], timeout=30)
            assert (shown.size, shown.format) == ((1024, 683), "WEBP")
            assert Image.open(io.BytesIO(whole.content)).size == (1536, 1024)
            file = tmp_path / "given.png"
            Image.new("RGB", (64, 64), "orange").save(file)
            changed = await agent.call_tool(
                "edit_image", {"prompt": "blue", "images": [str(file), task["images"][0]["reference"]]}
            )
            assert changed.structured_content["success"], changed
            assert service.task(changed.structured_content["task_id"])["operation"] == "edit"
            larger = await agent.call_tool("upscale", {"image": task["images"][0]["reference"]})
            assert larger.structured_content["success"], larger
            models = (await agent.call_tool("list_models", {"operation": "upscale"})).structured_content["models"]
            assert larger.structured_content["data"]["model"] in {each["id"] for each in models}
            better = (await agent.call_tool("enhance_prompt", {"prompt": "a fox"})).structured_content
            assert len(better["prompt"]) > len("a fox")
            latest = (await agent.call_tool("get_task", {})).structured_content["tasks"]
            assert task["id"] in {each["id"] for each in latest}

    play(scene)


def assert_as_the_replaced_service(service: Service, answer: dict[str, Any], ask: dict[str, Any]) -> None:
    """The members, and every value that does not name the job, are those of ``POST /image/generate``."""
    image = {"model": ask["model"], "width": 1536, "height": 1024, "quality": ask["quality"]}
    body = {"prompt": ask["prompt"], "settings": {"image": image}, "customer_id": 7}
    theirs = service.http.post(service.url("/image/generate"), json=body, timeout=60).json()
    ours = {name: value for name, value in answer.items() if name != "task"}
    for each in (ours, theirs):
        assert each.pop("task_id").startswith("job_")
        assert "signature=" in each["data"].pop("image_url")
    assert ours == theirs


def test_what_is_wrong_is_told_at_once_and_buys_nothing(service: Service) -> None:
    async def scene() -> None:
        async with in_process(service) as agent:
            ask = {"prompt": "", "model": "nope", "n": 50}
            refused = await agent.call_tool("generate_image", ask)
            body = {"prompt": "", "settings": {"image": {"model": "nope"}}, "customer_id": 7}
            theirs = service.http.post(service.url("/image/generate"), json=body, timeout=60).json()
            assert refused.is_error and set(refused.structured_content) == set(theirs)
            assert {each["field"] for each in refused.structured_content["errors"]} == {"prompt", "model", "n"}
            unknown = await agent.call_tool("generate_image", {"prompt": "x", "negative": "y", "wide": 3})
            assert unknown.is_error and "negative" in unknown.content[0].text and "wide" in unknown.content[0].text
            assert tasks_of(service, "x") == []
            failed = await agent.call_tool("generate_image", {"prompt": "no [sandbox:refuse]"})
            assert failed.is_error and (failed.structured_content["code"], failed.structured_content["error"]) == (
                400,
                "content_refused",
            )

    play(scene)


def test_equal_calls_are_equal_orders_only_where_they_repeat(service: Service) -> None:
    async def ids(agent: Client, **ask: Any) -> str:
        answer = await agent.call_tool("generate_image", {"prompt": "one of several", **ask})
        return str(answer.structured_content["task_id"])

    async def scene() -> None:
        async with in_process(service) as agent:
            made: list[str] = []

            async def one() -> None:
                made.append(await ids(agent))

            async with anyio.create_task_group() as group:
                group.start_soon(one)
                group.start_soon(one)
            made.append(await ids(agent))
            assert len(set(made)) == 3
            named = [await ids(agent, idempotency_key="mine") for _ in range(2)]
            assert len(set(named)) == 1 and named[0] not in made
            # A call that is left waiting has not been answered: the same again joins it.
            slow = {"prompt": f"left {SLOW}"}
            first = await agent.call_tool("generate_image", {**slow, "wait_s": 0})
            assert (first.is_error, first.structured_content["code"]) == (False, 504)
            again = await agent.call_tool("generate_image", slow)
            assert again.structured_content["task"]["replayed"]
            assert again.structured_content["task_id"] == first.structured_content["task_id"]

    play(scene)


def test_a_cancelled_call_cancels_its_job_and_the_same_again_is_another(service: Service) -> None:
    prompt = "cancelled [sandbox:latency=20]"

    async def scene() -> None:
        async with in_process(service) as agent:
            await cancelled_while_running(service, agent, prompt)
            answer = await agent.call_tool("generate_image", {"prompt": prompt, "wait_s": 0})
            assert not answer.structured_content["task"]["replayed"]
            await anyio.to_thread.run_sync(
                lambda: service.http.post(service.url(answer_url(answer.structured_content)), timeout=30)
            )

    play(scene)


def answer_url(answer: dict[str, Any]) -> str:
    return f"/api/images/tasks/{answer['task_id']}/cancel"


async def cancelled_while_running(service: Service, agent: Client, prompt: str) -> None:
    async with anyio.create_task_group() as group:

        async def call() -> None:
            await agent.call_tool("generate_image", {"prompt": prompt})

        group.start_soon(call)
        task = await awaited(started(service, prompt), "the job to run")
        group.cancel_scope.cancel()
    await awaited(lambda: service.task(task["id"])["cancel"], "the job to be asked to stop")


def test_an_agent_that_is_killed_in_the_middle_gets_its_image_and_buys_it_once(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = f"of an agent that dies {SLOW}"
    environ = environ_with_command(service, tmp_path)
    agent = subprocess.Popen(
        [sys.executable, str(EXAMPLE), prompt],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        task = until(started(service, prompt), 30, "the job to run")
        servers = children(agent.pid)
        agent.kill()
        agent.communicate()
        assert servers
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in servers), 30, "the server to end with its agent")
    finally:
        agent.kill()
    monkeypatch.chdir(tmp_path)  # where an agent works is part of who it is

    async def scene() -> None:
        async with in_process(service) as again:
            answer = await again.call_tool("generate_image", {"prompt": prompt})
            assert answer.structured_content["task_id"] == task["id"]
            assert opened(answer.content[1]).size == (1024, 1024)

    play(scene)
    assert_once(service, prompt, task["id"])


def test_a_server_that_is_killed_in_the_middle_loses_no_job(service: Service) -> None:
    prompt = f"of a server that dies {SLOW}"

    async def scene() -> None:
        async with over_stdio(service) as agent, anyio.create_task_group() as group:

            async def call() -> None:
                with pytest.raises(Exception, match=r"[Cc]losed"):
                    await agent.call_tool("generate_image", {"prompt": prompt})

            group.start_soon(call)
            task = await awaited(started(service, prompt), "the job to run")
            await cancelled_while_running(service, agent, "cancelled over stdio [sandbox:latency=20]")
            [server] = children(os.getpid(), "mcp")
            os.kill(server, signal.SIGKILL)
        async with in_process(service) as agent:
            answer = await agent.call_tool("generate_image", {"prompt": prompt})
            assert answer.structured_content["task_id"] == task["id"]
            assert opened(answer.content[1]).size == (1024, 1024)
        assert_once(service, prompt, task["id"])

    play(scene)


def assert_once(service: Service, prompt: str, task_id: str) -> None:
    assert [each["id"] for each in tasks_of(service, prompt)] == [task_id]
    assert bought(service, prompt) == 1
    assert service.task(task_id)["status"] == "succeeded" and service.task(task_id)["cancel"] is None


def children(pid: int, argument: str = "") -> list[int]:
    """The processes that one has started, here by a word of their command line."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    pids = [int(each) for file in found for each in file.read_text().split()]
    words = {each: Path(f"/proc/{each}/cmdline").read_text().split("\0") for each in pids}
    return [each for each, told in words.items() if not argument or argument in told]


def environ_with_command(service: Service, folder: Path) -> dict[str, str]:
    """Of a program that starts ``darkroom``."""
    return {
        "PATH": f"{command_of_this_code(folder)}:{os.environ['PATH']}",
        "HOME": str(folder),
        "DARKROOM_SERVER": service.running.url,
        "DARKROOM_KEY": key_of(service),
    }


# ---------------------------------------------------------------- over HTTP


@pytest.fixture(scope="module")
def http_server(service: Service) -> Iterator[str]:
    """The address of `darkroom mcp --http`, which has no key of its own."""
    [port] = free_ports(1)
    environ = {**os.environ, **environ_of(service), "DARKROOM_API_KEY": "", "DARKROOM_KEY": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", DARKROOM, "mcp", "--http", "--port", str(port)], env=environ, stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        assert b"serving" in process.stderr.readline()
        url = f"http://127.0.0.1:{port}/mcp"
        until(lambda: answers(url), 30, "the server to listen")
        yield url
    finally:
        process.terminate()
        assert process.wait(30) in (0, -signal.SIGTERM)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 401
    except requests.ConnectionError:
        return False


def token_of_another_account() -> str:
    """Of an account that is made with 100 credits when it is first used."""
    return jwt.encode({"sub": "an agent's account", "exp": time.time() + 600}, JWT_SECRET, "HS256")


def over_http(url: str, key: str, *, mode: str = "auto", **headers: str) -> Client:
    http = create_mcp_http_client(headers={"Authorization": f"Bearer {key}", **headers})
    return Client(streamable_http_client(url, http_client=http), mode=mode)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_over_http_each_caller_has_its_own_key(service: Service, http_server: str, mode: str) -> None:
    prompt = f"over HTTP {mode}"
    values: list[float] = []

    async def hear(done: float, total: float | None, message: str | None) -> None:
        values.append(done)

    async def scene() -> None:
        async with over_http(http_server, key_of(service), mode=mode) as agent:
            made = await agent.call_tool("generate_image", {"prompt": prompt}, progress_callback=hear)
            assert made.structured_content["success"] and opened(made.content[1]).size == (1024, 1024)
            assert values[-1] == 1.0 and values == sorted(set(values))
            refused = await agent.call_tool("edit_image", {"prompt": "x", "images": ["/etc/hostname"]})
            assert refused.structured_content["error"] == "no_local_files"
        async with over_http(http_server, "dk_nobody_knowsthis", mode=mode) as stranger:
            answer = await stranger.call_tool("get_task", {"task_id": made.structured_content["task_id"]})
            assert answer.is_error and answer.structured_content["code"] == 401

    play(scene)


def test_over_http_another_account_sees_nothing_and_no_key_is_401(service: Service, http_server: str) -> None:
    ours = service.wait_for("generate", prompt="the admin's own")
    assert requests.post(http_server, json={}, timeout=30).headers["WWW-Authenticate"] == "Bearer"

    async def scene() -> None:
        async with over_http(http_server, token_of_another_account()) as agent:
            answer = await agent.call_tool("get_task", {"task_id": ours["id"]})
            assert (answer.structured_content["code"], answer.structured_content["error"]) == (404, "not_found")
            assert (await agent.call_tool("get_task", {})).structured_content == {"tasks": []}
            dear = {"prompt": "too dear", "model": "gpt-image-2", "quality": "high", "n": 10}
            poor = await agent.call_tool("generate_image", dear)
            assert (poor.structured_content["code"], poor.is_error) == (402, True)

    play(scene)


def test_over_http_a_closed_connection_cancels_only_where_that_was_asked_for(
    service: Service, http_server: str
) -> None:
    async def left(prompt: str, **headers: str) -> str:
        async with over_http(http_server, key_of(service), **headers) as agent, anyio.create_task_group() as group:

            async def call() -> None:
                await agent.call_tool("generate_image", {"prompt": prompt})

            group.start_soon(call)
            task = await awaited(started(service, prompt), "the job to run")
            group.cancel_scope.cancel()
        return str(task["id"])

    async def scene() -> None:
        prompt = f"left over HTTP {SLOW}"
        kept = await left(prompt)
        stopped = await left("stopped over HTTP [sandbox:latency=20]", **{"X-Darkroom-Cancel-On-Disconnect": "true"})
        await awaited(lambda: service.task(stopped)["cancel"], "the job to be asked to stop")
        async with over_http(http_server, key_of(service)) as agent:
            answer = await agent.call_tool("generate_image", {"prompt": prompt})
            assert answer.structured_content["task_id"] == kept
        await anyio.to_thread.run_sync(assert_once, service, prompt, kept)
        # The handshake of before 2026 has a message for it.
        async with over_http(http_server, key_of(service), mode="legacy") as agent:
            await cancelled_while_running(service, agent, "a message cancels [sandbox:latency=20]")

    play(scene)
