"""Expiring links to one image, for places that have no key: a browser, a mail, a chat.

The signature covers method, path, image, account, expiry, the id of the signing key, and the size and format asked
for: the holder of a link to an image cannot have others made of it. Links live at least as long as
DARKROOM_LINK_LIFE_S says and less than twice as long: their end is rounded to a multiple of it, so that a task that is
read twice within that time gives the same link to caches. A caller who names a life gets exactly that.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from core.errors import ServiceError

LIFE_S = 3600
TASKS = "/api/images/tasks"

VARIANT = ("width", "height", "format")
WHOLE: Mapping[str, object] = MappingProxyType({})


class SignatureInvalidError(ServiceError):
    """The link was altered, or its signing key is gone."""

    code = "signature_invalid"


class SignatureExpiredError(ServiceError):
    """The link has expired."""

    code = "signature_expired"


def image_path(job_id: str) -> str:
    """The path of the images of a task; which of them is said by the query."""
    return f"{TASKS}/{job_id}/image"


def variant_text(asked: Mapping[str, object]) -> str:
    """The parameters that make a variant as one text, empty for the image itself."""
    return "&".join(f"{name}={asked[name]}" for name in VARIANT if asked.get(name) is not None)


@dataclass(frozen=True, slots=True)
class Signer:
    """``keys`` by id, the one to sign with first; the others still open older links. ``life_s``: how long links live at
    least."""

    keys: Mapping[str, bytes] = field(repr=False)
    life_s: int = LIFE_S

    def image_link(self, account_id: str, job_id: str, index: int) -> str:
        """Path and query of a link to an image of a task."""
        path = image_path(job_id)
        return f"{path}?{self.link(path, account_id=account_id, index=index)}"

    def link(
        self,
        path: str,
        *,
        account_id: str,
        index: int,
        variant: Mapping[str, object] = WHOLE,
        now_s: float | None = None,
        life_s: int | None = None,
    ) -> str:
        """The query of a link to an image, good for ``life_s`` seconds, or as long as links are here. ``variant`` has
        the parameters of VARIANT."""
        kid = next(iter(self.keys))
        expires = self.expiry_s(now_s, life_s)
        asked = variant_text(variant)
        signature = self._sign(kid, path, account_id, index=index, expires=expires, variant=asked)
        # Ids, numbers, formats and hex: nothing here needs quoting.
        whole = f"index={index}&account={account_id}&expires={expires}&kid={kid}&signature={signature}"
        return f"{asked}&{whole}" if asked else whole

    def expiry_s(self, now_s: float | None = None, life_s: int | None = None) -> int:
        """When a link made now ends, in Unix seconds: exactly ``life_s`` later where that is given, else constant
        within the life of a link."""
        now_s = time.time() if now_s is None else now_s
        return int(now_s) + life_s if life_s is not None else (int(now_s) // self.life_s + 2) * self.life_s

    def check(
        self,
        path: str,
        *,
        account_id: str,
        index: int,
        expires: int,
        kid: str,
        signature: str,
        variant: Mapping[str, object] = WHOLE,
    ) -> None:
        """Raises SignatureInvalidError, SignatureExpiredError."""
        known = kid if kid in self.keys else next(iter(self.keys))
        right = self._sign(known, path, account_id, index=index, expires=expires, variant=variant_text(variant))
        if not hmac.compare_digest(right.encode(), signature.encode("utf-8", "replace")) or known != kid:
            raise SignatureInvalidError
        if time.time() >= expires:
            raise SignatureExpiredError

    def _sign(self, kid: str, path: str, account_id: str, *, index: int, expires: int, variant: str) -> str:
        parts = ("GET", path, account_id, str(index), str(expires), kid)
        # Left out for the image itself, so that links made before variants were signed stay good.
        text = "\n".join((*parts, variant) if variant else parts)
        return hmac.new(self.keys[kid], text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
