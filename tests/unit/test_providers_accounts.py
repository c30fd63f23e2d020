"""The accounts of a provider in the environment."""

from __future__ import annotations

from providers.configured import accounts


def test_numbered_variables_are_further_accounts() -> None:
    env = {"XAI_API_KEY": "one", "XAI_BASE_URL": "https://x.example", "XAI_API_KEY_2": "two", "XAI_BASE_URL_3": "alone"}
    found = {label: (view["XAI_API_KEY"], view["XAI_BASE_URL"]) for label, view in accounts(env, "xai")}
    assert found == {"default": ("one", "https://x.example"), "2": ("two", "https://x.example")}


def test_a_numbered_account_may_use_the_other_name_of_the_key() -> None:
    env = {"GEMINI_API_KEY": "one", "GOOGLE_API_KEY_2": "two"}
    second = dict(accounts(env, "gemini"))["2"]
    assert (second["GEMINI_API_KEY"], second["GOOGLE_API_KEY"]) == ("", "two")
