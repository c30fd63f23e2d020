"""Speaks to a Darkroom server over HTTP for the commands, and names every way in which that can fail.

The key goes to the requested server and nowhere else: redirects are not followed (except that of an image into its
bucket, without the key), and a ``.netrc`` is not read.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import requests
from urllib3.exceptions import NewConnectionError

from app.cli.client.address import bad_server, checked_key, checked_server, is_this_machine
from app.cli.client.answers import Document, Page, Task, bad_answer, read_page, read_task
from app.cli.client.refusals import refusal
from app.cli.output import CommandError, Exit

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
_TIMEOUT = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
SUBMIT_TRIES = 3
RETRY_WAIT_S = 1.0

T = TypeVar("T")
# What the server sees of one file: (part name, (file name, bytes)).
Parts = Sequence[tuple[str, tuple[str | None, bytes]]]


class Client:
    """One server and one key. Every method raises CommandError, ready to be shown."""

    def __init__(self, server: str, key: str | None = None) -> None:
        self.server = checked_server(server)
        self._key = checked_key(key)
        self._session = requests.Session()
        # A proxy from the environment must not stand between us and our own machine.
        self._session.trust_env = not is_this_machine(self.server)
        # An auth callable also keeps requests from replacing our header by an entry of .netrc.
        self._session.auth = self._authorize

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Document:
        """The JSON object at a path."""
        with self.open("GET", path, params=_given(params)) as response:
            return _json_object(response)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Document:
        """Send a JSON object; the one that comes back."""
        with self.open("POST", path, json=dict(body or {})) as response:
            return _json_object(response)

    def put(self, path: str, body: Mapping[str, Any]) -> Document:
        """Put a JSON object at a path; how it is then."""
        with self.open("PUT", path, json=dict(body)) as response:
            return _json_object(response)

    def patch(self, path: str, body: Mapping[str, Any]) -> Document:
        """Change what is at a path; how it is then."""
        with self.open("PATCH", path, json=dict(body)) as response:
            return _json_object(response)

    def delete(self, path: str, params: Mapping[str, Any] | None = None) -> Document:
        """Delete what is at a path; what comes back, which may be nothing."""
        with self.open("DELETE", path, params=_given(params)) as response:
            return _json_object(response) if response.content else {}

    def post_once(self, path: str, body: Mapping[str, Any], idempotency_key: str | None = None) -> Document:
        """Send a JSON object once: a try without an answer is repeated under the same Idempotency-Key."""
        key = idempotency_key or f"cli-{uuid.uuid4().hex}"
        request = {"headers": {"Idempotency-Key": key}, "json": dict(body)}
        return self._post_until_answered(path, request, key, _json_object)

    def page(self, path: str, params: Mapping[str, Any] | None = None) -> Page:
        """One page of a list."""
        return read_page(self.get(path, params))

    def submit(
        self,
        operation: str,
        order: Mapping[str, Any],
        parts: Parts = (),
        *,
        idempotency_key: str | None = None,
    ) -> Task:
        """Submit an order once: a try without an answer is repeated under the same Idempotency-Key."""
        key = idempotency_key or f"cli-{uuid.uuid4().hex}"
        request = {"headers": {"Idempotency-Key": key}, **_order_body(order, parts)}
        return self._post_until_answered(f"/api/images/{operation}", request, key, _task_in)

    def _post_until_answered(
        self, path: str, request: Mapping[str, Any], key: str, read: Callable[[requests.Response], T]
    ) -> T:
        for tries_left in reversed(range(SUBMIT_TRIES)):
            try:
                with self.open("POST", path, **request) as response:
                    return read(response)
            except CommandError as error:
                if not _may_have_arrived(error):
                    raise
                if not tries_left:
                    raise _maybe_accepted(error, key) from error
                time.sleep(RETRY_WAIT_S)
        raise AssertionError("unreachable")  # pragma: no cover

    def rerun(self, task_id: str, changes: Mapping[str, Any], *, idempotency_key: str | None = None) -> Task:
        """Place the order of a task again, with ``changes``; a try without an answer is repeated as a submit is."""
        key = idempotency_key or f"cli-{uuid.uuid4().hex}"
        request = {"headers": {"Idempotency-Key": key}, "json": dict(changes)}
        return self._post_until_answered(f"{task_path(task_id)}/rerun", request, key, _task_in)

    def estimate(self, operation: str, order: Mapping[str, Any], parts: Parts = ()) -> Document:
        """Price an order without running it."""
        body = _order_body({"operation": operation, **order}, parts)
        with self.open("POST", "/api/images/estimate", **body) as response:
            return _json_object(response)

    def task(self, task_id: str) -> Task:
        """A task as it is now."""
        return read_task(self.get(task_path(task_id)))

    def next_change(self, task: Task, *, etag: str | None, wait_s: int) -> tuple[Task, str | None]:
        """Let the server wait until the task changes, at most ``wait_s``. Returns the task then, and its ETag."""
        headers = {"If-None-Match": etag} if etag else {}
        timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S + wait_s)
        with self.open(
            "GET", task_path(task.id), params={"wait": wait_s}, headers=headers, timeout=timeout
        ) as response:
            if response.status_code == 304:
                return task, etag
            return read_task(_json_object(response)), response.headers.get("ETag")

    @contextmanager
    def open(self, method: str, path: str, **request: Any) -> Iterator[requests.Response]:
        """Send one request and check its status; the body is still unread when ``stream`` is set."""
        request.setdefault("timeout", _TIMEOUT)
        with (
            self._named_faults(),
            self._session.request(method, self.server + path, allow_redirects=False, **request) as response,
        ):
            yield _checked(response)

    @contextmanager
    def image(
        self,
        task_id: str,
        index: int,
        *,
        format: str | None = None,  # noqa: A002
        width_px: int | None = None,
        height_px: int | None = None,
    ) -> Iterator[requests.Response]:
        """One result, its body still unread, from the server or from the bucket that it redirects to.

        ``format``: as png, jpeg, webp or avif; ``width_px``, ``height_px``: scaled down to fit. With none of them: the
        very bytes that the task describes.
        """
        url = f"{self.server}{task_path(task_id)}/image"
        with self._named_faults():
            params = _given({"index": index, "format": format, "width": width_px, "height": height_px})
            response = self._session.get(url, params=params, allow_redirects=False, stream=True, timeout=_TIMEOUT)
            if response.status_code == 302:
                response.close()
                response = _without_key(response.headers.get("Location", ""))
            with response:
                yield _checked(response)

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    @contextmanager
    def _named_faults(self) -> Iterator[None]:
        try:
            yield
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise bad_server(f"{self.server} is not a usable address") from error
        except requests.ConnectTimeout as error:
            raise self._away("server_unreachable", "no answer to a connection") from error
        except requests.Timeout as error:
            raise self._away("server_away", "did not answer in time") from error
        except requests.RequestException as error:
            unreached = isinstance(_innermost(error), NewConnectionError)
            raise self._away("server_unreachable" if unreached else "server_away", _reason(error)) from error

    def _away(self, code: str, reason: str) -> CommandError:
        hint = "Is it running? `darkroom up` starts one here; --server or DARKROOM_SERVER names another."
        return CommandError(Exit.AWAY, code, f"{self.server}: {reason}", hint=hint)


def _checked(response: requests.Response) -> requests.Response:
    if not (200 <= response.status_code < 300 or response.status_code == 304):
        raise refusal(response)
    return response


def _without_key(location: str) -> requests.Response:
    """Get a signed link, without the key: a bucket refuses a signature together with an Authorization header."""
    with requests.Session() as session:
        session.trust_env = not is_this_machine(location)
        session.auth = lambda request: request  # none, and no .netrc
        return session.get(location, allow_redirects=False, stream=True, timeout=_TIMEOUT)


def task_path(task_id: str) -> str:
    """The path of a task. Raises CommandError for an id that could not be part of a URL."""
    if not task_id.replace("_", "").replace("-", "").isalnum() or not task_id.isascii():
        raise CommandError(Exit.USAGE, "bad_id", f"{task_id!r} is not a task id")
    return f"/api/images/tasks/{task_id}"


def _order_body(order: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    """An order as JSON, or as a form when files come with it."""
    return {"files": list(parts), "data": form_fields(order)} if parts else {"json": dict(order)}


def form_fields(order: Mapping[str, Any]) -> list[tuple[str, str]]:
    """An order as multipart fields: text as it is, everything else as JSON."""
    return [(k, v if isinstance(v, str) else json.dumps(v, allow_nan=False)) for k, v in order.items()]


def _task_in(response: requests.Response) -> Task:
    task = read_task(_json_object(response))
    return replace(task, replayed=response.headers.get("Idempotent-Replayed") == "true")


def _json_object(response: requests.Response) -> Document:
    try:
        value = response.json()
    except ValueError as error:
        raise bad_answer("the answer is not JSON") from error
    if not isinstance(value, dict):
        raise bad_answer("the answer is not a JSON object")
    return value


def _innermost(error: BaseException) -> BaseException:
    """What urllib3 said, below requests' and its own wrappings."""
    while True:
        inside = getattr(error, "reason", None) or next(iter(error.args), None)
        if not isinstance(inside, BaseException):
            return error
        error = inside


def _reason(error: requests.RequestException) -> str:
    """The reason in a few words: 'Connection refused' rather than three nested reprs."""
    innermost = _innermost(error)
    cause = innermost.__cause__ or innermost.__context__ or innermost
    strerror = getattr(cause, "strerror", None) or getattr(innermost, "strerror", None)
    return str(strerror) if strerror else "the connection failed or broke off"


def _may_have_arrived(error: CommandError) -> bool:
    return error.code == "server_away" or error.facts.get("status") in (502, 503, 504)


def _maybe_accepted(error: CommandError, key: str) -> CommandError:
    hint = f"It may have arrived. Repeat it with --idempotency-key {key}: it will not be charged twice."
    return CommandError(Exit.AWAY, error.code, error.detail, hint=hint, facts={"idempotency_key": key})


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {k: v for k, v in (params or {}).items() if v is not None}
