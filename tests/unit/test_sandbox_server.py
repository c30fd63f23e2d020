"""The sandbox as a process: the official client talks to it, sockets are cut for real, a stop is quick."""

import base64
import contextlib
import http.client
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import openai
import pytest
from PIL import Image

from sandbox.testing import running_sandbox


@pytest.fixture(scope="module")
def sandbox():
    with running_sandbox(prepared=True, chat_delta_s=0) as running:
        yield running


@pytest.fixture
def client(sandbox):
    sandbox.reset()
    return openai.OpenAI(api_key="sk-any", base_url=sandbox.openai_url, max_retries=0, timeout=5)


def png(size=(64, 48)):
    out = io.BytesIO()
    Image.new("RGB", size, "navy").save(out, "PNG")
    return ("a.png", out.getvalue(), "image/png")


def generate(client, prompt="a red kite", **fields):
    return client.images.generate(model="gpt-image-2", prompt=prompt, size="1024x640", **fields)


def raw_submit(sandbox, prompt, *, read=True):
    """A submit over a bare socket, to see what really comes back."""
    body = f'{{"client_task_id": "raw", "prompt": "{prompt}"}}'.encode()
    host, port = sandbox.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=5)
    head = (
        "POST /c2a/api/image-tasks/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    if not read:
        return connection
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_the_front_page_says_where_each_emulator_is_and_how_to_come_to_it(sandbox):
    with urllib.request.urlopen(f"{sandbox.url}/", timeout=5) as answer:  # noqa: S310
        page = json.load(answer)
    assert page["sandbox"]["flux"] == sandbox.base_url("flux") == sandbox.flux_url
    assert sandbox.environ("flux", key="sandbox") == {"BFL_API_BASE": sandbox.flux_url, "BFL_API_KEY": "sandbox"}
    assert sandbox.environ("flux", key="sandbox").items() <= page["environ"].items()


def test_the_official_client_generates_edits_and_lists(client):
    made = generate(client, n=2)
    assert Image.open(io.BytesIO(base64.b64decode(made.data[1].b64_json))).size == (1024, 640)
    edited = client.images.edit(model="gpt-image-2", prompt="snow", image=[png(), png()])
    assert edited.size == "64x48"
    assert "gpt-image-2" in [model.id for model in client.models.list()]


def test_the_official_client_reads_both_streams(client):
    seen = [event.type for event in generate(client, stream=True, partial_images=1)]
    assert seen == ["image_generation.partial_image", "image_generation.completed"]
    messages = [{"role": "user", "content": "a red kite [sandbox:split, crlf, comments]"}]
    chunks = client.chat.completions.create(model="gpt-4.1-mini", messages=messages, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.startswith("a red kite, ") and "–" in text


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("x [sandbox:refuse]", openai.BadRequestError),
        ("x [sandbox:429]", openai.RateLimitError),
        ("x [sandbox:quota]", openai.RateLimitError),
        ("x [sandbox:500]", openai.InternalServerError),
        ("x [sandbox:timeout]", openai.InternalServerError),
        ("x [sandbox:drop]", openai.APIConnectionError),
        ("x [sandbox:drop=reset]", openai.APIConnectionError),
        ("x [sandbox:cut]", openai.APIConnectionError),
    ],
)
def test_the_official_client_knows_our_errors(client, prompt, kind):
    with pytest.raises(kind):
        generate(client, prompt)


def test_the_official_client_retries_as_told(client, sandbox):
    retrying = client.with_options(max_retries=2)
    assert generate(retrying, "x [sandbox:429 retry_after_ms=10 times=1]").data
    assert (sandbox.counts()["openai"]["submits"], sandbox.counts()["openai"]["accepted"]) == (2, 1)


def test_a_drop_says_nothing_at_all_and_the_task_lives(client, sandbox):
    assert raw_submit(sandbox, "x [sandbox:drop]") == b""
    with pytest.raises(ConnectionResetError):
        raw_submit(sandbox, "x [sandbox:drop=reset]")
    assert sandbox.counts()["chatgpt2api"]["accepted_by_key"] == {"raw": 1}


def test_lies_about_length_and_slow_heads_reach_the_wire(client, sandbox):
    head, _, body = raw_submit(sandbox, "x [sandbox:length_lie=77]").partition(b"\r\n\r\n")
    promised = next(int(line[15:]) for line in head.splitlines() if line.lower().startswith(b"content-length"))
    assert promised == len(body) + 77
    connection = raw_submit(sandbox, "x [sandbox:slow_header=0.01]", read=False)
    with connection:
        assert connection.recv(1) == b"H"


def test_a_hanging_call_is_in_flight_until_its_caller_leaves(client, sandbox):
    connection = raw_submit(sandbox, "x [sandbox:hang]", read=False)
    assert eventually(lambda: in_flight(sandbox) == 1)
    connection.close()
    assert eventually(lambda: in_flight(sandbox) == 0)


def in_flight(sandbox):
    return sandbox.counts(keys=False).get("chatgpt2api", {}).get("in_flight")


def eventually(condition, within_s=5.0):
    """Ask again and again: the other process has its own pace."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
    return True


def test_calls_at_the_same_time_are_counted_as_such(client, sandbox):
    threads = [threading.Thread(target=generate, args=(client, f"job {n} [sandbox:latency=0.5]")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sandbox.counts()["openai"]["in_flight_max"] == 4


def test_control_over_http(client, sandbox):
    rule = sandbox.add_fault("429 retry_after=2", provider="openai", route="submit", count=1)
    with pytest.raises(openai.RateLimitError):
        generate(client)
    assert generate(client).data
    assert rule["faults"] == "429 retry_after=2"
    sandbox.clear_faults()
    assert sandbox.requests("openai")[-1]["fields"]["size"] == "1024x640"
    assert "sk-any" not in str(sandbox.requests("openai"))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/control/faults", b'{"faults": "explode"}'),
        ("POST", "/control/faults", b'{"faults": ""}'),
        ("POST", "/control/faults", b'{"faults": "500", "route": "lunch"}'),
        ("POST", "/control/faults", b'{"faults": "bomb", "route": "download"}'),
        ("POST", "/control/faults", b'{"faults": "500", "sometimes": 1}'),
        ("PUT", "/control/settings", b'{"speed": 3}'),
        ("PUT", "/control/settings", b'{"latency_s": "fast"}'),
        ("PUT", "/control/settings", b"[]"),
        ("POST", "/control/clock", b"{}"),
    ],
)
def test_a_senseless_control_request_is_refused(sandbox, method, path, body):
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{sandbox.url}{path}", data=body, method=method, headers=headers)  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=5)  # noqa: S310
    assert refused.value.code == 400


def test_it_stops_within_a_second_whatever_hangs():
    with running_sandbox() as running:
        connection = raw_submit(running, "x [sandbox:hang]", read=False)
        assert eventually(lambda: in_flight(running) == 1)
        asked_at = time.monotonic()
    assert time.monotonic() - asked_at < 2.0  # One second, and room for a busy machine.
    connection.close()


def ask(sandbox, method, path, headers, document=None):
    with contextlib.closing(http.client.HTTPConnection(sandbox.url.removeprefix("http://"), timeout=5)) as connection:
        body = None if document is None else json.dumps(document)
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        return json.loads(connection.getresponse().read())


def test_a_request_shows_which_credentials_it_carried_and_never_their_value(sandbox):
    sandbox.reset()
    headers = {"Authorization": "Bearer sk-secret", "X-Goog-Api-Key": "sk-secret", "Cookie": "a=sk-secret"}
    for path in ("/openai/v1/models?key=sk-secret&page=2", "/no-one/is/here?access_token=sk-secret"):
        ask(sandbox, "GET", path, {**headers, "Idempotency-Key": "one"})
    seen = sandbox.requests()
    assert [set(each["credentials"]) for each in seen] == [{*headers, "key"}, {*headers, "access_token"}]
    assert (seen[0]["query"], seen[1]["provider"], seen[1]["status"]) == ({"page": "2"}, None, 404)
    assert "sk-secret" not in repr(seen)


def test_link_host_leads_every_link_of_an_answer_elsewhere(sandbox):
    sandbox.reset()
    key, prompt = {"Authorization": "Bearer k"}, "a red kite [sandbox:link_host=http://other.test at=check]"
    ask(sandbox, "POST", "/c2a/api/image-tasks/generations", key, {"client_task_id": "far", "prompt": prompt})
    [task] = ask(sandbox, "GET", "/c2a/api/image-tasks?ids=far", key)["items"]
    assert task["data"][0]["url"].startswith("http://other.test/c2a/images/")


def test_answers_on_a_kept_connection_do_not_wait_for_an_acknowledgement(sandbox):
    took_s = []
    with contextlib.closing(http.client.HTTPConnection(sandbox.url.removeprefix("http://"), timeout=5)) as connection:
        for _ in range(20):
            begun_s = time.perf_counter()
            connection.request("GET", "/control/health")
            connection.getresponse().read()
            took_s.append(time.perf_counter() - begun_s)
    assert min(took_s[5:]) < 0.03  # delayed ones come after 0.04 s
