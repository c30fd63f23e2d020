"""The adapters that are tested, and the cases that do not apply to each: the table to extend for a new adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import pytest

from conformance.orders import CATALOG, bare, live_models, served_models
from providers import registry
from providers.base import Provider, UpstreamOrder
from providers.catalog.entries import Model, Recovery
from sandbox.emulators.keys import BAD_KEY, NO_QUOTA_KEY
from sandbox.testing import Sandbox

GOOD_KEY = "sk-conform-0123456789"

# Each case of the suite, by the name under which a subject has a gap or its own way to it.
CASES: Mapping[str, str] = MappingProxyType(
    {
        "generate": "an image from a text",
        "edit": "an image from a text and an image",
        "mask": "an edit of a part",
        "several": "several images by one call",
        "failed": "the upstream tried and says that it failed",
        "request_refused": "the order is not acceptable",
        "content_refused": "moderation refuses",
        "bad_credentials": "the key is wrong",
        "out_of_credit": "the account is empty",
        "unknown_model": "the upstream does not know the model",
        "rate_limited": "429",
        "rate_limited_told": "429 that says how long to wait",
        "broken_answer": "the answer to a paid request is lost or broken",
        "redirected": "the answer to a paid request leads elsewhere",
        "too_slow": "the answer to a paid request does not come in time",
        "too_large": "the answer to a paid request is larger than any good one",
        "drop_after_accept": "the order is accepted and its answer lost",
        "repeated": "the same order is sent again after its answer was lost",
        "searched": "the lost order is searched for",
        "looked_at": "a call is followed to its end",
        "progress": "looks report the progress of a call",
        "cost": "the cost of a call is reported with its result",
        "looked_in_vain": "a look fails, and the call goes on",
        "unknown_status": "an unknown status",
        "unknown_call": "the upstream is asked about a call it never had",
        "many_at_once": "several calls are looked at together",
        "cancel": "a call is stopped",
        "link": "a result is a link, which is fetched without a key",
        "link_broken": "a link does not answer for a while",
        "link_expired": "a link is gone",
        "key_on_links": "links lead to another host",
        "key_on_polls": "a call must be looked up on another host",
        "key_on_redirects": "the upstream redirects to another host",
        "filled": "every setting, filled in",
        "second_account": "a second credential is its own provider",
        "unknown_field": "the emulator refuses a field that the contract does not have",
    }
)
ONE_ANSWER = "one call is one answer: there is nothing to look at afterwards"
SAYS_MISSING = "this is how the API says that it has no such call"
HALF = "half an image is bytes like any other; storage decodes each before it is kept"
BYTES = "results come as bytes in the answer, never as links"
BY_ID = "a finished call is read by its id under the configured address, which takes the key"
BY_TYPE = "image/* is an image (providers/upstreams/huggingface/CONTRACT.md section 3); storage decodes each one"
ROUTER_5XX = "the router's 5xx may come from anywhere on the way, so it is Uncertain"
NO_WORDS_KNOWN = "no source says how this route refuses content"
NO_LINKS = dict.fromkeys(("link", "link_broken", "link_expired", "key_on_links"), BYTES)
OWN_SERVER = {
    "out_of_credit": "a server of one's own has no account",
    "content_refused": "a server of one's own refuses no content",
}
NO_WEBP_EDITS = {"filled llamaswap-z-image edit output_format=webp": "edits are PNG or JPEG, which no entry can say"}
LOST = ("drop", "drop=reset", "cut", "length_lie")
RUBBISH = (
    *("garbage", "garbage=truncated", "garbage=empty", "garbage=html", "garbage=types"),
    *("garbage=list", "garbage=null", "garbage=deep", "garbage=binary"),
)
HUGGING_FACE_FIELDS = frozenset({"model", "response_format", "inputs", "image_url", "image_urls", "?_subdomain"})
LLAMA_SWAP = {"LLAMASWAP_PROMPT_MODEL": "qwen-chat"}


@dataclass(frozen=True)
class Subject:
    """One adapter, configured for its emulator.

    plain, edit, mask, several, later: a cheap live model for each; None where no model of the catalogue can.
        ``later`` answers with something to look up.
    envelope: wire fields of every order that the catalogue does not name; ``?name`` is one of the query.
    inside: the object of the body that holds the order's fields, ``input.`` for example.
    ways: how the emulator is brought to a case, where it is not the usual way: the text of a fault.
    settings: variables besides those that lead the adapter to its emulator.
    gaps: cases that do not apply, and why; one fault of a case is written ``case fault``.
    tells: what its answers report of the cost of a call: money, counts without a known price, or nothing.
    """

    provider: str
    plain: str
    edit: str | None = None
    mask: str | None = None
    several: str | None = None
    later: str | None = None
    envelope: frozenset[str] = frozenset()
    inside: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    ways: Mapping[str, str] = field(default_factory=dict)
    gaps: Mapping[str, str] = field(default_factory=dict)
    variant: str = ""
    tells: Literal["", "counts", "money"] = ""
    tells_progress: bool = False

    @property
    def name(self) -> str:
        return f"{self.provider}-{self.variant}" if self.variant else self.provider

    def meaningless(self) -> dict[str, str]:
        """Every case that does not apply to this subject, and why."""
        derived: dict[str, str] = {}
        if self.later is None:
            cases = ("looked_at", "looked_in_vain", "unknown_status", "unknown_call", "many_at_once", "key_on_polls")
            derived = dict.fromkeys(cases, ONE_ANSWER)
        if not self.tells:
            derived["cost"] = "no answer reports what a call cost"
        if not self.tells_progress:
            derived["progress"] = "no look reports progress"
        of_recovery = {Recovery.RESEND: "repeated", Recovery.SEARCH: "searched"}
        recovery = of_recovery.get(CATALOG.providers[self.provider].recovery, "")
        for case in {"repeated", "searched"} - {recovery}:
            derived[case] = "another recovery"
        if self.several is None:
            derived["several"] = "no model of the catalogue makes several by one call"
        if self.edit is None:
            derived["edit"] = "no model of the catalogue edits"
        if self.mask is None:
            derived["mask"] = "no model of the catalogue takes a mask"
        return {**derived, **self.gaps}

    def way(self, case: str, usual: str) -> str:
        return self.ways.get(case, usual)

    def environment(self, sandbox: Sandbox, key: str = GOOD_KEY) -> dict[str, str]:
        """The variables that lead this adapter, and no other, to its emulator."""
        return {**sandbox.environ(self.provider, key=key), **self.settings}

    def load(self, sandbox: Sandbox, key: str = GOOD_KEY, **more: str) -> Provider:
        """The adapter as a worker gets it."""
        [provider] = registry.load({**self.environment(sandbox, key), **more}).of(self.provider)
        return provider

    def order(self, name: str | None = None, operation: str | None = None, /, **facts: Any) -> UpstreamOrder:
        """A bare order for the model called ``name``, the plain one by default."""
        return replace(bare(CATALOG.models[name or self.plain], operation), **facts)

    def models(self) -> list[Model]:
        return live_models(self.provider)


SUBJECTS: tuple[Subject, ...] = (
    Subject(
        "chatgpt2api",
        plain="chatgpt2api-gpt-image-2",
        edit="chatgpt2api-gpt-image-2",
        mask="chatgpt2api-gpt-image-2",
        later="chatgpt2api-gpt-image-2",
        envelope=frozenset({"client_task_id", "model"}),
        gaps={
            "out_of_credit": "it pays with a pool of accounts; an empty pool is Failed and tried again",
            "key_on_polls": "a task is looked at by its id under the configured address",
            "unknown_field": "it ignores what it does not know",
        },
    ),
    Subject(
        "openai",
        plain="gpt-image-2",
        tells="money",
        edit="gpt-image-2",
        mask="gpt-image-2",
        several="gpt-image-2",
        envelope=frozenset({"model"}),
        gaps=NO_LINKS,
    ),
    Subject(
        "stability",
        plain="stable-image-core",
        tells="money",
        edit="stability-search-and-replace",
        mask="stability-inpaint",
        later="stability-upscale-creative",
        envelope=frozenset({"mode"}),
        ways={"link_broken": "check"},
        gaps={
            "broken_answer garbage=truncated": HALF,
            "looked_in_vain garbage=truncated": HALF,
            "looked_in_vain 404": SAYS_MISSING,
            "looked_in_vain wrong_id": "the last answer is the image and has no id",
            "link": BY_ID,
            "key_on_links": BY_ID,
            "key_on_polls": "a call is looked at by its id under the configured address",
        },
    ),
    Subject(
        "flux",
        plain="flux-2-klein-4b",
        tells="money",
        tells_progress=True,
        edit="flux-2-klein-4b",
        mask="flux-pro-1.0-fill",
        later="flux-2-klein-4b",
    ),
    Subject(
        "wavespeed",
        plain="qwen-image",
        tells="counts",
        edit="qwen-edit",
        mask="z-image-turbo-inpaint",
        several="ws-flux-schnell",
        later="qwen-image",
        gaps={"looked_in_vain 404": SAYS_MISSING},
    ),
    Subject(
        "replicate",
        plain="replicate-flux-schnell",
        tells="counts",
        tells_progress=True,
        edit="replicate-flux-2-klein-4b",
        mask="replicate-sdxl",
        several="replicate-flux-schnell",
        later="replicate-flux-schnell",
        envelope=frozenset({"version"}),
        inside="input.",
    ),
    Subject(
        "gemini",
        plain="gemini-3.1-flash-lite-image",
        tells="money",
        edit="gemini-3.1-flash-lite-image",
        envelope=frozenset({"contents.role", "contents.parts", "generationConfig.responseModalities"}),
        gaps=NO_LINKS,
    ),
    Subject(
        "xai",
        plain="grok-imagine-image",
        tells="money",
        edit="grok-imagine-image",
        several="grok-imagine-image",
        envelope=frozenset({"model", "response_format"}),
        gaps=NO_LINKS,
    ),
    Subject(
        "huggingface",
        plain="hf-flux-schnell",
        edit="hf-flux-2-klein-9b-edit",
        envelope=HUGGING_FACE_FIELDS,
        gaps={**NO_LINKS, "failed": ROUTER_5XX, "content_refused": NO_WORDS_KNOWN},
    ),
    Subject(
        "huggingface",
        variant="hf-inference",
        plain="hf-sd3-medium",
        edit="hf-flux-2-klein-9b-edit",
        gaps={
            **NO_LINKS,
            "failed": ROUTER_5XX,
            "content_refused": NO_WORDS_KNOWN,
            **{f"broken_answer {fault}": BY_TYPE for fault in RUBBISH if fault != "garbage=empty"},
        },
    ),
    Subject(
        "huggingface",
        variant="fal",
        plain="hf-flux-dev",
        tells="counts",
        edit="hf-flux-2-klein-9b-edit",
        later="hf-flux-dev",
        ways={"link_expired": "404"},
        gaps={"looked_in_vain wrong_id": "the result is read at its own address, whatever id the status has"},
    ),
    Subject(
        "huggingface",
        variant="wavespeed",
        plain="hf-flux-2-dev-edit",
        tells="counts",
        edit="hf-flux-2-dev-edit",
        later="hf-flux-2-dev-edit",
        ways={"link_expired": "404"},
        gaps={"generate": "the catalogue has this route only for edits"},
    ),
    Subject(
        "llamaswap",
        settings=LLAMA_SWAP,
        plain="llamaswap-z-image",
        edit="llamaswap-z-image",
        mask="llamaswap-sdapi",
        several="llamaswap-z-image",
        envelope=frozenset({"model", "seed"}),
        gaps={**NO_LINKS, **OWN_SERVER, **NO_WEBP_EDITS},
    ),
    Subject(
        "llamaswap",
        settings={**LLAMA_SWAP, "LLAMASWAP_ASYNC": "true"},
        variant="jobs",
        plain="llamaswap-z-image",
        edit="llamaswap-z-image",
        mask="llamaswap-sdapi",
        several="llamaswap-z-image",
        later="llamaswap-z-image",
        envelope=frozenset({"seed", "init_image", "ref_images", "mask_image"}),
        ways={"link_broken": "check"},
        gaps={
            **OWN_SERVER,
            "link": BY_ID,
            "key_on_links": BY_ID,
            "unknown_call": "a job that is gone went with its model, and the server says so: Failed",
            "cancel": "what the catalogue says is meant of the synchronous routes; a waiting job can be stopped",
        },
    ),
)


def subjects(case: str) -> pytest.MarkDecorator:
    """The subjects to which ``case`` applies."""
    return pytest.mark.parametrize("subject", _asked(case), ids=lambda subject: subject.name)


def subjects_and(case: str, name: str, values: Iterable[Any]) -> pytest.MarkDecorator:
    """Each of them with each of ``values``."""
    pairs = [
        pytest.param(subject, value, id=f"{subject.name}-{value}")
        for subject in _asked(case)
        for value in values
        if f"{case} {value}" not in subject.gaps
    ]
    return pytest.mark.parametrize(("subject", name), pairs)


def every_subject() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)


def every_model() -> pytest.MarkDecorator:
    """Each subject with each live model of its provider."""
    return _model_pairs(live_models)


def served_models_that(wanted: Callable[[Model], bool]) -> pytest.MarkDecorator:
    """Each subject with each model of its provider that still answers and is wanted."""
    return _model_pairs(lambda provider: filter(wanted, served_models(provider)))


def _model_pairs(models: Callable[[str], Iterable[Model]]) -> pytest.MarkDecorator:
    pairs = [
        pytest.param(subject, model, id=f"{subject.name}-{model.id}")
        for subject in _differently_set_up()
        for model in models(subject.provider)
    ]
    return pytest.mark.parametrize(("subject", "model"), pairs)


def _differently_set_up() -> list[Subject]:
    """Of the subjects of one provider, those with variables of their own."""
    found: list[Subject] = []
    for subject in SUBJECTS:
        if all((each.provider, each.settings) != (subject.provider, subject.settings) for each in found):
            found.append(subject)
    return found


def _asked(case: str) -> list[Subject]:
    assert case in CASES, f"{case} is not a case of the table"
    return [subject for subject in SUBJECTS if case not in subject.meaningless()]


__all__ = [
    "BAD_KEY",
    "CASES",
    "GOOD_KEY",
    "LOST",
    "NO_QUOTA_KEY",
    "RUBBISH",
    "SUBJECTS",
    "Subject",
    "every_model",
    "every_subject",
    "served_models_that",
    "subjects",
    "subjects_and",
]
