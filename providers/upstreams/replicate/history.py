"""Finding a prediction whose id never came: the account's list, and which of its rows may be the order's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

from providers.base import InputImage, UpstreamOrder
from providers.errors import Uncertain
from providers.http.client import UpstreamSession, WireRequest
from providers.shared.encoding import data_uri
from providers.shared.order_fields import Placed, path_of, placed_images
from providers.upstreams.replicate.answers import object_in
from providers.upstreams.replicate.requests import build_list, inputs_to_upload, plain_fields

LIST_TOTAL_S = 30.0
MAX_PAGES = 50  # of a hundred predictions
FILE_TOTAL_S = 15.0
MAX_PAGE_BYTES = 64 * 1024 * 1024  # may contain inputs and outputs as data URLs
MAX_FILE_ANSWER_BYTES = 1024 * 1024


class Predictions:
    """The account's predictions, searched for those that may be an order's. Searching buys nothing."""

    def __init__(self, session: UpstreamSession) -> None:
        self._session = session

    def like(self, order: UpstreamOrder, since: datetime) -> Iterator[Mapping[str, Any]]:
        """Predictions since then with the order's callback URL, or else those of its model with the same input.

        Raises: NotRun, Uncertain.
        """
        return (row for row in self._rows(since) if self._may_be(order, row))

    def _rows(self, since: datetime) -> Iterator[Mapping[str, Any]]:
        """The list of predictions down to ``since``, page by page. Raises NotRun, Uncertain."""
        request = build_list(since)
        for _ in range(MAX_PAGES):
            answer = self._session.send(request, total_s=LIST_TOTAL_S, max_bytes=MAX_PAGE_BYTES)
            page = object_in(answer)
            rows = page.get("results")
            if not isinstance(rows, list):
                raise Uncertain("upstream_broken_answer", "no list of predictions")
            for row in filter(_is_object, rows):
                if _made_before(row, since):
                    return  # newest first: the pages may go further back than requested
                yield row
            query = _query_of(page.get("next"))
            if not query:
                return
            request = WireRequest("GET", f"/predictions?{query}")
        raise Uncertain("upstream_cannot_look", f"more than {MAX_PAGES} pages of predictions")

    def _may_be(self, order: UpstreamOrder, row: Mapping[str, Any]) -> bool:
        if order.callback_url is not None:
            return row.get("webhook") == order.callback_url
        model, _, version = path_of(order).partition(":")
        same_model = row.get("model") == model and version in {"", row.get("version")}
        return same_model and self._same_input(order, row.get("input"))

    def _same_input(self, order: UpstreamOrder, given: object) -> bool:
        if not isinstance(given, dict):
            return False  # removed an hour after the end
        places = {placed.field: placed for placed in placed_images(order)}
        plain = {name: value for name, value in given.items() if name not in places}
        same = self._same_upload if inputs_to_upload(order) else _same_data_url
        return plain == plain_fields(order) and all(
            _same_images(placed, given.get(field), same) for field, placed in places.items()
        )

    def _same_upload(self, image: InputImage, value: object) -> bool:
        """Whether a link leads to the image: each upload has its own link, so the file's checksum decides."""
        return isinstance(value, str) and self._sha256_behind(value) == hashlib.sha256(image.data).hexdigest()

    def _sha256_behind(self, link: str) -> str | None:
        """The checksum of an uploaded file, None for anything else. Raises NotRun, Uncertain."""
        folder, _, file_id = link.rpartition("/")
        if folder != f"{self._session.base_url}/files" or not file_id:
            return None
        request = WireRequest("GET", f"/files/{quote(file_id, safe='')}")
        answer = self._session.send(request, total_s=FILE_TOTAL_S, max_bytes=MAX_FILE_ANSWER_BYTES)
        if answer.status == 404:
            return None  # a file is kept for a day
        checksums = object_in(answer).get("checksums")
        found = checksums.get("sha256") if isinstance(checksums, dict) else None
        return found if isinstance(found, str) else None


def _same_images(placed: Placed, value: object, same: Callable[[InputImage, object], bool]) -> bool:
    values = value if placed.is_list else [value]
    return isinstance(values, list) and len(values) == len(placed.images) and all(map(same, placed.images, values))


def _same_data_url(image: InputImage, value: object) -> bool:
    return value == data_uri(image)


def _is_object(row: object) -> bool:
    return isinstance(row, dict)


def _made_before(row: Mapping[str, Any], since: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(row.get("created_at"))) < since
    except (ValueError, TypeError):
        return False  # unreadable, or without a zone


def _query_of(link: object) -> str:
    """The query of the link to the next page; only that is used, so that the link leads nowhere else."""
    try:
        return urlsplit(link).query if isinstance(link, str) else ""
    except ValueError:
        return ""
