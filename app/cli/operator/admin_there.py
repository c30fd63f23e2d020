"""What administrators do, through a server by HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from app.cli.client.answers import Document
from app.cli.client.connection import Client

_BASE = "/api/admin"
_PAGE = 100


class There:
    """app.cli.operator.admin.Admin by the routes themselves."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create_account(self, body: Mapping[str, Any]) -> Document:
        return self._client.post(f"{_BASE}/accounts", body)

    def accounts(self) -> list[Document]:
        return self._all("accounts", {})

    def account(self, name: str) -> Document:
        return self._client.get(f"{_BASE}/accounts/{quote(name, safe='')}")

    def change_account(self, name: str, body: Mapping[str, Any]) -> Document:
        return self._client.patch(f"{_BASE}/accounts/{quote(name, safe='')}", body)

    def create_key(self, body: Mapping[str, Any]) -> Document:
        return self._client.post(f"{_BASE}/keys", body)

    def keys(self, account: str | None) -> list[Document]:
        return self._all("keys", {"account": account})

    def change_key(self, key_id: str, body: Mapping[str, Any]) -> Document:
        return self._client.patch(f"{_BASE}/keys/{quote(key_id, safe='')}", body)

    def rotate_key(self, key_id: str, overlap_s: int) -> Document:
        return self._client.post(f"{_BASE}/keys/{quote(key_id, safe='')}/rotate", {"overlap_s": overlap_s})

    def revoke_key(self, key_id: str) -> Document:
        return self._client.post(f"{_BASE}/keys/{quote(key_id, safe='')}/revoke")

    def pause_key(self, key_id: str, reason: str) -> Document:
        return self._client.post(f"{_BASE}/keys/{quote(key_id, safe='')}/pause", {"reason": reason})

    def resume_key(self, key_id: str) -> Document:
        return self._client.post(f"{_BASE}/keys/{quote(key_id, safe='')}/resume")

    def grant(self, body: Mapping[str, Any], idempotency_key: str | None) -> Document:
        return self._client.post_once(f"{_BASE}/grants", body, idempotency_key)

    def provider_keys(self, account: str | None) -> list[Document]:
        found: list[Document] = self._client.get(f"{_BASE}/provider-keys", {"account": account})["data"]
        return found

    def store_provider_key(self, account: str, provider: str, body: Mapping[str, Any]) -> Document:
        return self._client.put(_provider_key(account, provider), body)

    def change_provider_key(self, account: str, provider: str, body: Mapping[str, Any]) -> Document:
        return self._client.patch(_provider_key(account, provider), body)

    def delete_provider_key(self, account: str, provider: str) -> None:
        self._client.delete(_provider_key(account, provider))

    def rotate_provider_keys(self) -> Document:
        return self._client.post(f"{_BASE}/provider-keys/rotate")

    def actions(self, filters: Mapping[str, Any]) -> Document:
        return self._client.get(f"{_BASE}/actions", filters)

    def abuse_rules(self, account: str | None) -> list[Document]:
        return list(self._client.get(f"{_BASE}/abuse/rules", {"account": account})["data"])

    def change_rule(self, rule: str, body: Mapping[str, Any]) -> Document:
        return self._client.patch(f"{_BASE}/abuse/rules/{quote(rule, safe='')}", body)

    def reset_rule(self, rule: str, account: str) -> Document:
        return self._client.delete(f"{_BASE}/abuse/rules/{quote(rule, safe='')}", {"account": account})

    def abuse_events(self, filters: Mapping[str, Any]) -> Document:
        given = {name: str(value).lower() if isinstance(value, bool) else value for name, value in filters.items()}
        return self._client.get(f"{_BASE}/abuse/events", given)

    def send_operator_test(self) -> Document:
        return self._client.post(f"{_BASE}/abuse/test")

    def acknowledge(self, event_id: str, note: str) -> Document:
        return self._client.post(f"{_BASE}/abuse/events/{quote(event_id, safe='')}/acknowledge", {"note": note})

    def _all(self, noun: str, query: Mapping[str, Any]) -> list[Document]:
        found: list[Document] = []
        cursor = None
        while True:
            page = self._client.page(f"{_BASE}/{noun}", {**query, "limit": _PAGE, "cursor": cursor})
            found += page.items
            if (cursor := page.next_cursor) is None:
                return found


def _provider_key(account: str, provider: str) -> str:
    return f"{_BASE}/accounts/{quote(account, safe='')}/provider-keys/{quote(provider, safe='')}"
