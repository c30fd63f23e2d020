"""How a worker drives an adapter, in one thread: submit, look until it is over, download."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from providers.base import Accepted, CallRef, Finished, Provider, ResultImage, Running, UpstreamOrder
from providers.errors import ProviderError
from sandbox.testing import Sandbox

KEY = "call-1.0"
LOOKS = 3


def call_of(order: UpstreamOrder, accepted: Accepted | None = None, *, key: str = KEY) -> CallRef:
    """The call as its row in the database has it."""
    return CallRef(
        id=f"id of {key}",
        dedupe_key=key,
        model=order.model.id,
        upstream_id=accepted.upstream_id if accepted else None,
        poll_url=accepted.poll_url if accepted else None,
        intended_at=datetime.now(UTC),
        age_s=0.0,
    )


def started(provider: Provider, order: UpstreamOrder, *, key: str = KEY) -> CallRef:
    """A call that the upstream works on."""
    accepted = provider.submit(order, dedupe_key=key)
    assert isinstance(accepted, Accepted), accepted
    return call_of(order, accepted, key=key)


def results(provider: Provider, order: UpstreamOrder, *, key: str = KEY) -> Sequence[ResultImage]:
    """The results of a call. Raises ProviderError, as the adapter does at the submit or at a look."""
    answer = provider.submit(order, dedupe_key=key)
    if isinstance(answer, Accepted):
        return ended(provider, call_of(order, answer, key=key)).images
    return answer.images


def ended(provider: Provider, call: CallRef) -> Finished:
    """The end of a call that takes no time. Raises ProviderError."""
    found: object = None
    for _ in range(LOOKS):
        found = provider.check_many([call])[call.id]
        if isinstance(found, ProviderError):
            raise found
        if not isinstance(found, Running):
            break
    assert isinstance(found, Finished), found
    return found


def bytes_of(provider: Provider, image: ResultImage) -> bytes:
    """The bytes of a result, fetched where it is only a link."""
    if image.data is not None:
        return image.data
    assert image.url is not None
    return provider.download(image.url)


def counts(sandbox: Sandbox, provider: str) -> dict[str, Any]:
    """The counts of one emulator; zeros where it had no request."""
    nothing = {"requests": 0, "submits": 0, "accepted": 0, "checks": 0, "downloads": 0}
    return {**nothing, **sandbox.counts(keys=False).get(provider, {})}


def paid_request(sandbox: Sandbox, provider: str) -> dict[str, Any]:
    """The request that bought something: uploads come before it, and a look is not a POST with a body."""
    return [asked for asked in sandbox.requests(provider) if asked["method"] == "POST"][-1]


def wire_fields(asked: Mapping[str, Any]) -> set[str]:
    """The names of the fields in a recorded body, nested ones with dots; lists have the name of their items."""
    if asked["form"] == "multipart":
        return {part["name"] for part in asked["parts"]}
    return {name for field, value in asked["fields"].items() for name in _leaves(field, value)}


def _leaves(prefix: str, value: object) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(f"{prefix}.{name}", inner)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for item in value:
            yield from _leaves(prefix, item)
    else:
        yield prefix
