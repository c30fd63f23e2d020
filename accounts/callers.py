"""Who is behind a bearer token, whichever of the two it is: an API key, or a JWT where these are configured."""

from __future__ import annotations

from dataclasses import dataclass

from accounts.keys import Caller, KeyCache
from accounts.tokens import TokenCache, is_token


@dataclass(frozen=True, slots=True)
class Callers:
    """``tokens`` None: no JWT is taken."""

    keys: KeyCache
    tokens: TokenCache | None = None

    def authenticate(self, token: str) -> Caller | None:
        """The caller, or None for a key that is not valid. Raises TokenRefusedError, KeysAwayError,
        DatabaseAwayError."""
        if self.tokens and is_token(token):
            return self.tokens.authenticate(token)
        return self.keys.authenticate(token)

    def knows(self, token: str) -> bool:
        """Whether the token was good when it was last looked up here; lets no one in."""
        return self.tokens.knows(token) if self.tokens and is_token(token) else self.keys.knows(token)
