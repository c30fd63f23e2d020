"""What the emulators share: a call and its faults, images that come in, what a scripted outcome makes of images."""

import base64
import io
import time

import pytest
from flask import Response
from PIL import Image

from sandbox import misbehave
from sandbox.drawing.images import Recipe
from sandbox.faults import Script
from sandbox.markers import parse
from sandbox.plumbing import outcomes
from sandbox.plumbing.bodies import json_object
from sandbox.plumbing.calls import Calls, WireError, json_answer, new_blueprint
from sandbox.plumbing.inputs import BadInput, image_in_base64, image_in_data_url
from sandbox.settings import Settings
from sandbox.wsgi import create_app

KITE = Recipe("a red kite", "mill", 96, 64)


def fate(text: str) -> Script:
    return Script(parse(text))


class ApiError(WireError):
    """An error of a made-up upstream."""

    def response(self) -> Response:
        return json_answer({"oops": str(self)}, 418, X_Kind="teapot")


def broken(error: ValueError) -> ApiError:
    return ApiError(f"broken: {error.args[0][:9]}")


@pytest.fixture
def client():
    """An app with one more emulator, whose submit takes on what is refused where ``later`` is asked."""
    calls = Calls("mill", lambda fault: json_answer({"said": fault.name}, fault.status or 400))
    blueprint = new_blueprint("mill", bad_marker=ApiError)

    def patient(prompt: str) -> Response:
        outcome = calls.begin("submit", prompt, taking=("quota",)).work()
        return json_answer({"fate": [fault.name for fault in outcome.faults]})

    def body() -> Response:
        return json_answer(json_object(wrong_type=ApiError("type"), broken=broken, no_object=ApiError("object")))

    def submit(prompt: str, later: str) -> Response:
        calls.count_submit(prompt)
        call = calls.begin("submit", prompt, takes_refused=later == "later")
        outcome = call.accept()
        return call.answer(json_answer({"fate": [fault.name for fault in outcome.faults]}))

    blueprint.add_url_rule("/<prompt>/<later>", "submit", submit)
    blueprint.add_url_rule("/patient/<prompt>", "patient", patient)
    blueprint.add_url_rule("/body", "body", body, methods=["POST"])
    app = create_app(Settings())
    app.register_blueprint(blueprint, url_prefix="/mill")
    return app.test_client()


def counted(client) -> tuple[int, int]:
    tally = client.get("/control/counts").get_json()["mill"]
    return tally["submits"], tally["accepted"]


def test_a_good_call_is_counted_accepted_and_has_its_fate(client):
    assert client.get("/mill/x [sandbox:fail]/now").get_json() == {"fate": ["fail"]}
    assert counted(client) == (1, 1)


def test_a_scripted_refusal_is_answered_in_the_emulators_words_and_accepts_nothing(client):
    for marker, status in (("503", 503), ("refuse", 400), ("quota", 400)):
        answer = client.get(f"/mill/x [sandbox:{marker}]/now")
        assert (answer.status_code, answer.get_json()) == (status, {"said": marker})
    assert counted(client) == (3, 0)


def test_a_refused_prompt_may_be_taken_on_and_fail_later(client):
    assert client.get("/mill/x [sandbox:refuse, never]/later").get_json() == {"fate": ["refuse", "never"]}
    assert client.get("/mill/x [sandbox:500]/later").status_code == 500
    assert counted(client) == (2, 1)


def test_only_the_refusals_named_are_taken_on(client):
    taken = client.get("/mill/patient/x [sandbox:quota, latency=0]")
    assert taken.get_json() == {"fate": ["quota", "latency"]}
    assert client.get("/mill/patient/x [sandbox:refuse, latency=0]").get_json() == {"said": "refuse"}


def test_work_that_is_waited_for_takes_its_time(client):
    begun = time.monotonic()
    assert client.get("/mill/patient/x [sandbox:latency=0.3]").get_json() == {"fate": ["latency"]}
    assert time.monotonic() - begun >= 0.3
    assert counted(client) == (0, 1)


def test_work_that_never_ends_is_waited_for_until_the_caller_hangs_up(client, monkeypatch):
    monkeypatch.setattr(misbehave, "HANG_S", 0.3)
    begun = time.monotonic()
    client.get("/mill/patient/x [sandbox:never, latency=0]")
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b'{"a": 1}', "application/json", {"a": 1}),
        (b'{"a": 1}', "text/plain", {"oops": "type"}),
        (b"{", "application/json", {"oops": "broken: Expecting"}),
        (b"[1]", "application/json", {"oops": "object"}),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_in_the_emulators_words(client, body, kind, said):
    assert client.post("/mill/body", data=body, content_type=kind).get_json() == said


def test_the_answer_to_accepted_work_may_be_spoilt(client):
    assert client.get("/mill/x [sandbox:garbage=list]/now").get_json() == [1, 2, 3]
    assert counted(client) == (1, 1)


def test_a_marker_that_makes_no_sense_is_the_emulators_own_error(client):
    answer = client.get("/mill/x [sandbox:explode]/now")
    assert (answer.status_code, answer.headers["X-Kind"]) == (418, "teapot")
    assert "explode" in answer.get_json()["oops"]


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


def url(blob: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(blob).decode()}"


def test_an_image_comes_as_a_data_url_or_bare():
    assert image_in_data_url(url(png())) == png()
    assert image_in_data_url(url(png(), "image/webp"), types=("image/webp",)) == png()
    assert image_in_base64(base64.b64encode(png()).decode()) == png()


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("https://example.com/a.png", "link"),
        (url(png(), "text/html"), "link"),
        ("data:image/png,abc", "link"),
        ("data:image/png;base64,%%%", "base64"),
        (url(b"nonsense"), "image"),
        (url(png()[:44]), "image"),
    ],
)
def test_what_is_no_image_is_told_apart(link, why):
    with pytest.raises(BadInput) as error:
        image_in_data_url(link)
    assert error.value.why == why


def test_only_the_types_taken_are_taken():
    with pytest.raises(BadInput, match="not a data URL"):
        image_in_data_url(url(png()), types=("image/jpeg",))


@pytest.mark.parametrize(("text", "count"), [("", 3), ("empty", 0), ("fewer", 2), ("fewer=9", 0), ("fewer=-1", 4)])
def test_how_many_images_come(text, count):
    made = list(outcomes.recipes(KITE, 3, fate(text)))
    assert [recipe.seed for recipe in made] == list(range(count))


def test_another_size_and_another_format():
    half = outcomes.altered(KITE, fate("wrong_size, wrong_format"))
    assert (half.width_px, half.height_px, half.file_format) == (48, 32, "jpeg")
    assert outcomes.altered(Recipe("x", "m", 20, 20, file_format="jpeg"), fate("wrong_size, wrong_format")) == Recipe(
        "x", "m", 16, 16, file_format="png"
    )
    assert outcomes.altered(KITE, fate("")) == KITE


@pytest.mark.parametrize(("text", "seconds"), [("", 600.0), ("expire", 0.0), ("expire=5", 5.0)])
def test_how_long_it_is_kept(text, seconds):
    assert outcomes.kept_s(600.0, fate(text)) == seconds


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("", "http://h:1/a/b.png"),
        ("dead_link", "http://h:1/nowhere"),
        ("dead_link=relative", "/a/b.png"),
        ("dead_link=host", "http://127.0.0.1:1/a/b.png"),
    ],
)
def test_where_a_link_leads(text, link):
    found = outcomes.link_of("http://h:1/a/b.png", fate(text), host_url="http://h:1", nowhere="http://h:1/nowhere")
    assert found == link
