"""The screens from the settings: the same ones in web processes and in workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pydantic import SecretStr
from standardwebhooks import Webhook

from core.db import Database
from core.outbound.urls import UnsafeUrlError
from core.settings import Settings, SettingsError
from jobs.screening.hook import HookScreen
from jobs.screening.moderation import ModerationScreen, limits_of
from jobs.screening.screening import Screening, recorder
from jobs.screening.subject import Screen
from providers.http.client import Outgoing, UpstreamSession

POOL_SIZE = 50


def screening_of(settings: Settings, database: Database | None, env: Mapping[str, str]) -> Screening:
    """The screens that DARKROOM_SCREENS names. ``database`` None: refusals are not written down. Raises SettingsError
    naming every fault."""
    return Screening(
        screens_of(settings, env),
        budget_s=settings.screening_timeout_s,
        fails_open=settings.screening_on_failure == "pass",
        cache_s=settings.screening_cache_s,
        record=recorder(database) if database is not None else None,
    )


def screens_of(settings: Settings, env: Mapping[str, str]) -> list[Screen]:
    """The screens in the order in which they are named. Raises SettingsError naming every fault."""
    faults: list[str] = []
    found: list[Screen] = []
    for name in dict.fromkeys(filter(None, map(str.strip, settings.screens.split(",")))):
        build = SCREENS.get(name)
        if build is None:
            faults.append(f"DARKROOM_SCREENS: there is no screen {name[:50]!r}, only {', '.join(SCREENS)}")
            continue
        try:
            found.append(build(settings, env))
        except SettingsError as error:
            faults.append(str(error))
    if faults:
        raise SettingsError("; ".join(faults))
    return found


def _words(settings: Settings, _env: Mapping[str, str]) -> Screen:
    from jobs.screening.words import WordsFileError, WordsScreen  # loads RE2, which no one else needs

    if settings.screen_words is None:
        raise SettingsError("the screen words needs DARKROOM_SCREEN_WORDS, the file of the words")
    try:
        return WordsScreen.of(settings.screen_words)
    except WordsFileError as error:
        raise SettingsError(f"DARKROOM_SCREEN_WORDS: {error}") from None


def _hook(settings: Settings, _env: Mapping[str, str]) -> Screen:
    url, secret = _value(settings.screen_hook_url), _value(settings.screen_hook_secret)
    if url is None or secret is None:
        raise SettingsError("the screen hook needs DARKROOM_SCREEN_HOOK_URL and DARKROOM_SCREEN_HOOK_SECRET")
    try:
        Webhook(secret)
    except Exception:  # noqa: BLE001 (whatever is wrong with it, its text must not be shown)
        raise SettingsError("DARKROOM_SCREEN_HOOK_SECRET: it must be whsec_ and base64") from None
    screen = HookScreen(
        url,
        secret,
        allows_private=settings.screen_hook_private,
        sends_images=settings.screen_hook_images == "data",
    )
    try:
        screen.check()
    except (UnsafeUrlError, ValueError):
        raise SettingsError(
            "DARKROOM_SCREEN_HOOK_URL: it must be an https URL on port 443 at a public address; any other one is"
            " allowed by DARKROOM_SCREEN_HOOK_PRIVATE=true"
        ) from None
    return screen


def _moderation(settings: Settings, env: Mapping[str, str]) -> Screen:
    key = _value(settings.moderation_api_key)
    if key is None:
        raise SettingsError("the screen moderation needs DARKROOM_MODERATION_API_KEY")
    try:
        limits = limits_of(settings.moderation_categories)
    except ValueError as error:
        raise SettingsError(f"DARKROOM_MODERATION_CATEGORIES: {error}") from None
    outgoing = Outgoing(POOL_SIZE, ca_file=env.get("REQUESTS_CA_BUNDLE") or None)
    session = UpstreamSession(settings.moderation_base_url, {"Authorization": f"Bearer {key}"}, outgoing)
    return ModerationScreen(session, settings.moderation_model, limits)


# What DARKROOM_SCREENS may name.
SCREENS: Mapping[str, Callable[[Settings, Mapping[str, str]], Screen]] = MappingProxyType(
    {"words": _words, "hook": _hook, "moderation": _moderation}
)


def _value(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None
