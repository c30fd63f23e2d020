"""The tools, as an agent sees them: names, arguments with their descriptions, answers."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, ParamSpec
from urllib.parse import quote

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from app.cli.agents import images
from app.cli.agents.answers import JobAnswer
from app.cli.agents.caller import Caller, Callers
from app.cli.agents.jobs import Jobs, refusal, result
from app.cli.client import enhance
from app.cli.client.answers import Document
from app.cli.output import CommandError
from core.version import VERSION

P = ParamSpec("P")

INSTRUCTIONS = (
    "Darkroom makes and edits images; each image costs credits. A call waits a while for its image. If the answer has"
    " code 504 the job goes on: call get_task with its task_id. After a crash repeat the call unchanged, or with its"
    " idempotency_key: it joins the job that was ordered. An image of an earlier answer goes into an order by its"
    " reference, such as job_01M...#0."
)

Prompt = Annotated[str, Field(description="What the image shall show, or how the images shall change.")]
Model = Annotated[
    str | None, Field(description="Id or alias (list_models has them), auto, auto:budget or auto:quality.")
]
Images = Annotated[
    list[str],
    Field(description="Each an https or data: URL, a reference such as job_01M...#0, the id of an upload, or (over"
          " stdio) the path of a file, beginning with / or ./ or ~/."),
]  # fmt: skip
Pixels = Annotated[int | None, Field(description="Pixels; the nearest that the model makes is used.")]
Size = Annotated[str | None, Field(description="Such as 1024x1024, in place of width and height.")]
Ratio = Annotated[str | None, Field(description="Such as 16:9, in place of a size.")]
Quality = Annotated[str | None, Field(description="As the model names it, such as low, medium, high.")]
Count = Annotated[int | None, Field(description="How many images, 1 to 10.")]
Seed = Annotated[int | None, Field(description="To make the same again, where the model can.")]
Fields = Annotated[
    dict[str, Any] | None,
    Field(description="Any other field of an order: negative_prompt, output_format, background, steps, metadata,"
          " fallback_models, deadline_s, ... A field that the model does not take is dropped with a warning;"
          ' {"lenient": false} refuses it.'),
]  # fmt: skip
Key = Annotated[
    str | None,
    Field(description="Any text that names this order. The same call under the same key is never bought twice, for a"
          " day. Left out: made from the order, so that a call repeated without an answer joins its job."),
]  # fmt: skip
Wait = Annotated[
    float | None,
    Field(ge=0, le=3600, description="Seconds to wait for the end before the answer says that the job goes on."),
]
Operation = Annotated[str, Field(description="generate, edit, upscale, variations, inpaint, remove-background, ...")]

Answer = Annotated[CallToolResult, JobAnswer]
_BUYS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)
_READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)


def told(tool: Callable[P, Awaitable[CallToolResult]]) -> Callable[P, Awaitable[CallToolResult]]:
    """The tool, whose CommandErrors are answers."""

    @functools.wraps(tool)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> CallToolResult:
        try:
            return await tool(*args, **kwargs)
        except CommandError as error:
            return refusal(error)

    return wrapped


def build(callers: Callers, jobs: Jobs) -> MCPServer[Any]:
    """The server with its seven tools."""
    tools = Tools(callers, jobs)
    offered = (
        ("Generate an image", tools.generate_image, _BUYS),
        ("Edit images", tools.edit_image, _BUYS),
        ("Upscale an image", tools.upscale, _BUYS),
        ("Enhance a prompt", tools.enhance_prompt, _READS),
        ("Get a task", tools.get_task, _READS),
        ("List models", tools.list_models, _READS),
        ("Estimate a price", tools.estimate, _READS),
    )
    return MCPServer(
        "darkroom",
        title="Darkroom",
        version=VERSION,
        instructions=INSTRUCTIONS,
        log_level="WARNING",
        tools=[_strict(Tool.from_function(told(each), title=title, annotations=kind)) for title, each, kind in offered],
    )


def _strict(tool: Tool) -> Tool:
    """The tool, which refuses an argument that it does not have, where the package would drop it."""
    known = tool.fn_metadata.arg_model
    strict = type(known.__name__, (known,), {"model_config": {**known.model_config, "extra": "forbid"}})
    metadata = tool.fn_metadata.model_copy(update={"arg_model": strict})
    return tool.model_copy(
        update={"fn_metadata": metadata, "parameters": {**tool.parameters, "additionalProperties": False}}
    )


@dataclass(frozen=True, slots=True)
class Tools:
    """Each method is a tool; its docstring is what the agent reads of it."""

    callers: Callers
    jobs: Jobs

    async def generate_image(
        self, ctx: Context[Any, Any], *, prompt: Prompt, model: Model = None, width: Pixels = None,
        height: Pixels = None, size: Size = None, aspect_ratio: Ratio = None, quality: Quality = None,
        n: Count = None, seed: Seed = None, fields: Fields = None, idempotency_key: Key = None, wait_s: Wait = None,
    ) -> Answer:  # fmt: skip
        """Make an image from words. Answers with the image, a link to it, and the id of its task."""
        asked = {"prompt": prompt, "model": model, "width": width, "height": height, "size": size,
                 "aspect_ratio": aspect_ratio, "quality": quality, "n": n, "seed": seed}  # fmt: skip
        return await self._order(ctx, "generate", asked, fields, key=idempotency_key, wait_s=wait_s)

    async def edit_image(
        self, ctx: Context[Any, Any], *, prompt: Prompt, images: Images,
        mask: Annotated[str | None, Field(description="A PNG of the first image's size, named as images are; what it"
                                          " leaves transparent is changed.")] = None,
        model: Model = None, size: Size = None, aspect_ratio: Ratio = None, quality: Quality = None, n: Count = None,
        seed: Seed = None, fields: Fields = None, idempotency_key: Key = None, wait_s: Wait = None,
    ) -> Answer:  # fmt: skip
        """Change images by words, within an optional mask. Answers as generate_image does."""
        asked = {"prompt": prompt, "images": images, "mask": mask, "model": model, "size": size,
                 "aspect_ratio": aspect_ratio, "quality": quality, "n": n, "seed": seed}  # fmt: skip
        return await self._order(ctx, "edit", asked, fields, key=idempotency_key, wait_s=wait_s)

    async def upscale(
        self, ctx: Context[Any, Any], *, image: Annotated[str, Field(description="Named as the images of edit_image.")],
        prompt: Annotated[str | None, Field(description="For the models that want to know what it shows.")] = None,
        model: Model = None, fields: Fields = None, idempotency_key: Key = None, wait_s: Wait = None,
    ) -> Answer:  # fmt: skip
        """Make an image larger. Answers as generate_image does."""
        asked = {"images": [image], "prompt": prompt, "model": model}
        return await self._order(ctx, "upscale", asked, fields, key=idempotency_key, wait_s=wait_s)

    async def get_task(
        self, ctx: Context[Any, Any], *,
        task_id: Annotated[str | None, Field(description="Left out: the latest tasks, newest first.")] = None,
        wait_s: Wait = None,
    ) -> CallToolResult:  # fmt: skip
        """Wait for a task that was ordered before, and get its images. Without task_id list the latest tasks."""
        caller = self.callers(ctx)
        if task_id is not None:
            return await self.jobs.collect(ctx, caller, task_id, wait_s)
        page = await self.jobs.call(lambda: caller.client.page("/api/images/tasks", {"limit": 10}))
        return result({"tasks": [_listed(each) for each in page.items]})

    async def enhance_prompt(
        self, ctx: Context[Any, Any], *, prompt: Prompt,
        mode: Annotated[Literal["detail", "creative"], Field(description="More detail, or more freedom.")] = "detail",
        model: Annotated[str | None, Field(description="The language model or its provider.")] = None,
        language: Annotated[str | None, Field(description="The language to answer in.")] = None,
    ) -> CallToolResult:  # fmt: skip
        """Have a prompt rewritten by a language model. Free of charge."""
        caller = self.callers(ctx)
        given = {"prompt": prompt, "mode": mode, "model": model, "language": language}
        body = {name: value for name, value in given.items() if value is not None}
        pieces = await self.jobs.call(lambda: list(enhance.stream(caller.client, body)))
        return result({"prompt": "".join(pieces), "original_prompt": prompt})

    async def list_models(
        self, ctx: Context[Any, Any], *,
        model: Annotated[str | None, Field(description="Show this one with all its limits and fields.")] = None,
        operation: Annotated[str | None, Field(description="Such as generate, edit or upscale.")] = None,
        provider: Annotated[str | None, Field(description="Such as openai or replicate.")] = None,
        max_price: Annotated[float | None, Field(description="Credits an image at most.")] = None,
        configured: Annotated[bool, Field(description="false: also those that cannot run here.")] = True,
    ) -> CallToolResult:  # fmt: skip
        """List the models with their operations and prices in credits, or show one."""
        client = self.callers(ctx).client
        if model is not None:
            return result(await self.jobs.call(lambda: client.get(f"/api/models/{quote(model, safe='/')}")))
        price = None if max_price is None else f"{max_price:f}"
        only = "true" if configured else None
        filters = {"operation": operation, "provider": provider, "max_price": price, "configured": only}
        page = await self.jobs.call(lambda: client.page("/api/models", filters))
        return result({"models": [_model(each) for each in page.items]})

    async def estimate(
        self, ctx: Context[Any, Any], *, operation: Operation = "generate",
        prompt: Annotated[str | None, Field(description="As it would be ordered.")] = None,
        images: Images = [],  # noqa: B006  (a default is read, not changed)
        model: Model = None, width: Pixels = None, height: Pixels = None, size: Size = None,
        aspect_ratio: Ratio = None, quality: Quality = None, n: Count = None, fields: Fields = None,
    ) -> CallToolResult:  # fmt: skip
        """Say what an order would cost, and which model would run. Nothing runs, nothing is charged."""
        asked = {"prompt": prompt, "images": images or None, "model": model, "width": width, "height": height,
                 "size": size, "aspect_ratio": aspect_ratio, "quality": quality, "n": n}  # fmt: skip
        caller = self.callers(ctx)
        order = await self._complete(caller, asked, fields)
        return result(await self.jobs.call(lambda: caller.client.estimate(operation, order)))

    async def _order(
        self, ctx: Context[Any, Any], operation: str, asked: Document, fields: Document | None, *,
        key: str | None, wait_s: float | None,
    ) -> CallToolResult:  # fmt: skip
        caller = self.callers(ctx)
        order = await self._complete(caller, asked, fields)
        return await self.jobs.order(ctx, caller, operation, order, key=key, wait_s=wait_s)

    async def _complete(self, caller: Caller, asked: Document, fields: Document | None) -> Document:
        """The order: what was given, its images as the service takes them. Arguments go before ``fields``."""
        given = {name: value for name, value in asked.items() if value is not None}
        order = {"lenient": True, **(fields or {}), **given}
        take = functools.partial(images.reference, caller.client, local_files=caller.local_files)
        if isinstance(order.get("images"), list):
            order["images"] = [
                await self.jobs.call(functools.partial(take, each)) if isinstance(each, str) else each
                for each in order["images"]
            ]
        for name in ("mask", "face"):
            if isinstance(order.get(name), str):
                order[name] = await self.jobs.call(functools.partial(take, order[name]))
        return order


def _listed(task: Document) -> Document:
    request = task.get("request") or {}
    kept = {name: task.get(name) for name in ("id", "status", "operation", "model", "created_at")}
    return {**kept, "prompt": str(request.get("prompt") or "")[:200], "images": len(task.get("images") or ())}


def _model(model: Document) -> Document:
    kept = {name: model.get(name) for name in ("id", "name", "provider", "operations", "status")}
    return {**kept, "credits": (model.get("price") or {}).get("unit")}
