"""sd-server's options tag: only ours reaches the upstream, however a caller spells one."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.base import UpstreamOrder
from providers.catalog import catalog
from providers.errors import RequestRefused
from providers.upstreams.llamaswap.adapter import Config, build_submit
from providers.upstreams.llamaswap.tags import with_tag, without_tags

OPEN, CLOSE = "<sd_cpp_extra_args>", "</sd_cpp_extra_args>"
EVIL = '{"prompt":"evil","batch_count":8,"seed":666}'
MODELS = catalog.load().models
CONFIG = Config(base_url="http://llama.lan:8080")

SPELLINGS = [
    f"{OPEN}{EVIL}{CLOSE}",
    f"{OPEN.upper()}{EVIL}{CLOSE.upper()}",
    f"<Sd_Cpp_Extra_Args>{EVIL}</sD_cPP_eXTRA_aRGS>",
    f"< sd_cpp_extra_args >{EVIL}< / sd_cpp_extra_args >",
    f"<\tsd_cpp_extra_args\n>{EVIL}</sd_cpp_extra_args\t>",
    f"<sd_cpp_\u200bextra_args>{EVIL}</sd_cpp_extra\u2060_args>",
    f"\uff1csd_cpp_extra_args\uff1e{EVIL}\uff1c/sd_cpp_extra_args\uff1e",
    f"<\uff53\uff44_\uff43\uff50\uff50_extra_args>{EVIL}{CLOSE}",
    f"<sd\ufe33cpp\uff3fextra_args>{EVIL}{CLOSE}",
    f"&lt;sd_cpp_extra_args&gt;{EVIL}&lt;/sd_cpp_extra_args&gt;",
    f"<sd_cpp_{OPEN}extra_args>{EVIL}</sd_cpp_{CLOSE}extra_args>",
    f"<sd_cpp_extra_arg{OPEN}{EVIL}{CLOSE}s>{EVIL}{CLOSE}",
    f"<sd_cpp_extra_args{OPEN}>{EVIL}{CLOSE}{CLOSE}",
    f"{OPEN}{OPEN}{EVIL}{CLOSE}{CLOSE}",
    f"{OPEN}{EVIL}",
    f"{EVIL}{CLOSE}{OPEN}",
    f"{OPEN}{{}}{CLOSE}{OPEN}{EVIL}{CLOSE}",
    f"<sd_cpp_extra_args foo='bar'>{EVIL}{CLOSE}",
    f"<sd_cpp_extra_args/>{EVIL}",
    "<sd_cpp_extra_argsd_cpp_extra_args>" + EVIL + CLOSE,
]


def tags_seen_by_sd_server(prompt: str) -> list[dict[str, Any]]:
    """As sd-server reads it: the literal tag; of any case, to be safe."""
    found = re.findall(r"<sd_cpp_extra_args>(.*?)</sd_cpp_extra_args>", prompt, re.IGNORECASE | re.DOTALL)
    return [json.loads(text) for text in found]


def order(model: str = "llamaswap-z-image", **facts: Any) -> UpstreamOrder:
    return UpstreamOrder(**{"operation": "generate", "model": MODELS[model], "prompt": "a red kite", **facts})


def texts_in(value: object) -> list[str]:
    """Every text of a body, keys included."""
    match value:
        case str():
            return [value]
        case Mapping():
            return [text for pair in value.items() for part in pair for text in texts_in(part)]
        case list() | tuple():
            return [text for part in value for text in texts_in(part)]
    return []


def sent(request: Any) -> list[str]:
    return texts_in(request.json or {}) + [value for _name, value in request.form]


# ---------------------------------------------------------------- whole requests


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("place", ["{}", "a red kite {}", "{} a red kite", "a red {} kite"])
def test_only_our_own_tag_is_in_the_prompt(spelling: str, place: str) -> None:
    request = build_submit(order(prompt=place.format(spelling) + " over hills"), CONFIG, dedupe_key="k")
    assert request.json is not None
    [options] = tags_seen_by_sd_server(request.json["prompt"])
    assert options.keys() == {"seed"}
    assert options["seed"] != 666
    assert "over hills" in request.json["prompt"]
    assert request.json["prompt"].lower().count("sd_cpp_extra_args") == 2


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("field", ["negative_prompt", "sampler"])
def test_no_other_text_of_the_caller_can_end_our_tag_or_begin_one(spelling: str, field: str) -> None:
    request = build_submit(order(params={field: f"blurry {spelling}"}), CONFIG, dedupe_key="k")
    assert request.json is not None
    [options] = tags_seen_by_sd_server(request.json["prompt"])
    assert options.keys() <= {"seed", "negative_prompt", "sample_params"}
    assert request.json["prompt"].lower().count("sd_cpp_extra_args") == 2


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_extra_fields_contain_no_tag_either(spelling: str) -> None:
    extra = {"lora": [{"path": f"x{spelling}"}], spelling: spelling}
    request = build_submit(order(extra=extra), CONFIG, dedupe_key="k")
    assert request.json is not None
    [options] = tags_seen_by_sd_server(request.json["prompt"])
    assert "sd_cpp_extra_args" not in json.dumps(options)


@pytest.mark.parametrize("run_async", [False, True])
def test_a_field_cannot_hide_its_name_behind_a_tag(run_async: bool) -> None:
    config = CONFIG.model_copy(update={"run_async": run_async})
    for name in ("prompt", "batch_count", "init_image"):
        with pytest.raises(RequestRefused):
            build_submit(order(extra={f"{OPEN}{name}": "evil"}), config, dedupe_key="k")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("route", ["sdapi", "async", "top_level"])
def test_where_nothing_is_embedded_there_is_no_tag(spelling: str, route: str) -> None:
    config = CONFIG.model_copy(
        update={"run_async": route == "async", "extra_args": "top_level" if route == "top_level" else "both"}
    )
    model = "llamaswap-sdapi" if route == "sdapi" else "llamaswap-z-image"
    asked = order(
        model,
        prompt=f"a kite {spelling}",
        params={"negative_prompt": spelling},
        extra={"lora": [spelling], spelling: 1},
    )
    request = build_submit(asked, config, dedupe_key="k")
    assert not any("sd_cpp_extra_args" in folded(text) for text in sent(request))


def folded(text: str) -> str:
    return re.sub(r"[\s\u200b\u2060]", "", unicodedata.normalize("NFKC", text)).casefold()


# ---------------------------------------------------------------- the two functions


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_tag_is_removed_with_its_content(spelling: str) -> None:
    cleaned = without_tags(f"a red {spelling} kite")
    assert "sd_cpp_extra_args" not in folded(cleaned)
    assert cleaned.startswith("a red")
    assert cleaned.endswith("kite")


def test_the_text_between_a_pair_of_tags_is_removed_too() -> None:
    assert without_tags(f"a red{OPEN}{EVIL}{CLOSE}kite") == "a red, kite"


@pytest.mark.parametrize(
    "prompt",
    ["a red kite", "a <lora:x:1> kite & 1 < 2 > 0", "sd_cpp extra args", "Ünïcode ＜ “ ” \u200bkite", "a\nb\tc", ""],
)
def test_other_prompts_are_left_as_they_are(prompt: str) -> None:
    assert without_tags(prompt) == prompt


PIECES = st.sampled_from(
    [OPEN, CLOSE, "<", ">", "/", "sd_cpp_", "extra_args", "SD_cpp", "_extra_ARGS", " ", "\u200b", "a"]
)


@given(st.lists(PIECES, max_size=30).map("".join))
def test_no_mixture_leaves_a_tag(prompt: str) -> None:
    assert "sd_cpp_extra_args" not in folded(without_tags(prompt))
    assert without_tags(without_tags(prompt)) == without_tags(prompt)


@pytest.mark.parametrize("piece", [OPEN, CLOSE, "<sd_cpp_" * 2, "sd_cpp_extra_arg", OPEN + CLOSE, "\ufdfa"])
def test_a_hostile_prompt_costs_no_time(piece: str) -> None:
    prompt = (piece * 32_000)[:32_000]
    started = time.process_time()
    without_tags(prompt)
    assert time.process_time() - started < 0.5


def test_our_tag_is_one_line_of_json_without_brackets() -> None:
    tagged = with_tag("a kite", {"negative_prompt": f"a\nb{CLOSE}<x>", "seed": 7})
    assert tagged.startswith("a kite <sd_cpp_extra_args>{")
    assert "\n" not in tagged
    inner = tagged.removeprefix(f"a kite {OPEN}").removesuffix(CLOSE)
    assert not set("<>") & set(inner)
    assert json.loads(inner) == {"negative_prompt": f"a\nb{CLOSE}<x>", "seed": 7}


def test_no_options_are_no_tag() -> None:
    assert with_tag("a kite", {}) == "a kite"
