"""The results of a call: images in an answer, and links to them, which are URLs from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin

from core.outbound.untrusted import Policy, fetch
from core.outbound.urls import Origin, UnsafeUrlError
from providers.base import ResultImage
from providers.errors import Failed, NotRun
from providers.http.client import Outgoing
from providers.shared.reading import image_bytes

MAX_IMAGE_BYTES = 64 * 1024 * 1024
TOTAL_S = 60.0
_GONE = frozenset({401, 403, 404, 410})


def read_images(items: object, base_url: str) -> list[ResultImage]:
    """The images of an OpenAI-shaped ``data`` list, in its order; items without one are skipped.

    Links may be relative to ``base_url``. An item with bytes and a link counts by its bytes.
    """
    found = [_image(item, base_url) for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return [image for image in found if image is not None]


def _image(item: Mapping[str, Any], base_url: str) -> ResultImage | None:
    revised = item.get("revised_prompt")
    prompt = revised if isinstance(revised, str) and revised else None
    data = image_bytes(item.get("b64_json"))
    if data is not None:
        return ResultImage(data=data, revised_prompt=prompt)
    url = item.get("url")
    if isinstance(url, str) and url.strip():
        return ResultImage(url=urljoin(f"{base_url}/", url.strip()), revised_prompt=prompt)
    return None


def policy(own: Origin, outgoing: Outgoing) -> Policy:
    """The rules for an upstream's result links: its own origin and RESULT_ORIGINS are trusted."""
    rules = Policy.result({own, *outgoing.result_origins}, max_bytes=MAX_IMAGE_BYTES, total_s=TOTAL_S)
    return replace(rules, ca_file=outgoing.ca_file, accept="image/*, */*;q=0.5")


def download(url: str, rules: Policy) -> bytes:
    """The bytes at a result link; no credential is sent.

    Raises: NotRun when another try may succeed (reading a link buys nothing, so this is never Uncertain);
        Failed for a link that is gone, forbidden or too large. The upstream has billed that call.
    """
    try:
        data = fetch(url, rules).data
    except UnsafeUrlError as error:
        raise _judged(error) from error
    if not data:
        raise NotRun("result_unreachable", "an empty answer")
    return data


def _judged(error: UnsafeUrlError) -> NotRun | Failed:
    if error.status in _GONE:
        # The image was made and billed: a new order would buy it twice.
        return Failed("result_gone", error.detail, retryable=False, billed=True)
    if error.code in {"url_not_allowed", "url_redirects"}:
        return Failed("result_url_refused", error.detail, retryable=False, billed=True)
    if error.code == "url_too_large":
        return Failed("result_too_large", error.detail, retryable=False, billed=True)
    return NotRun("result_unreachable", f"{error.code}: {error.detail}")
