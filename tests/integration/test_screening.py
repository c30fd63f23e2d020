"""Screens over real HTTP: the operator's hook, a moderation endpoint, and that a refusal leaves nothing but its row."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from job_engine import CREDIT, SYNC_MODEL, Engine, image_bytes
from PIL import Image, PngImagePlugin
from receivers import Got, Receiver, receiver
from sqlalchemy import text
from standardwebhooks import Webhook

from accounts.accounts import create_account
from accounts.keys import Caller, create_key
from app import create_app
from app.cli.operator import doctor
from app.services import Services, build
from core.db import Database
from core.settings import Settings, SettingsError
from jobs.errors import BadImageError, ContentRefusedError, ScreeningUnavailableError
from jobs.maintenance.retention import Retention
from jobs.screening import refusals
from jobs.screening.building import screening_of
from jobs.screening.refusals import Refused
from jobs.submission.order import ReferenceImage
from quota import ledger
from sandbox.testing import Sandbox
from storage.local import LocalStore

SECRET = "whsec_" + base64.b64encode(b"h" * 32).decode()
BAD = "a scene of gore"
TABLES = ("jobs", "orders", "inputs", "job_events", "transfers", "idempotency_keys")


def _settings(**variables: Any) -> Settings:
    return Settings(_env_file=None, **variables)  # type: ignore[call-arg]


def _screen(engine: Engine, **variables: Any) -> None:
    """Have the engine's orders screened as these settings say."""
    engine.submission.screening = screening_of(_settings(**variables), engine.database, {})


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as found:
        found.statuses(200)
        found.body = b'{"action": "allow"}'
        yield found


@pytest.fixture
def hooked(engine: Engine, hook: Receiver) -> Callable[..., None]:
    def screen(**variables: Any) -> None:
        known = {
            "DARKROOM_SCREENS": "hook",
            "DARKROOM_SCREEN_HOOK_URL": f"{hook.url}/screen?token=s3cret",
            "DARKROOM_SCREEN_HOOK_SECRET": SECRET,
            "DARKROOM_SCREEN_HOOK_PRIVATE": True,
            "DARKROOM_SCREENING_CACHE_S": 0,
        }
        _screen(engine, **{**known, **variables})

    screen()
    return screen


@pytest.fixture
def unchanged(engine: Engine, account: Caller, store: LocalStore) -> Callable[[], bool]:
    def state() -> tuple[object, ...]:
        counts = tuple(engine.one(f"SELECT count(*) FROM {table}") for table in TABLES)
        return counts, sorted(store.iter_keys("inputs/")), engine.balance(account)

    before = state()
    return lambda: state() == before


# ---------------------------------------------------------------- the hook


def test_the_hook_is_told_what_is_asked_for_and_can_tell_who_asks(
    engine: Engine, account: Caller, hook: Receiver, hooked: Callable[..., None], png: bytes
) -> None:
    held: list[int] = []

    def look(_got: Got) -> tuple[int, dict[str, str]]:
        held.append(
            engine.one("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = :name",
                       name=engine.database.engine.url.database)
        )  # fmt: skip
        return 200, {}

    hook.answer = look
    image = ReferenceImage("image", png, "images[0]")
    task = engine.order(account, "a fox", model=SYNC_MODEL, operation="edit", references=[image]).task
    assert task.status == "queued"
    [got] = hook.got
    assert held == [0]  # no transaction waits for the hook
    body = Webhook(SECRET).verify(got.body, dict(got.headers))
    assert body["type"] == "order.screen"
    assert body["data"] == {
        "object": "screening",
        "kind": "order",
        "account_id": account.account_id,
        "operation": "edit",
        "model": SYNC_MODEL,
        "prompt": "a fox",
        "negative_prompt": None,
        "texts": {},
        "images": [
            {
                "role": "image",
                "field": "images[0]",
                "mime": "image/png",
                "size_bytes": len(png),
                "sha256": hashlib.sha256(png).hexdigest(),
            }
        ],
    }
    hooked(DARKROOM_SCREEN_HOOK_IMAGES="data")
    engine.order(account, "a fox", model=SYNC_MODEL, operation="edit", references=[image])
    assert base64.b64decode(hook.got[1].document["data"]["images"][0]["data"]) == png


def test_what_the_hook_refuses_costs_nothing_and_leaves_only_its_row(  # noqa: PLR0917 - fixtures come by name
    engine: Engine,
    account: Caller,
    hook: Receiver,
    hooked: Callable[..., None],
    unchanged: Callable[[], bool],
    png: bytes,
) -> None:
    hook.body = b'{"action": "refuse", "category": "Sexual Minors", "field": "images[0]"}'
    image = ReferenceImage("image", png, "images[0]")
    with pytest.raises(ContentRefusedError) as error:
        engine.order(account, BAD, model=SYNC_MODEL, operation="edit", references=[image])
    assert (error.value.category, error.value.faults[0].field) == ("sexual_minors", "images[0]")
    assert unchanged()
    engine.assert_books_balance()
    [row] = engine.rows("SELECT account_id, key_id, screen, category, prompt_sha256 FROM screening_refusals")
    digest = hashlib.sha256(BAD.encode()).hexdigest()
    assert tuple(row) == (account.account_id, None, "hook", "sexual_minors", digest)


_BAD_ANSWERS = [
    (500, b'{"action": "allow"}'),
    (204, b""),
    (302, b'{"action": "allow"}'),
    (200, b""),
    (200, b"yes"),
    (200, b"[1]"),
    (200, b'{"action": "maybe"}'),
    (200, b'{"action": true}'),
    (200, b"[" * 50_000),
    (200, b" " * 100_000 + b'{"action": "allow"}'),
]


def test_a_hook_that_says_neither_yes_nor_no_lets_nothing_pass(
    engine: Engine, account: Caller, hook: Receiver, hooked: Callable[..., None], unchanged: Callable[[], bool]
) -> None:
    for status, body in _BAD_ANSWERS:
        hook.statuses(status, Location=f"{hook.url}/elsewhere")
        hook.body = body
        with pytest.raises(ScreeningUnavailableError):
            engine.order(account)
    assert len(hook.got) == len(_BAD_ANSWERS)  # no redirect was followed, and nothing was asked twice
    assert unchanged()
    assert engine.one("SELECT count(*) FROM screening_refusals") == 0
    hooked(DARKROOM_SCREENING_ON_FAILURE="pass")
    assert engine.order(account).task.status == "queued"


def test_a_hook_that_is_silent_or_away_costs_the_time_of_the_screens_at_most(
    engine: Engine, account: Caller, hook: Receiver, hooked: Callable[..., None], unchanged: Callable[[], bool]
) -> None:
    go_on = threading.Event()

    def silent(_got: Got) -> tuple[int, dict[str, str]]:
        go_on.wait(30)
        return 200, {}

    hook.answer = silent
    hooked(DARKROOM_SCREENING_TIMEOUT_S=0.3)
    with pytest.raises(ScreeningUnavailableError):
        engine.order(account)
    go_on.set()
    hooked(DARKROOM_SCREEN_HOOK_URL="http://127.0.0.1:9/")
    with pytest.raises(ScreeningUnavailableError):
        engine.order(account)
    assert unchanged()


def test_a_private_hook_is_asked_only_if_the_operator_says_so() -> None:
    secret = {"DARKROOM_SCREENS": "hook", "DARKROOM_SCREEN_HOOK_SECRET": SECRET}
    for url in ("http://127.0.0.1:9/", "https://10.0.0.1/", "http://hooks.example/", "ftp://hooks.example/"):
        with pytest.raises(SettingsError, match="DARKROOM_SCREEN_HOOK_PRIVATE"):
            screening_of(_settings(**secret, DARKROOM_SCREEN_HOOK_URL=url), None, {})
    # A name is judged when it is asked for.
    named = _settings(**secret, DARKROOM_SCREEN_HOOK_URL="https://localhost/")
    [screen] = screening_of(named, None, {}).screens
    with pytest.raises(Exception, match="url_not_allowed"):
        screen.probe(within_s=5)


# ---------------------------------------------------------------- the moderation endpoint


@pytest.fixture
def moderated(engine: Engine, sandbox: Sandbox) -> Callable[..., None]:
    def screen(**variables: Any) -> None:
        known = {
            "DARKROOM_SCREENS": "moderation",
            "DARKROOM_MODERATION_BASE_URL": sandbox.openai_url,
            "DARKROOM_MODERATION_API_KEY": "test-key",
            "DARKROOM_SCREENING_CACHE_S": 0,
        }
        _screen(engine, **{**known, **variables})

    screen()
    return screen


def _flagged(category: str) -> str:
    return f"a fox [sandbox:refuse={category} at=moderation]"


def test_what_the_moderation_endpoint_flags_is_refused(
    engine: Engine, account: Caller, moderated: Callable[..., None], unchanged: Callable[[], bool]
) -> None:
    with pytest.raises(ContentRefusedError) as error:
        engine.order(account, _flagged("violence/graphic"))
    assert (error.value.category, error.value.faults[0].field) == ("violence/graphic", "prompt")
    assert unchanged()
    for said in ("429", "500", "garbage", "wrong_type", "drop"):
        with pytest.raises(ScreeningUnavailableError):
            engine.order(account, f"a fox [sandbox:{said} at=moderation]")
    assert unchanged()
    moderated(DARKROOM_MODERATION_CATEGORIES="sexual, violence=0.99")
    engine.order(account, _flagged("violence"))  # its score is 0.98
    with pytest.raises(ContentRefusedError):
        engine.order(account, _flagged("sexual"))
    moderated(DARKROOM_MODERATION_API_KEY="bad-key")
    with pytest.raises(ScreeningUnavailableError):
        engine.order(account)


def _with_comment(comment: str) -> bytes:
    out, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("Comment", comment)
    Image.new("RGB", (64, 64)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def test_each_image_is_judged_and_the_one_at_fault_is_named(
    engine: Engine,
    account: Caller,
    moderated: Callable[..., None],
    unchanged: Callable[[], bool],
) -> None:
    good, bad = image_bytes(), _with_comment("[sandbox:refuse=sexual at=moderation]")
    images = [ReferenceImage("image", data, f"images[{at}]") for at, data in enumerate((good, bad))]
    with pytest.raises(ContentRefusedError) as error:
        engine.order(account, model=SYNC_MODEL, operation="edit", references=images)
    assert (error.value.category, error.value.faults[0].field) == ("sexual", "images[1]")
    assert unchanged()
    avif = io.BytesIO()
    Image.new("RGB", (64, 64)).save(avif, "AVIF")
    with pytest.raises(BadImageError) as unfit:
        engine.order(
            account,
            model=SYNC_MODEL,
            operation="edit",
            references=[ReferenceImage("image", avif.getvalue(), "images[0]")],
        )
    assert unfit.value.code == "unsupported_image_type"
    assert unchanged()


def test_the_settings_name_every_fault(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        screening_of(
            _settings(
                DARKROOM_SCREENS="words, hook,moderation,taste",
                DARKROOM_SCREEN_WORDS=tmp_path / "none.yaml",
                DARKROOM_SCREEN_HOOK_URL="https://hooks.example/",
                DARKROOM_SCREEN_HOOK_SECRET="whsec_=",
                DARKROOM_MODERATION_API_KEY="k",
                DARKROOM_MODERATION_CATEGORIES="violence=7",
            ),
            None,
            {},
        )
    told = str(error.value)
    for name in ("SCREEN_WORDS", "SCREEN_HOOK_SECRET", "MODERATION_CATEGORIES", "'taste'"):
        assert name in told


# ---------------------------------------------------------------- the rows


def test_refusals_are_counted_by_account_and_key_and_go_after_their_days(
    engine: Engine, account: Caller, database: Database
) -> None:
    other = engine.account()
    with database.transaction() as connection:
        for key_id in ("k1", "k1", "k2", None):
            refusals.record_refusal(connection, account.account_id, key_id, "violence")
        refusals.record_refusal(connection, other.account_id, "k3", "sexual", screen="hook")
        connection.execute(
            text("UPDATE screening_refusals SET at = at - interval '2 days' WHERE key_id IN ('k2', 'k3')")
        )
    with database.autocommit() as connection:
        mine = account.account_id
        assert refusals.refusals_of(connection, mine, since_s=3600) == 3
        assert refusals.refusals_of(connection, mine, key_id="k1", since_s=3600) == 2
        assert refusals.refusals_of(connection, mine, key_id="k2", since_s=3600) == 0
        assert refusals.refused_lately(connection, since_s=3600, least=2) == [Refused(mine, "k1", 2)]
        assert len(refusals.refused_lately(connection, since_s=7 * 86_400)) == 4
    context = engine.context
    kept = Retention("wkr_test", context.database, context.media, context.store, 0, 0)
    assert "screening_refusals" not in {each.name for each in kept.expiry_backlogs()}
    backlogs = replace(kept, keep_refusals_days=1).expiry_backlogs()
    [backlog] = [each for each in backlogs if each.name == "screening_refusals"]
    assert [backlog.page(1).rows for _ in range(3)] == [1, 1, 0]
    assert engine.one("SELECT count(*) FROM screening_refusals") == 3


# ---------------------------------------------------------------- the whole app


@pytest.fixture(scope="module")
def services(shared_database: Database, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("screening")
    (folder / "words.yaml").write_text("categories: {violence: {words: [gore]}}", encoding="utf-8")
    settings = _settings(
        DARKROOM_VAR=folder,
        DATABASE_URL=shared_database.engine.url.render_as_string(hide_password=False),
        REDIS_URL=redis_url,
        DARKROOM_DECODERS=1,
        DARKROOM_SCREENS="words",
        DARKROOM_SCREEN_WORDS=folder / "words.yaml",
    )
    built = build(settings, {"OPENAI_API_KEY": "test-key"})
    yield built
    built.uploads.references.media.close()


def test_a_rerun_and_each_line_of_a_batch_are_screened_by_themselves(services: Services, database: Database) -> None:
    with database.transaction() as connection:
        made = create_account(connection, "painter")
        ledger.grant(connection, made.id, 1_000 * CREDIT)
        key = create_key(connection, made.id, name="k", scopes=("jobs:write", "jobs:read"))
    headers = {"Authorization": f"Bearer {key.token}"}
    own = replace(services, publish=lambda _: True, feeder=replace(services.feeder, publish=lambda _: True))
    client = create_app(_settings(), own).test_client()
    good = {"model": "gpt-image-2", "prompt": "a fox", "quality": "low", "size": "1024x1024"}
    first = client.post("/api/images/generate", json=good, headers=headers)
    assert first.status_code == 202, first.text
    again = client.post(f"/api/images/tasks/{first.json['id']}/rerun", json={"prompt": BAD}, headers=headers)
    assert (again.status_code, again.json["category"]) == (422, "violence")
    orders = [good, {**good, "prompt": BAD}, good]
    batch = client.post("/api/images/batches", json={"orders": orders}, headers=headers)
    assert batch.status_code == 202, batch.text
    assert [each["error"] and each["error"]["code"] for each in batch.json["lines"]] == [None, "content_refused", None]
    assert batch.json["lines"][1]["error"]["category"] == "violence"
    with database.autocommit() as connection:
        assert refusals.refused_lately(connection, since_s=60) == [Refused(made.id, key.id, 2)]


# ---------------------------------------------------------------- doctor


def test_doctor_says_which_screens_are_on_and_whether_they_answer(
    hook: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.yaml").write_text("categories: {violence: {words: [gore]}}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    variables = {
        "DARKROOM_SCREENS": "words,hook",
        "DARKROOM_SCREEN_WORDS": str(tmp_path / "words.yaml"),
        "DARKROOM_SCREEN_HOOK_URL": f"{hook.url}/screen?token=s3cret",
        "DARKROOM_SCREEN_HOOK_SECRET": SECRET,
        "DARKROOM_SCREEN_HOOK_PRIVATE": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    told, findings = doctor._screens()
    assert told[0] == "screen words: 1 words and patterns in 1 categories"
    assert told[1].startswith(f"screen hook: {hook.url} answers")
    assert findings == []
    assert json.loads(hook.got[0].body)["type"] == "order.screen.test"
    hook.statuses(500)
    told, [finding] = doctor._screens()
    assert (finding.kind, finding.subject) == ("screen_unanswered", "hook")
    assert "no order is accepted" in finding.cause
    assert "s3cret" not in repr(told) + repr(finding)
    monkeypatch.setenv("DARKROOM_SCREENS", "taste")
    told, [finding] = doctor._screens()
    assert (told, finding.kind) == ([], "screens_misconfigured")
