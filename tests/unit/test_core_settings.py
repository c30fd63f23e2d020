"""Variables: read once, wrong ones named together, secrets never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.settings import Settings, SettingsError, load, may_be_a_file, with_dotenv
from providers.configured import PROVIDERS


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)
    for name in ("DARKROOM_KEEP_PICTURES_DAYS", "JWT_SECRET", "JWT_SECRET_KEY", "JWT_AUDIENCE", "JWKS_URL"):
        monkeypatch.delenv(name, raising=False)


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


# ---------------------------------------------------------------- secrets in files


def test_a_secret_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"DATABASE_URL": "postgresql://me:pw@host/db", "AWS_SECRET_ACCESS_KEY": "s3cret"}.items():
        (tmp_path / name).write_text(f"{value}\n")
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / name))
    settings = load()
    assert settings.database_url == "postgresql+psycopg://me:pw@host/db"
    assert settings.aws_secret_access_key is not None
    assert settings.aws_secret_access_key.get_secret_value() == "s3cret"


def test_keys_of_providers_and_of_numbered_accounts_may_stand_in_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1\n")
    given = {
        name: str(tmp_path / "key")
        for name in ("OPENAI_API_KEY_FILE", "OPENAI_API_KEY_2_FILE", "HF_TOKEN_FILE", "REPLICATE_WEBHOOK_SECRET_FILE")
    }
    assert with_dotenv(given) == {name.removesuffix("_FILE"): "sk-1" for name in given}


def test_every_secret_of_settings_and_providers_may_be_a_file() -> None:
    ours = {str(field.alias) for field in Settings.model_fields.values() if "SecretStr" in str(field.annotation)}
    words = ("KEY", "TOKEN", "SECRET")
    theirs = {
        name for known in PROVIDERS.values() for name in known.names() if any(word in name.split("_") for word in words)
    }
    assert len(ours) >= 5
    assert len(theirs) >= 10
    assert {name for name in ours | theirs if not may_be_a_file(name)} == set()


def test_names_of_others_that_end_in_file_are_left_alone(tmp_path: Path) -> None:
    others = {"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SHARED_CREDENTIALS_FILE", "SSL_CERT_FILE", "PGPASSFILE"}
    given = dict.fromkeys(others, str(tmp_path / "absent"))
    assert with_dotenv(given) == given


def test_a_secret_that_is_given_twice_is_refused_by_both_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://from-the-file/0")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1/0")
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match="REDIS_URL and REDIS_URL_FILE are both set") as refused:
        load()
    assert "DATABASE_URL_FILE" in str(refused.value)
    assert "No such file" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b" \n", "empty"), (b"\xff\xfe", "not UTF-8"), (b"x" * 70_000, "too large")],
    ids=lambda p: str(p)[:9],
)
def test_a_file_that_holds_no_secret_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(SettingsError, match=f"XAI_API_KEY_FILE: .* {why}"):
        with_dotenv({"XAI_API_KEY_FILE": str(tmp_path / "key")})


def test_the_environment_wins_over_the_env_file_whichever_of_them_names_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file")
    Path(".env").write_text(f"XAI_API_KEY_FILE={tmp_path / 'key'}\nHF_TOKEN=from-dotenv\n")
    assert with_dotenv({})["XAI_API_KEY"] == "from-file"
    merged = with_dotenv({"XAI_API_KEY": "", "HF_TOKEN_FILE": str(tmp_path / "key")})
    assert (merged["XAI_API_KEY"], merged["HF_TOKEN"]) == ("", "from-file")


LONG = "x" * 32


@pytest.mark.parametrize(
    "name", ["DARKROOM_JWT_SECRET", "JWT_SECRET", "JWT_SECRET_KEY", "DARKROOM_JWT_SECRET_FILE", "JWT_SECRET_FILE"]
)
def test_the_secret_of_tokens_goes_by_its_names_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "secret").write_text(f"{LONG}\n")
    monkeypatch.setenv(name, str(tmp_path / "secret") if name.endswith("_FILE") else LONG)
    secret = load().jwt_secret
    assert secret is not None
    assert secret.get_secret_value() == LONG


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DARKROOM_JWT_SECRET", "short", "at least 32 bytes"),
        ("JWT_SECRET", "short", "at least 32 bytes"),
        ("DARKROOM_JWT_JWKS_URL", "https://issuer.example/keys", "needs DARKROOM_JWT_AUDIENCE"),
        ("DARKROOM_JWT_JWKS_URL", "file:///etc/passwd", "DARKROOM_JWT_JWKS_URL"),
        ("DARKROOM_JWT_LEEWAY_S", "61", "DARKROOM_JWT_LEEWAY_S"),
        ("DARKROOM_JWT_ACCOUNT_CLAIM", "email", "DARKROOM_JWT_ACCOUNT_CLAIM"),
    ],
)
def test_settings_of_tokens_that_let_in_too_much(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=words) as caught:
        load()
    assert "short" not in str(caught.value)
