"""Which providers the environment configures, and how they are found."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from providers import configured, registry
from providers.catalog import catalog
from providers.catalog.files import PACKAGED, common_file, provider_files
from providers.configured import PROVIDERS, configured_names
from sandbox.emulators import Emulator, all_emulators, environ

BOTH = {
    "OPENAI_API_KEY": "sk-secret",
    "CHATGPT2API_BASE_URL": "http://127.0.0.1:3200/v1",
    "CHATGPT2API_API_KEY": "topsecret",
}


def test_an_empty_environment_configures_nothing() -> None:
    assert configured_names({}) == ()
    assert registry.load({}).configured() == []


def test_providers_are_found_by_name_and_by_credential() -> None:
    loaded = registry.load(BOTH)
    assert sorted(loaded.configured()) == sorted(configured_names(BOTH)) == ["chatgpt2api", "openai"]
    [openai] = loaded.of("openai")
    assert loaded.by_credential("openai/default") is openai
    assert openai.base_url == "https://api.openai.com/v1"
    assert loaded.by_credential("chatgpt2api/default").base_url == "http://127.0.0.1:3200"
    assert loaded.of("replicate") == []
    with pytest.raises(registry.UnknownCredentialError):
        loaded.by_credential("openai/gone")


def test_what_a_provider_needs_stands_in_the_catalogue() -> None:
    assert PROVIDERS.keys() == catalog.load().providers.keys()
    assert PROVIDERS["chatgpt2api"].needed == (("CHATGPT2API_BASE_URL",), ("CHATGPT2API_API_KEY",))
    assert PROVIDERS["flux"].needed == (("BFL_API_KEY", "BLACK_FOREST_LABS_API_KEY"),)
    assert "BFL_API_BASE" in PROVIDERS["flux"].names()


def test_both_views_of_the_environment_agree() -> None:
    """The catalogue and the adapters' own reading must never differ."""
    assert {adapter.name for adapter in registry.ADAPTERS} == {
        name for name, known in PROVIDERS.items() if known.has_adapter
    }
    for left_out in BOTH:
        for blank in ({}, {left_out: " "}):
            env = {name: value for name, value in BOTH.items() if name != left_out} | blank
            assert sorted(registry.load(env).configured()) == sorted(configured_names(env))


def test_adapters_are_found_in_their_folders_in_the_order_of_the_catalogue() -> None:
    assert [adapter.name for adapter in registry.ADAPTERS] == list(catalog.load().providers)
    assert registry.load(BOTH).configured() == ["openai", "chatgpt2api"]


def test_a_module_without_one_adapter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["providers.upstreams.openai.adapter"]
    [adapter] = [each for each in registry.ADAPTERS if each.name == "openai"]
    assert registry.adapter_of("openai") is adapter
    second = type("Second", (vars(module)["OpenAi"],), {"__module__": module.__name__})
    monkeypatch.setattr(module, "Second", second, raising=False)
    with pytest.raises(ImportError, match="defines 2 classes"):
        registry.adapter_of("openai")
    monkeypatch.delattr(module, "Second")
    monkeypatch.delattr(module, "OpenAi")
    with pytest.raises(ImportError, match="defines 0 classes"):
        registry.adapter_of("openai")


@pytest.mark.parametrize("emulator", all_emulators(), ids=lambda emulator: emulator.name)
def test_an_emulator_says_how_its_own_adapter_is_led_to_it(emulator: Emulator) -> None:
    [provider] = registry.load(emulator.leading_here("http://127.0.0.1:8900", "any-key")).of(emulator.name)
    assert provider.base_url.startswith(f"http://127.0.0.1:8900{emulator.prefix}")
    assert configured_names(emulator.leading_here("http://127.0.0.1:8900", "any-key")) == (emulator.name,)


def test_the_sandbox_stands_in_for_every_adapter() -> None:
    led = environ("http://127.0.0.1:8900")
    assert set(registry.load(led).configured()) == {adapter.name for adapter in registry.ADAPTERS}


def test_a_provider_without_an_adapter_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"openai": replace(PROVIDERS["openai"], has_adapter=False)}
    monkeypatch.setattr(configured, "PROVIDERS", described)
    assert configured_names({"OPENAI_API_KEY": "sk-secret"}) == ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"OPENAI_BASE_URL": "api.example/v1"}, "openai: base_url"),
        ({"CHATGPT2API_BASE_URL": "http://admin:hunter22@h"}, "chatgpt2api: base_url"),
        ({"RESULT_ORIGINS": "https://ok.example, hunter22"}, "RESULT_ORIGINS"),
    ],
)
def test_a_bad_setting_is_named_without_its_value(change: dict[str, str], named: str) -> None:
    with pytest.raises(registry.BadSettingError) as caught:
        registry.load({**BOTH, **change})
    assert named in str(caught.value)
    assert "hunter22" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_asking_what_is_configured_loads_no_adapter() -> None:
    program = (
        "import sys, providers.configured\n"
        "sys.exit(any(name in sys.modules for name in ('requests', 'pydantic', 'providers.upstreams.openai.adapter')))"
    )
    env = {"PYTHONPATH": ":".join(filter(None, [".", *sys.path]))}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=env).returncode == 0


def test_a_providers_block_is_what_the_whole_file_says_under_its_key() -> None:
    for path in (common_file(PACKAGED), *provider_files(PACKAGED).values()):
        whole = yaml.safe_load(path.read_text(encoding="utf-8"))
        key = "order" if "order" in whole else "provider"
        assert configured._block(path, key) == whole[key]


def test_a_block_ends_where_the_next_key_begins(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("a: 1\nprovider:  # of the folder\n  env: [A]\n\n# said\n  title: T\nmodels:\n- {id: m}\n")
    assert configured._block(path, "provider") == {"env": ["A"], "title": "T"}
    with pytest.raises(KeyError, match="no price"):
        configured._block(path, "price")
