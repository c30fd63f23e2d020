"""One call on an emulator: refused or spoilt where a fault is scripted for it, else answered.

CALLS = Calls("acme", errors.for_fault)

@bp.post("/v1/images")
def submit() -> Response:
    key = acme_key()                                # raises a WireError
    order = rules.read()                            # raises a WireError
    CALLS.count_submit(order.prompt)
    call = CALLS.begin("submit", order.prompt)      # a scripted refusal is answered from here
    fate = call.accept()                            # counted as paid for; what becomes of the work
    return call.answer(work(order, fate))           # perhaps spoilt
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from flask import Blueprint, Response, jsonify

from sandbox import misbehave, recorder
from sandbox.counts import prompt_hash
from sandbox.drawing import bad_files
from sandbox.drawing.images import CONTENT_TYPES, Recipe
from sandbox.faults import OUTCOME, Script
from sandbox.markers import Fault, UnknownFault
from sandbox.misbehave import ErrorFor
from sandbox.state import current_state


class WireError(Exception):
    """An error as one upstream words it. Each emulator derives its own."""

    def response(self) -> Response:
        """The answer, with its status."""
        raise NotImplementedError


class Instead(WireError):  # noqa: N818 - reads as what it is
    """Leaves the view with the answer of a scripted refusal."""

    def __init__(self, answer: Response) -> None:
        super().__init__(f"HTTP {answer.status_code}, scripted")
        self._answer = answer

    def response(self) -> Response:
        """That answer."""
        return self._answer


def new_blueprint(name: str, *, bad_marker: Callable[[str], WireError]) -> Blueprint:
    """A blueprint whose requests are counted and whose WireErrors become answers.

    ``bad_marker`` words the refusal of a fault marker that makes no sense: better than a test that tests nothing.
    """
    blueprint = Blueprint(name, name)
    recorder.watch(blueprint, name)
    blueprint.register_error_handler(WireError, lambda error: error.response())
    blueprint.register_error_handler(UnknownFault, lambda error: bad_marker(str(error)).response())
    return blueprint


def json_answer(document: object, status: int = 200, *, content_type: str = "", **headers: str) -> Response:
    """A JSON answer; headers by their names with ``_`` for ``-``."""
    answer = jsonify(document)
    answer.status_code = status
    answer.content_type = content_type or answer.content_type
    answer.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return answer


def html_answer(status: int) -> Response:
    """What a proxy in front of an upstream says."""
    page = f"<html><head><title>{status}</title></head><body><center><h1>{status}</h1></center></body></html>"
    return Response(page, status=status, content_type="text/html")


@dataclass(frozen=True)
class Call:
    """A call that was not refused. ``key`` is the caller's dedupe key where the contract has one."""

    provider: str
    prompt: str
    key: str
    script: Script
    error_for: ErrorFor

    def accept(self, prompt: str = "", *, key: str = "") -> Script:
        """Count the work as taken on, which is when it is paid for; returns the faults of its outcome.

        A refusal that ``begin`` was told to take is among them. ``prompt`` and ``key`` are what is counted where
        that differs from what the faults were asked for.
        """
        self.count_accepted(prompt, key=key)
        return self.outcome()

    def work(self, prompt: str = "", *, key: str = "") -> Script:
        """``accept`` for work that the caller waits for: returns when it is done, never where ``never`` is scripted."""
        fate = self.accept(prompt, key=key)
        self.wait(fate)
        return fate

    def wait(self, fate: Script) -> None:
        """Take as long as the work does; with ``never``, until the caller hangs up."""
        if fate.get("never"):
            misbehave.wait_for_hang_up(misbehave.HANG_S)
        time.sleep(current_state().latency_s(fate, self.prompt))

    def count_accepted(self, prompt: str = "", *, key: str = "") -> None:
        """The counting half of ``accept``, for work that may still be refused once its outcome is known."""
        about = prompt or self.prompt
        current_state().counts.accept(self.provider, key=key or self.key or prompt_hash(about), prompt=about)

    def outcome(self) -> Script:
        """The faults of the work's outcome, without counting it. Asking counts their ``times=``: ask once."""
        fate = current_state().script(self.provider, OUTCOME, self.prompt, self.key)
        taken_in = tuple(fault for fault in self.script.faults if fault.answers and not fault.accepts)
        return Script((*taken_in, *fate.faults))

    def answer(self, good: Response) -> Response:
        """``good``, or what the script makes of it."""
        return misbehave.finish(self.script, good, self.error_for)


@dataclass(frozen=True)
class Calls:
    """The calls of one emulator. ``error_for`` words a scripted refusal, an empty account or a bare status."""

    provider: str
    error_for: ErrorFor

    def in_words_of(self, error_for: ErrorFor) -> "Calls":
        """The same where a part of the upstream words its errors differently."""
        return replace(self, error_for=error_for)

    def count_submit(self, prompt: str, *, key: str = "", request_id: str = "") -> None:
        """Count a well-formed call that would buy an image, before money and faults are looked at."""
        current_state().counts.submit(
            self.provider, key=key or prompt_hash(prompt), prompt=prompt, request_id=request_id
        )

    def begin(
        self,
        place: str,
        prompt: str = "",
        key: str = "",
        *,
        taking: Collection[str] = (),
        takes_refused: bool = False,
    ) -> Call:
        """Ask for the faults of this call; leaves the view with the answer of a scripted refusal.

        ``place`` is one of ``markers.PLACES``. ``taking`` names the refusals that this upstream takes on as work and
        fails later (``refuse``, ``quota``), so that they go on to the outcome; ``takes_refused`` is ``refuse`` among
        them. Raises Instead and UnknownFault.
        """
        script = current_state().script(self.provider, place, prompt, key)
        refusal = script.refusal
        if refusal is not None and refusal.name not in (*taking, *(("refuse",) if takes_refused else ())):
            raise Instead(misbehave.instead(refusal, self.error_for))
        return Call(self.provider, prompt, key, script, self.error_for)

    def download(self, good: bytes, content_type: str, *, fault: Fault | None, prompt: str) -> Response:
        """A result file as it is fetched: counted, spoilt by its task's ``fault`` and by the download's own."""
        current_state().counts.download(self.provider)
        blob, odd_type = bad_files.spoil(fault, good)
        call = self.begin("download", prompt)
        return call.answer(Response(blob, content_type=odd_type or content_type))

    def download_image(self, recipe: Recipe, fate: Script, *, prompt: str = "") -> Response:
        """A result image, drawn now. Raises NotAnImage where an input of the recipe cannot be decoded."""
        fault = fate.get(*bad_files.IMAGE_FAULTS)
        good = current_state().draw(recipe)
        return self.download(good, CONTENT_TYPES[recipe.file_format], fault=fault, prompt=prompt or recipe.prompt)
