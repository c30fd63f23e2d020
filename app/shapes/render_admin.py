"""Jobs of every account as app/shapes/schemas/admin.py has them: facts, and contents only where they are asked for."""

from __future__ import annotations

from typing import Any

from app.shapes.render import Renderer
from core.wire import rfc3339
from jobs.reads.search import FoundJob, UpstreamCall

_AS_ITS_OWNER_SEES = (
    "operation", "status", "model", "provider", "n", "priority", "attempts", "waiting_for", "created_at",
    "started_at", "finished_at", "deadline_at", "price", "error", "cancel", "warnings",
)  # fmt: skip


def admin_task(renderer: Renderer, found: FoundJob, *, contents: bool) -> dict[str, Any]:
    """app.shapes.schemas.admin.AdminTaskOut."""
    own = renderer.task(found.task)
    return {
        "id": found.task.id,
        "object": "admin.task",
        "account": {"id": found.task.account_id, "name": found.account_name},
        "key_id": found.key_id,
        "request_id": found.request_id,
        **{name: own[name] for name in _AS_ITS_OWNER_SEES},
        "prompt_sha256": found.prompt_sha256,
        "prompt_chars": found.prompt_chars,
        "images": [
            {name: image[name] for name in ("index", "mime", "width", "height", "size_bytes", "sha256", "deleted")}
            for image in own["images"]
        ],
        "calls": [_call(call) for call in found.calls],
        "contents": _contents(own) if contents else None,
    }


def _contents(own: dict[str, Any]) -> dict[str, Any]:
    texts = [image["text"] for image in own["images"] if image["text"] is not None]
    return {"request": own["request"], "metadata": own["metadata"], "texts": texts}


def _call(call: UpstreamCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "slot": call.slot,
        "attempt": call.attempt,
        "provider": call.provider,
        "model": call.model,
        "credential": call.credential,
        "outcome": call.outcome,
        "upstream_id": call.upstream_id,
        "error_code": call.error_code,
        "error_detail": call.error_detail,
        "intended_at": rfc3339(call.intended_at),
        "answered_at": rfc3339(call.answered_at),
        "resends": call.resends,
        "written_off": call.written_off,
        "expected_cost_microusd": call.expected_cost,
        "reported_cost_microusd": call.reported_cost,
    }
