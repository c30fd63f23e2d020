"""Upstreams' own lists of models, over HTTP: read as each vendor writes them, and compared with the catalogue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from app.cli import main
from providers import model_lists, registry
from providers.catalog import catalog
from providers.registry import Registry
from sandbox.emulators import environ
from sandbox.emulators.keys import BAD_KEY
from sandbox.testing import Sandbox, running_sandbox

CATALOG = catalog.load()
LISTING = ("openai", "chatgpt2api", "flux", "replicate", "wavespeed", "gemini", "xai", "huggingface", "llamaswap")
KINDS = {"missing", "gone", "retiring", "price", "fields"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@pytest.fixture(autouse=True)
def lists_as_they_are(sandbox: Sandbox) -> None:
    sandbox.reset()


@pytest.fixture(scope="module")
def upstreams(sandbox: Sandbox) -> Registry:
    return registry.load(environ(sandbox.url))


def found(upstreams: Registry, provider: str) -> set[tuple[str, str]]:
    answer = model_lists.check(upstreams, CATALOG, provider)
    assert answer.drift is not None, answer
    assert {each.kind for each in answer.drift.differences} <= KINDS
    return {(each.kind, each.model) for each in answer.drift.differences}


def test_every_adapter_lists_its_models_or_says_that_there_is_no_list(upstreams: Registry) -> None:
    without = {name for name in upstreams.configured() if registry.model_list_of(name) is None}
    assert without == {"stability"}
    assert set(upstreams.configured()) - without == set(LISTING)
    assert model_lists.check(upstreams, CATALOG, "stability").note == model_lists.NO_LIST


@pytest.mark.parametrize("provider", LISTING)
def test_the_catalogue_and_the_emulators_agree(upstreams: Registry, provider: str) -> None:
    answer = model_lists.check(upstreams, CATALOG, provider)
    assert answer.drift is not None
    assert answer.drift.compared > 0
    assert answer.drift.differences == ()


@pytest.mark.parametrize(
    ("provider", "dropped", "model"),
    [
        ("openai", "gpt-image-2", "gpt-image-2"),
        ("chatgpt2api", "gpt-image-2", "chatgpt2api-gpt-image-2"),
        ("flux", "/v1/flux-2-max", "flux-2-max"),
        ("replicate", "black-forest-labs/flux-dev", "replicate-flux-dev"),
        ("wavespeed", "wavespeed-ai/qwen-image/text-to-image", "qwen-image"),
        ("gemini", "models/gemini-3-pro-image", "gemini-3-pro-image"),
        ("xai", "grok-imagine-image", "grok-imagine-image"),
        ("huggingface", "Qwen/Qwen-Image", "hf-qwen-image"),
    ],
)
def test_a_model_that_is_not_listed_is_missing(
    sandbox: Sandbox, upstreams: Registry, provider: str, dropped: str, model: str
) -> None:
    sandbox.change_models(provider, drop=[dropped])
    missing = found(upstreams, provider)
    paths = {CATALOG.models[each].path for _, each in missing}
    assert {kind for kind, _ in missing} == {"missing"}
    assert {CATALOG.models[model].path} == paths


def test_llama_swap_is_asked_by_its_own_names(sandbox: Sandbox) -> None:
    named = registry.load({**environ(sandbox.url), "LLAMASWAP_MODELS": "llamaswap-z-image=not-there"})
    assert found(named, "llamaswap") == {("missing", "llamaswap-z-image")}


@pytest.mark.parametrize(
    ("provider", "name", "patch", "kind"),
    [
        ("openai", "gpt-image-2", {"shutdown_date": "2020-01-01"}, "gone"),
        ("openai", "gpt-image-2", {"shutdown_date": "2999-01-01"}, "retiring"),
        ("flux", "/v1/flux-2-max", {"deprecated": True}, "retiring"),
        ("flux", "/v1/flux-2-max", {"schema": {"properties": {"seed": None}}}, "fields"),
        ("xai", "grok-imagine-image", {"image_price": 9}, "price"),
        ("wavespeed", "wavespeed-ai/qwen-image/text-to-image", {"base_price": 0.5}, "price"),
        ("wavespeed", "wavespeed-ai/qwen-image/text-to-image", {"formula": "base_price * 3"}, "price"),
        (
            "wavespeed",
            "wavespeed-ai/qwen-image/text-to-image",
            {"api_schema": {"api_schemas": {"request_schema": {"required": ["prompt", "style"]}}}},
            "fields",
        ),
        (
            "replicate",
            "black-forest-labs/flux-dev",
            {
                "latest_version": {
                    "openapi_schema": {"components": {"schemas": {"Input": {"properties": {"seed": None}}}}}
                }
            },
            "fields",
        ),
    ],
)
def test_what_else_differs(  # noqa: PLR0917 - the columns of the table
    sandbox: Sandbox, upstreams: Registry, provider: str, name: str, patch: dict[str, Any], kind: str
) -> None:
    sandbox.change_models(provider, merge={name: patch})
    assert {each for each, _ in found(upstreams, provider)} == {kind}
    sandbox.change_models(provider)
    assert found(upstreams, provider) == set()


def test_a_list_of_several_pages_is_read_to_its_end(sandbox: Sandbox, upstreams: Registry) -> None:
    many = [{"name": f"models/new-image-{number}"} for number in range(1500)]
    sandbox.change_models("gemini", add=many)
    answer = model_lists.check(upstreams, CATALOG, "gemini")
    assert answer.drift is not None
    assert not answer.drift
    assert len(answer.drift.new) == 1500


@pytest.mark.parametrize("provider", sorted(set(LISTING) - {"flux", "huggingface", "llamaswap"}))
def test_a_refused_key_is_no_drift(sandbox: Sandbox, provider: str) -> None:
    answer = model_lists.check(registry.load(sandbox.environ(provider, key=BAD_KEY)), CATALOG, provider)
    assert answer.drift is None
    assert "upstream_" in answer.error
    assert BAD_KEY not in answer.error


@pytest.mark.parametrize("fault", ["500", "drop", "429"])
def test_an_upstream_that_is_away_is_no_drift(sandbox: Sandbox, upstreams: Registry, fault: str) -> None:
    sandbox.add_fault(fault, provider="openai", route="models")
    answer = model_lists.check(upstreams, CATALOG, "openai")
    assert answer.drift is None
    assert answer.error


# ---------------------------------------------------------------- the command


@pytest.fixture
def run(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)  # without the .env of the one who runs the tests
    for name, value in {**environ(sandbox.url), "DARKROOM_VAR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    return lambda *words: CliRunner().invoke(main, ["catalog", *words])


def document(result: Result) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(result.stdout.splitlines()[0])
    return loaded


def test_check_says_for_each_upstream_what_differs(sandbox: Sandbox, run: Any) -> None:
    clean = run("check")
    assert (clean.exit_code, len(clean.stdout.splitlines())) == (0, 10)
    assert "stability: offers no list of its models" in clean.stdout
    sandbox.change_models("wavespeed", drop=["wavespeed-ai/qwen-image/text-to-image"])
    drifted = run("check")
    assert drifted.exit_code == 1
    assert "missing  qwen-image (wavespeed-ai/qwen-image/text-to-image)" in drifted.stdout
    assert run("check", "openai").exit_code == 0
    told = document(run("check", "wavespeed", "--json", "--new"))["providers"][0]
    assert [each["model"] for each in told["differences"]] == ["qwen-image"]
    assert "alibaba/wan-2.5/text-to-image" in told["new_models"]
    assert told["new"] == len(told["new_models"])


def test_check_could_not_ask(sandbox: Sandbox, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.add_fault("500", provider="xai", route="models")
    assert run("check", "xai").exit_code == 3
    assert run("check", "nosuch").exit_code == 2
    monkeypatch.setenv("XAI_API_KEY", "")
    unset = run("check", "xai")
    assert unset.exit_code == 2
    assert "XAI_API_KEY" in unset.stderr


def test_import_writes_an_entry_and_keeps_the_rest(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "catalog.local.yaml"
    file.write_text("# ours\nmodels:\n  fox: {like: flux-2-pro}  # a fox\n")
    done = run("import", "wavespeed", "bytedance/seedream-v5.0-lite")
    assert done.exit_code == 0, done.output
    assert "darkroom generate" in done.stderr
    text = file.read_text()
    assert text.startswith("# ours\nmodels:\n  fox: {like: flux-2-pro}  # a fox\n")
    # Darkroom brings this model along under its plain name, which stays its own.
    own_id = "wavespeed-seedream-v5.0-lite"
    assert own_id in done.stderr
    entry = yaml.safe_load(text)["models"][own_id]
    assert (entry["provider"], entry["path"], entry["cost_usd"]) == ("wavespeed", "bytedance/seedream-v5.0-lite", 0.035)
    found = catalog.load(local=file)
    assert found.resolve(own_id).model.path == "bytedance/seedream-v5.0-lite"
    assert found.resolve("seedream-v5.0-lite").model.id == "seedream-v5.0-lite"

    again = run("import", "wavespeed", "bytedance/seedream-v5.0-lite")
    assert (again.exit_code, file.read_text()) == (1, text)
    assert "--force" in again.stderr
    forced = run("import", "wavespeed", "bytedance/seedream-v5.0-lite", "--force", "--price", "0.07")
    assert forced.exit_code == 0, forced.output
    models = yaml.safe_load(file.read_text())["models"]
    assert (list(models), models[own_id]["cost_usd"]) == (["fox", own_id], 0.07)


def test_a_model_that_is_not_packaged_gets_its_plain_name(run: Any, tmp_path: Path) -> None:
    assert run("import", "wavespeed", "alibaba/wan-2.5/text-to-image").exit_code == 0
    [own_id] = yaml.safe_load((tmp_path / "catalog.local.yaml").read_text())["models"]
    assert own_id == "wan-2.5-text-to-image"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("wavespeed", "bytedance/video-upscaler"), "no video"),
        (("wavespeed", "bytedance/seedream-v6"), "near it are"),
        (("wavespeed", "bytedance/seedream-v5.0-lite", "--as", "qwen-image"), "packaged"),
        (("replicate", "black-forest-labs/flux-dev", "--as", "mine"), "--price"),
        (("openai", "gpt-image-2", "--as", "mine"), "without the schema"),
        (("stability", "core"), "no list"),
    ],
)
def test_import_refuses_and_writes_nothing(run: Any, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    refused = run("import", *words)
    assert refused.exit_code == 1, refused.output
    assert told in refused.stderr
    assert not (tmp_path / "catalog.local.yaml").exists()


def test_import_into_a_faulty_file_changes_nothing(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "catalog.local.yaml"
    file.write_text("models:\n  fox: {cost_usd: -1, like: flux-2-pro}\n")
    before = file.read_bytes()
    assert run("import", "wavespeed", "bytedance/seedream-v5.0-lite").exit_code == 1
    assert file.read_bytes() == before


def test_a_price_makes_replicates_models_importable(run: Any, tmp_path: Path) -> None:
    done = run("import", "replicate", "black-forest-labs/flux-dev", "--as", "mine", "--price", "0.03", "--json")
    assert done.exit_code == 0, done.output
    assert document(done)["entry"]["cost_usd"] == 0.03
    assert catalog.load(local=tmp_path / "catalog.local.yaml").models["mine"].inputs.prompt == "required"
    assert run("import", "replicate", "black-forest-labs/flux-dev", "--as", "b", "--price", "free").exit_code == 2


def test_a_dry_run_writes_nothing(run: Any, tmp_path: Path) -> None:
    assert run("import", "wavespeed", "bytedance/seedream-v5.0-lite", "--dry-run").exit_code == 0
    assert not (tmp_path / "catalog.local.yaml").exists()
