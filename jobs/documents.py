"""The JSON documents of a job, as they are stored in its columns.

They are columns of the tables ``orders`` and ``inputs`` (jobs/models.py). A key is never renamed, because rows live
for months and status reads take the documents apart in SQL (app/shapes/status_json.py).
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

# What chose the model: the operator (catalog.local.yaml or DARKROOM_DEFAULT_MODEL), the catalogue, or a ranking, by
# price or by quality.
SelectionRule = Literal["operator_default", "catalog_default", "cheapest", "best"]


class StoredSelection(TypedDict):
    """Which model was chosen for an order that did not name one, and why: ``orders.request -> 'chosen'``."""

    asked: str | None  # "auto", "auto:budget", "auto:quality"; None: no model was named
    model: str
    rule: NotRequired[SelectionRule]  # orders of older versions have none
    reason: str  # a phrase for people


class StoredRequest(TypedDict):
    """The request to a model, by that model's rules: the column ``orders.request``, and part of each fallback.

    The caller sees it as ``request``, and the paid call is built from it.
    """

    prompt: str | None
    n: int
    size: dict[str, str | int]  # as the model takes it: size; or width and height; or aspect_ratio and resolution
    params: dict[str, Any]  # the model's settings, under the catalogue's names
    normalised: dict[str, dict[str, str]]  # field -> {"asked": ..., "used": ...} where the two differ
    extra: NotRequired[dict[str, Any]]  # passed to the upstream as it is
    safe_prompt: NotRequired[bool]  # a refused prompt may be adjusted once
    original_prompt: NotRequired[str]  # as it was ordered, where ``prompt`` has been adjusted since
    chosen: NotRequired[StoredSelection]


class StoredWebhook(TypedDict):
    """Where a job's own callbacks go: the column ``orders.webhook``."""

    url: str
    events: list[str]  # of webhooks.forms.EVENTS
    form: str  # a name of workers/wiring.py
    target: str  # whose capacity they take: the account and the origin of the URL


class StoredAnswer(TypedDict):
    """What an upstream answered, without keys and bytes: the column ``call_answers.answer``."""

    status: int  # of HTTP
    content_type: str | None
    body: Any  # JSON, or a text that says what it was


class StoredRefusal(TypedDict):
    """Why a line of a batch became no job: the column ``batch_lines.error``. No dialect's words: each has its own."""

    code: str  # a code of docs/errors.md
    detail: str
    facts: dict[str, Any]  # members of the answer: errors, and what else the code has


class BatchFault(TypedDict):
    """What is wrong with a batch as a whole: an element of ``batches.errors``."""

    code: str
    message: str
    line: int | None  # of its file, from 1
    param: str | None


class StoredFallback(TypedDict):
    """A fallback model: an element of ``orders.fallbacks``, which lists them in the order in which they are tried."""

    model: str
    provider: str
    unit_price: int  # micro-credits, of one image
    per_call: int  # images that one call makes at most
    unit_cost: int | None  # micro-USD, expected upstream cost of one image; None: not known beforehand
    request: StoredRequest
    own_key: NotRequired[bool]  # it is called with the account's own key


class InputPart(TypedDict):
    """A reference image as a paid call needs it."""

    role: Literal["image", "mask", "face"]
    position: int  # among those of its role, from 0
    key: str  # the image's key in the store
    mime: str
    width_px: int
    height_px: int


class StoredInput(InputPart):
    """A reference image of an order: a row of the table ``inputs`` without its job_id."""

    size_bytes: int
    sha256: str  # lower-case hex of the stored bytes


class StepData(TypedDict, total=False):
    """What a step of the timeline says, depending on its type: the column ``job_events.data``, as verbs write it."""

    worker: str  # the boot id of the worker that holds the job
    attempt: int  # calls made before
    provider: str
    model: str
    code: str  # why: of a failure, a retry, a failover or a lapse
    after_s: float  # of a retry: the pause before it
    outcome: str  # of a cancel: jobs.failures.CancelOutcome
    reason: str  # of a deletion: jobs.maintenance.deletion.Reason
    pictures: int  # images kept, or deleted
    index: int  # of an image that was kept before its job's end
    cached_from: str  # of an order that an earlier job has answered: that job
    quoted_microcredits: int
    held_microcredits: int
    captured_microcredits: int
    released_microcredits: int


# The column ``orders.metadata``: the caller's own key-value pairs, by which task lists can be filtered.
StoredMetadata = dict[str, str]
