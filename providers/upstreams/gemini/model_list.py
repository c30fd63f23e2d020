"""Gemini's list: names and what each can do, by pages (CONTRACT.md, section 1)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import quote

from providers.catalog.entries import Model
from providers.errors import NotRun
from providers.listing.listed import Asker, ListedModel, Listing
from providers.listing.reading import ask_json, items_of, text_of

MAX_PAGES = 20
_IMAGE_WORDS = ("image", "imagen", "banana")


def list_models(account: Asker, models: Collection[Model]) -> Listing:
    """The models that make images by their names, and ours. Raises: ProviderError."""
    ours = {_called(model.path) for model in models}
    found = {}
    for item in _items(account):
        name = text_of(item.get("name"))
        if name in ours or any(word in name for word in _IMAGE_WORDS):
            found[name] = ListedModel(name, title=text_of(item.get("displayName")))
    return Listing(found, called={model.path: _called(model.path) for model in models})


def _called(path: str) -> str:
    """``models/<name>`` of the path ``models/<name>:<method>``."""
    return path.partition(":")[0]


def _items(account: Asker) -> Iterator[dict[str, Any]]:
    token = ""
    for _ in range(MAX_PAGES):
        page = ask_json(account, "/v1beta/models?pageSize=1000" + (f"&pageToken={quote(token)}" if token else ""))
        yield from items_of(page, "models")
        following = page.get("nextPageToken")
        if not isinstance(following, str) or not following:
            return
        token = following
    raise NotRun("upstream_broken_answer", f"the list has more than {MAX_PAGES} pages")
