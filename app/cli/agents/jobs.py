"""An order from its acceptance to its answer: progress while it is made, what a cancelled call means, and repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import CancelScope, CapacityLimiter, to_thread
from mcp_types import CallToolResult, ContentBlock, TextContent

from app.cli.agents import answers, following, images
from app.cli.agents.caller import AnyContext, Caller
from app.cli.agents.repeats import Repeats
from app.cli.client.answers import Document, Task
from app.cli.client.connection import task_path
from app.cli.output import CommandError
from core.wire import json_text

T = TypeVar("T")
# Calls that wait at once; each holds a thread, which sleeps in a read.
MOST_CALLS = 500
CANCEL_WITHIN_S = 10.0
REPLAYED = (
    "An earlier call had ordered this job, so nothing was bought. For another image pass another idempotency_key, seed"
    " or prompt."
)


@dataclass(slots=True)
class Jobs:
    """``wait_s``: how long a call waits for its job; ``edge_px``: of images in answers."""

    wait_s: float
    edge_px: int
    stopping: Callable[[], bool] = lambda: False
    _repeats: Repeats = field(default_factory=Repeats)
    _threads: CapacityLimiter | None = None

    async def order(
        self, context: AnyContext, caller: Caller, operation: str, fields: Mapping[str, Any], *,
        key: str | None, wait_s: float | None,
    ) -> CallToolResult:  # fmt: skip
        """Order, wait, answer. Raises CommandError for an order that is refused."""
        turn = None if key else self._repeats.take(caller.who, operation, fields)
        sent = key or (turn.key if turn else "")
        task: Task | None = None
        answered = False
        try:
            # Not abandoned when the call is cancelled: without its id the job could not be cancelled.
            submit = partial(caller.client.submit, operation, fields, idempotency_key=sent)
            task = await self._in_thread(submit, leave=False)
            ended = await self.followed(context, caller, task, wait_s)
            answered = ended.ended
            return await self.answer(caller, ended, key=sent)
        except anyio.get_cancelled_exc_class():
            answered = task is not None and await self._cancelled(context, caller, task)
            raise
        finally:
            if turn is not None and not answered:
                self._repeats.give_back(turn, task.id if task else None)

    async def collect(self, context: AnyContext, caller: Caller, task_id: str, wait_s: float | None) -> CallToolResult:
        """The answer for a job that was ordered before. A call that is cancelled leaves the job alone."""
        task = await self._in_thread(partial(caller.client.task, task_id))
        if not task.ended:
            task = await self.followed(context, caller, task, wait_s)
        if task.ended:
            self._repeats.told(task.id)
        return await self.answer(caller, task)

    async def followed(self, context: AnyContext, caller: Caller, task: Task, wait_s: float | None) -> Task:
        """The task at its end or after ``wait_s``, with its progress told on the way."""
        progress = following.Progress(int(task.document.get("n") or 1))
        await _tell(context, progress, following.first(task))
        if task.ended:
            return task
        try:
            with anyio.move_on_after(self.wait_s if wait_s is None else wait_s):
                await self._until_end(context, caller, task.id, progress)
            read = await self._in_thread(partial(caller.client.task, task.id))
        except CommandError:
            return task  # the service stays away, but the job is there: the answer names it
        # What the order's acceptance said is not in the task.
        return replace(read, replayed=task.replayed)

    async def _until_end(self, context: AnyContext, caller: Caller, task_id: str, progress: following.Progress) -> None:
        stream = following.Stream(caller.client, task_id)
        steps = stream.steps()
        try:
            while (event := await self._in_thread(partial(next, steps, following.END))) is not following.END:
                if isinstance(event, dict):
                    await _tell(context, progress, event)
        finally:
            stream.leave()  # a thread that is left in a read would hold the process

    async def answer(self, caller: Caller, task: Task, *, key: str | None = None) -> CallToolResult:
        """A task as content and as structured content."""
        blocks: list[ContentBlock] = []
        if task.status == "succeeded":
            blocks += await self._in_thread(partial(images.shown, caller.client, task, edge_px=self.edge_px))
        if not task.ended:
            words = f"The job goes on: call get_task with task_id {task.id} to wait for it and to get its image."
            blocks.append(TextContent(text=words))
        elif task.replayed:
            blocks.append(TextContent(text=REPLAYED))
        failed = task.ended and task.status != "succeeded"
        return result(answers.of_task(task, key=key), blocks, failed=failed)

    async def call(self, work: Callable[[], T]) -> T:
        """Something short of the service, in a thread."""
        return await self._in_thread(work)

    async def _cancelled(self, context: AnyContext, caller: Caller, task: Task) -> bool:
        """Cancel the job if the agent asked for that; whether it did."""
        if not (asked_to_cancel(context) or (caller.cancel_on_disconnect and not self.stopping())):
            return False
        with CancelScope(shield=True), anyio.move_on_after(CANCEL_WITHIN_S):
            try:
                await self._in_thread(partial(caller.client.post, f"{task_path(task.id)}/cancel"))
            except CommandError:
                return False
        return True

    async def _in_thread(self, work: Callable[[], T], *, leave: bool = True) -> T:
        if self._threads is None:
            self._threads = CapacityLimiter(MOST_CALLS)
        return await to_thread.run_sync(work, abandon_on_cancel=leave, limiter=self._threads)


async def _tell(context: AnyContext, progress: following.Progress, event: Document) -> None:
    if (step := progress.of(event)) is not None:
        await context.report_progress(step[0], 1.0, step[1])


def asked_to_cancel(context: AnyContext) -> bool:
    """Whether the agent sent a cancellation, which a request that ends with its connection did not.

    The package tells the two apart only in the channel of the request, which it keeps to itself.
    """
    channel = getattr(context.request_context.session, "_request_outbound", None)
    asked = getattr(channel, "cancel_requested", None)
    return isinstance(asked, anyio.Event) and asked.is_set()


def result(structured: Document, more: list[ContentBlock] | None = None, *, failed: bool = False) -> CallToolResult:
    """Structured content, and the same as text for agents' programs that pass on nothing else."""
    text = TextContent(text=json_text(structured))
    return CallToolResult(content=[text, *(more or [])], structured_content=structured, is_error=failed)


def refusal(error: CommandError) -> CallToolResult:
    """A refused order, or a server that is away, for an agent to read."""
    more: list[ContentBlock] = []
    if key := error.facts.get("idempotency_key"):
        words = f"The order may have arrived. Call again with idempotency_key {key}: nothing is bought twice."
        more.append(TextContent(text=words))
    elif error.facts.get("status") in (429, 503) and error.hint:
        more.append(TextContent(text=error.hint))  # how long to wait
    return result(answers.of_error(error), more, failed=True)
