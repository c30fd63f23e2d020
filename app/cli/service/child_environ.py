"""What of the environment each process of the service is given: what it needs, and no secret beyond that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from providers.configured import MAX_ACCOUNTS, PROVIDERS
from providers.shared.signatures import SECRET_VARIABLES

MIGRATE, FLOWER_PASSWORD = "DARKROOM_MIGRATE_DATABASE_URL", "FLOWER_BASIC_AUTH"
_OF_WEB = frozenset({"DARKROOM_JWT_SECRET", "JWT_SECRET", "JWT_SECRET_KEY"})
# What screens call out with.
_OF_SCREENS = frozenset({"DARKROOM_SCREEN_HOOK_URL", "DARKROOM_SCREEN_HOOK_SECRET", "DARKROOM_MODERATION_API_KEY"})
# Of an emulator, which has no settings and no secrets of ours.
_BARE = frozenset({"PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"})
_BARE_BEGINNINGS = ("SANDBOX_", "PYTHON", "LC_", "DARKROOM_LOG_")


def of_service(environ: Mapping[str, str]) -> dict[str, str]:
    """For web and workers: all but the password of Flower and the role that owns the tables."""
    return {name: value for name, value in environ.items() if name not in {MIGRATE, FLOWER_PASSWORD}}


def of_sandbox(environ: Mapping[str, str]) -> dict[str, str]:
    """For the sandbox: how to run Python, and its own settings. No address of a server, no key."""
    return {name: value for name, value in environ.items() if name in _BARE or name.startswith(_BARE_BEGINNINGS)}


def of_flower(environ: Mapping[str, str]) -> dict[str, str]:
    """For Flower, which reads the broker alone: no database, no bucket, no key of a provider or of tokens."""
    withheld = {MIGRATE, "DATABASE_URL", *_OF_WEB, *_OF_SCREENS, *_providers_variables(), *SECRET_VARIABLES.values()}
    return {
        name: value
        for name, value in environ.items()
        if name not in withheld and not name.startswith(("AWS_", "OTEL_"))
    }


def _providers_variables() -> Iterator[str]:
    for known in PROVIDERS.values():
        for name in known.names():
            yield name
            yield from (f"{name}_{number}" for number in range(2, MAX_ACCOUNTS + 1))
