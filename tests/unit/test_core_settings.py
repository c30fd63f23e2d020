"""Variables: read once, wrong ones named together, secrets never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.settings import Settings, SettingsError, load


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)
    monkeypatch.delenv("DARKROOM_KEEP_PICTURES_DAYS", raising=False)


def test_defaults_need_no_variable() -> None:
    settings = load()
    assert (settings.port, settings.flower_port, settings.redis_port) == (8000, 8001, 8004)
    assert settings.blobs_dir == Path("var/blobs")


def test_ports_follow_the_first_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_PORT", "9000")
    monkeypatch.setenv("DARKROOM_FLOWER_PORT", "1234")
    monkeypatch.setenv("DARKROOM_SANDBOX_PORT", "  ")
    settings = load()
    assert (settings.flower_port, settings.sandbox_port, settings.postgres_port) == (1234, 9002, 9003)


def test_images_are_kept_by_the_variables_old_name_unless_the_new_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_KEEP_PICTURES_DAYS", "3")
    assert load().keep_images_days == 3
    monkeypatch.setenv("DARKROOM_KEEP_IMAGES_DAYS", "7")
    assert load().keep_images_days == 7
    monkeypatch.delenv("DARKROOM_KEEP_PICTURES_DAYS")
    assert load().keep_images_days == 7


def test_the_old_name_in_an_env_file_still_counts() -> None:
    Path(".env").write_text("DARKROOM_KEEP_PICTURES_DAYS=3\n")
    assert load().keep_images_days == 3


def test_a_bad_number_of_days_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_KEEP_PICTURES_DAYS", "-1")
    with pytest.raises(SettingsError, match=r"DARKROOM_KEEP_(IMAGES|PICTURES)_DAYS"):
        load()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_a_database_url(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://me:pw@host/db")
    assert load().database_url == "postgresql+psycopg://me:pw@host/db"


def test_another_database_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://me:hunter2@host/db")
    with pytest.raises(SettingsError) as refusal:
        _ = load().database_url
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("name", ["database_url", "redis_url", "broker_url"])
def test_a_missing_server_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=r"(DATABASE|REDIS)_URL is not set"):
        getattr(load(), name)


def test_the_broker_is_redis_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://one")
    assert load().broker_url == "redis://one"
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://two")
    assert load().broker_url == "redis://two"


def test_every_bad_variable_is_named_at_once_and_no_value_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_PORT", "99999")
    monkeypatch.setenv("DARKROOM_MARKUP", "-7.25")
    monkeypatch.setenv("CANCEL_CHARGE", "sometimes-secret")
    with pytest.raises(SettingsError) as refusal:
        load()
    said = str(refusal.value)
    assert all(name in said for name in ("DARKROOM_PORT", "DARKROOM_MARKUP", "CANCEL_CHARGE"))
    assert "sometimes-secret" not in said
    assert "99999" not in said


def test_secrets_are_not_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@host/0")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@host/db")
    assert "hunter2" not in repr(load())


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1
