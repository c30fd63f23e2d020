"""Following a task to its end: a bar on a terminal, plain lines elsewhere, JSON lines for scripts.

The server answers when something changes (``?wait=``), so the end is seen immediately. While the server is
unreachable the job goes on, and following it waits for the server for a while.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click

from app.cli.client.answers import Task
from app.cli.client.connection import Client
from app.cli.client.waiting import waits_for
from app.cli.output import CommandError, Exit, Output, credits_of, elapsed_text, plain

if TYPE_CHECKING:
    from rich.progress import Progress

WAIT_S = 20
# A place in the queue moves without a change of the task, so a queued task is read again this often.
QUEUED_WAIT_S = 2
# Between two requests to a server that answers immediately although nothing has changed.
PAUSE_S = 0.5
PATIENCE_S = 60.0


class Display(Protocol):
    """Shows a task as it goes."""

    def show(self, task: Task) -> None: ...
    def trouble(self, text: str) -> None: ...


def follow(client: Client, task: Task, output: Output, *, timeout_s: int | None, stream: bool = False) -> Task:
    """Show a task until it ends, and return it ended; ``stream`` prints each change with ``--json``.

    Raises CommandError: timed out (7), interrupted (130), and the client's own.
    """
    with interruptible(task.id), _display(output, stream=stream) as display:
        for changed in changes(client, task, display, timeout_s=timeout_s):
            task = changed
            display.show(task)
    return task


def changes(client: Client, task: Task, display: Display, *, timeout_s: int | None) -> Iterator[Task]:
    """The task as known, then each change, the ended task last. Raises CommandError when time is up."""
    etag: str | None = None
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    yield task
    while not task.ended:
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise _timed_out(task, timeout_s)
        before, asked_at = task, time.monotonic()
        task, etag = _next(client, task, etag, display, left_s)
        if task.document != before.document:
            yield task
        elif time.monotonic() - asked_at < PAUSE_S:
            time.sleep(PAUSE_S)


def _next(
    client: Client, task: Task, etag: str | None, display: Display, left_s: float | None
) -> tuple[Task, str | None]:
    """The next change, or the same task after a while; waits for a server that is unreachable or busy."""
    queued = task.status == "queued"
    # Without an ETag the server waits for the change after next if one has just happened.
    longest_s = QUEUED_WAIT_S if queued else WAIT_S if etag else 1
    wait_s = longest_s if left_s is None else max(1, min(longest_s, round(left_s)))
    patience_s = PATIENCE_S if left_s is None else min(PATIENCE_S, left_s)
    give_up_at = time.monotonic() + patience_s
    while True:
        try:
            return client.next_change(task, etag=None if queued else etag, wait_s=wait_s)
        except CommandError as error:
            if not _passing(error) or time.monotonic() >= give_up_at:
                raise _goes_on(error, task.id) from error
            display.trouble(f"{error.detail}; trying again")
            time.sleep(PAUSE_S)


def _passing(error: CommandError) -> bool:
    return error.exit_code == Exit.AWAY or error.facts.get("status") == 429


def conclude(task: Task, *, printed: bool) -> None:
    """End the command as its task ended. Raises CommandError unless the task succeeded."""
    if task.status == "cancelled":
        released = (
            f"; {credits_of(task.released_microcredits)} credits given back" if task.released_microcredits else ""
        )
        raise CommandError(Exit.CANCELLED, "cancelled", f"{task.id} was cancelled{released}", printed=printed)
    if task.status == "failed":
        exit_code = Exit.INSUFFICIENT_CREDITS if task.error_code == "insufficient_credits" else Exit.FAILED
        detail = f"{task.id} failed: {task.error_detail or 'no reason was given'}"
        hint = "" if task.captured_microcredits else "Nothing was charged."
        raise CommandError(exit_code, task.error_code or "failed", detail, hint=hint, printed=printed)


@contextmanager
def interruptible(task_id: str) -> Iterator[None]:
    """Ctrl-C ends the watching, not the job, and says how to watch or cancel later."""
    try:
        yield
    except KeyboardInterrupt:
        raise CommandError(
            Exit.INTERRUPTED,
            "interrupted",
            f"no longer watching; {task_id} goes on",
            hint=f"darkroom watch {task_id}   or   darkroom cancel {task_id}",
            facts={"task_id": task_id},
        ) from None


def _timed_out(task: Task, timeout_s: int | None) -> CommandError:
    detail = f"{task.id} is still {task.status} after {timeout_s} s"
    error = CommandError(Exit.TIMED_OUT, "wait_timed_out", detail, facts={"task": task.document})
    return _goes_on(error, task.id)


def _goes_on(error: CommandError, task_id: str) -> CommandError:
    hint = f"The job goes on: darkroom watch {task_id}"
    facts = {"task_id": task_id, **error.facts}
    return CommandError(Exit(error.exit_code), error.code, error.detail, faults=error.faults, hint=hint, facts=facts)


# --- displays ----------------------------------------------------------------------------------------


def _display(output: Output, *, stream: bool) -> AbstractContextManager[Display]:
    if output.as_json or output.quiet:
        return _Silent(output if stream else Output())
    return _Bar() if output.lively else _Lines()


class _Shown:
    """A display that needs no opening and closing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def trouble(self, text: str) -> None:
        del text


class _Silent(_Shown):
    """Prints nothing, or one JSON line per change."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def show(self, task: Task) -> None:
        self._output.document(task.document)


class _Lines(_Shown):
    """A line per change of what can be seen, on stderr, for logs and pipes."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._last = ""

    def show(self, task: Task) -> None:
        self._say(headline(task))

    def trouble(self, text: str) -> None:
        self._say(text)

    def _say(self, text: str) -> None:
        if text != self._last:
            self._last = text
            click.echo(f"{elapsed_text(time.monotonic() - self._began):>7}  {plain(text)}", err=True)


class _Bar(_Shown):
    """One line that is redrawn: state, bar, elapsed, place in the queue, the upstream's step."""

    def __init__(self) -> None:
        self._progress = _new_progress()
        self._row = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, task: Task) -> None:
        done = 1.0 if task.status == "succeeded" else task.progress
        # Without a total the bar pulses: the job moves, by an unknown amount.
        total = None if done is None and not task.ended else 1.0
        self._progress.update(self._row, description=plain(headline(task)), completed=done or 0.0, total=total)

    def trouble(self, text: str) -> None:
        self._progress.update(self._row, description=plain(text))


def _new_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), TimeElapsedColumn(), BarColumn(bar_width=24), text)
    return Progress(*columns, console=Console(stderr=True))


def headline(task: Task) -> str:
    """Where a task stands, in a few words: ``queued, place 3 in the queue`` or ``running 40%, upscaling``."""
    parts = [task.status]
    waits = waits_for(task.document)
    if waits:
        parts.append(waits)
    elif task.status == "queued" and task.queue_position is not None:
        parts.append(f"place {task.queue_position} in the queue" if task.queue_position else "next in the queue")
    if task.status == "queued" and not waits and task.wait_p90_s:
        parts.append(f"likely to start within {elapsed_text(math.ceil(task.wait_p90_s))}")
    if not task.ended and task.progress is not None:
        parts[0] += f" {task.progress:.0%}"
    if not task.ended and task.step:
        parts.append(" ".join(task.step.split()))
    if task.status == "failed" and task.error_code:
        parts.append(task.error_code)
    return ", ".join(parts)
