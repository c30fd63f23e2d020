"""The Stability emulator is as strict as its contract: parts, ranges, images, prices, pace and results by id."""

import base64
import io
import time

import pytest
from PIL import Image, ImageChops

from sandbox.settings import Settings
from sandbox.state import Clock
from sandbox.wsgi import create_app

KEY = {"Authorization": "Bearer sk-anything"}
CORE, SD3, ULTRA = "generate/core", "generate/sd3", "generate/ultra"
RELIGHT = "edit/replace-background-and-relight"


@pytest.fixture
def client():
    # A clock that moves by POST /control/clock alone.
    begun = time.time()
    return create_app(Settings(latency_s=0, prepared=True), clock=Clock(lambda: begun)).test_client()


def png(size=(64, 64), mode="RGB", colour=(20, 40, 200)):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


def part(blob, name="a.png"):
    return (io.BytesIO(blob), name, "image/png")


def post(client, path, headers=KEY, **parts):
    data = {name: part(value) if isinstance(value, bytes) else value for name, value in parts.items()}
    path = path if path.startswith("3d/") else f"stable-image/{path}"
    return client.post(f"/stability/v2beta/{path}", data=data, headers=headers, content_type="multipart/form-data")


def core(client, prompt="a kite", headers=KEY, **parts):
    return post(client, CORE, headers, prompt=prompt, **parts)


def look(client, number, headers=KEY):
    return client.get(f"/stability/v2beta/results/{number}", headers=headers)


def advance(client, seconds):
    client.post("/control/clock", json={"advance_s": seconds})


def tally(client):
    return client.get("/control/counts").get_json()["stability"]


def error(answer):
    body = answer.get_json()
    assert set(body) == {"id", "name", "errors"}
    return answer.status_code, body["name"], body["errors"]


def opened(answer):
    return Image.open(io.BytesIO(answer.get_data()))


def steepest(answer):
    """The largest step in brightness between two neighbours: 255 at a hard edge."""
    grey = opened(answer).convert("L")
    return ImageChops.difference(grey, ImageChops.offset(grey, 1, 0)).crop((1, 0, *grey.size)).getextrema()[1]


# ---------------------------------------------------------------- answers


def test_bytes_carry_their_end_and_seed_in_the_header(client):
    answer = core(client, seed="7")
    assert (answer.status_code, answer.content_type) == (200, "image/png")
    assert (answer.headers["finish-reason"], answer.headers["seed"]) == ("SUCCESS", "7")
    assert opened(answer).size == (1280, 1280)
    assert answer.headers["x-request-id"]


def test_json_carries_them_in_the_body(client):
    answer = core(client, headers={**KEY, "Accept": "application/json"}, output_format="jpeg")
    assert answer.content_type == "application/json; type=image/jpeg"
    assert "finish-reason" not in answer.headers
    assert "seed" not in answer.headers
    body = answer.get_json()
    assert set(body) == {"image", "finish_reason", "seed"}
    assert body["seed"] > 0
    assert Image.open(io.BytesIO(base64.b64decode(body["image"]))).format == "JPEG"


def test_a_seed_left_out_or_zero_is_another_one_each_time(client):
    seeds = [core(client, **given).headers["seed"] for given in ({}, {}, {"seed": "0"})]
    assert len(set(seeds)) == 3
    assert "0" not in seeds


def test_an_unknown_accept_is_refused(client):
    assert error(core(client, headers={**KEY, "Accept": "image/png"}))[0] == 400
    assert error(look(client, "x", {**KEY, "Accept": "image/*"}))[0] == 400


@pytest.mark.parametrize(
    ("path", "parts", "size"),
    [
        (CORE, {"aspect_ratio": "9:21"}, (768, 1856)),
        (ULTRA, {"aspect_ratio": "16:9"}, (1344, 768)),
        (SD3, {}, (1024, 1024)),
        ("edit/outpaint", {"image": png(), "left": "8", "down": "16"}, (72, 80)),
        ("edit/erase", {"image": png((80, 64))}, (80, 64)),
        ("upscale/fast", {"image": png((32, 40))}, (128, 160)),
        ("upscale/conservative", {"image": png()}, (2048, 2048)),
        ("control/sketch", {"image": png((100, 64))}, (100, 64)),
        ("control/style", {"image": png((100, 64)), "aspect_ratio": "5:4"}, (1088, 896)),
        ("control/style-transfer", {"init_image": png((70, 64)), "style_image": png()}, (70, 64)),
    ],
)
def test_results_have_the_size_of_their_endpoint(client, path, parts, size):
    words = {} if path in {"edit/erase", "upscale/fast"} else {"prompt": "a kite"}
    assert opened(post(client, path, **words, **parts)).size == size


def test_a_mask_is_white_where_the_image_changes():
    client = create_app(Settings(latency_s=0)).test_client()
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    out = io.BytesIO()
    mask.save(out, "PNG")
    changed = opened(post(client, "edit/inpaint", prompt="snow", image=png(), mask=out.getvalue())).convert("RGB")
    assert changed.getpixel((50, 40)) == (20, 40, 200) != changed.getpixel((5, 5))


def test_without_a_mask_what_is_clear_changes():
    client = create_app(Settings(latency_s=0)).test_client()
    half = Image.new("RGBA", (64, 64), (20, 40, 200, 255))
    half.paste((0, 0, 0, 0), (0, 0, 32, 64))
    out = io.BytesIO()
    half.save(out, "PNG")
    changed = opened(post(client, "edit/erase", image=out.getvalue())).convert("RGBA")
    assert changed.getpixel((50, 40)) == (20, 40, 200, 255)
    assert changed.getpixel((5, 5))[:3] != (0, 0, 0)


def test_3d_is_a_glb_whatever_was_accepted(client):
    answer = post(client, "3d/stable-fast-3d", image=png(), vertex_count="-1", remesh="quad")
    assert answer.content_type == "model/gltf-binary"
    assert answer.get_data().startswith(b"glTF")


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("header", [{}, {"Authorization": "sk-anything"}, {"Authorization": "Bearer bad-key"}])
def test_a_key_is_needed(client, header):
    assert error(core(client, headers=header))[:2] == (401, "unauthorized")
    assert error(look(client, "x", header))[:2] == (401, "unauthorized")
    balance = client.get("/stability/v1/user/balance", headers=header)
    assert (balance.status_code, set(balance.get_json())) == (401, {"id", "name", "message"})


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "application/json"])
def test_only_multipart_is_taken(client, kind):
    answer = client.post(f"/stability/v2beta/stable-image/{CORE}", data="prompt=x", headers=KEY, content_type=kind)
    assert error(answer) == (400, "bad_request", ["content-type: must be multipart/form-data"])


def test_every_missing_part_is_named(client):
    assert error(post(client, "edit/search-and-replace", seed="1"))[2] == [
        "image: is required",
        "prompt: is required",
        "search_prompt: is required",
    ]


ON_IMAGE = {"prompt": "a kite", "image": png()}


@pytest.mark.parametrize(
    ("path", "parts", "named"),
    [
        (CORE, {"prompt": "x", "image": png()}, "image"),
        (CORE, {"prompt": "x", "width": "64"}, "width"),
        (CORE, {"prompt": "x", "cfg_scale": "2"}, "cfg_scale"),
        (CORE, {"prompt": ""}, "prompt"),
        (CORE, {"prompt": "x" * 10_001}, "prompt"),
        (CORE, {"prompt": b"x"}, "prompt"),
        (CORE, {"prompt": "x", "seed": "-1"}, "seed"),
        (CORE, {"prompt": "x", "seed": "4294967295"}, "seed"),
        (CORE, {"prompt": "x", "seed": "1.5"}, "seed"),
        (CORE, {"prompt": "x", "aspect_ratio": "4:3"}, "aspect_ratio"),
        (CORE, {"prompt": "x", "style_preset": "baroque"}, "style_preset"),
        (CORE, {"prompt": "x", "output_format": "gif"}, "output_format"),
        (ULTRA, ON_IMAGE, "strength"),
        (ULTRA, {**ON_IMAGE, "strength": "1.1"}, "strength"),
        (SD3, {"prompt": "x", "output_format": "webp"}, "output_format"),
        (SD3, {"prompt": "x", "model": "sd4"}, "model"),
        (SD3, {"prompt": "x", "cfg_scale": "0.5"}, "cfg_scale"),
        (SD3, {"prompt": "x", "strength": "0.5"}, "strength"),
        (SD3, {**ON_IMAGE, "mode": "image-to-image"}, "strength"),
        (
            SD3,
            {**ON_IMAGE, "mode": "image-to-image", "strength": "1", "aspect_ratio": "1:1"},
            "aspect_ratio",
        ),
        (SD3, {"prompt": "x", "model": "sd3-large-turbo", "negative_prompt": "y"}, "negative_prompt"),
        ("edit/inpaint", {**ON_IMAGE, "grow_mask": "21"}, "grow_mask"),
        ("edit/erase", ON_IMAGE, "prompt"),
        ("edit/erase", {"image": png((63, 80))}, "image"),
        ("edit/erase", {"image": png((4096, 2305))}, "image"),
        ("edit/erase", {"image": b"no image"}, "image"),
        ("edit/erase", {"image": "a text"}, "image"),
        ("edit/outpaint", {"image": png()}, "left"),
        ("edit/outpaint", {"image": png(), "left": "2001"}, "left"),
        ("edit/outpaint", {"image": png(), "top": "8"}, "top"),
        ("edit/outpaint", {"image": png(), "left": "8", "negative_prompt": "y"}, "negative_prompt"),
        ("edit/outpaint", {"image": png((64, 161)), "left": "8"}, "image"),
        ("edit/remove-background", {"image": png(), "output_format": "jpeg"}, "output_format"),
        ("edit/remove-background", {"image": png(), "seed": "1"}, "seed"),
        (RELIGHT, {"subject_image": png()}, "background_prompt"),
        (
            RELIGHT,
            {"subject_image": png(), "background_prompt": "x", "light_source_strength": "0.5"},
            "light_source_strength",
        ),
        (RELIGHT, {"image": png(), "subject_image": png(), "background_prompt": "x"}, "image"),
        ("upscale/fast", {"image": png((31, 40))}, "image"),
        ("upscale/fast", {"image": png((1537, 40))}, "image"),
        ("upscale/fast", {"image": png(), "seed": "1"}, "seed"),
        ("upscale/conservative", {**ON_IMAGE, "creativity": "0.1"}, "creativity"),
        ("upscale/conservative", {**ON_IMAGE, "style_preset": "anime"}, "style_preset"),
        ("upscale/creative", {**ON_IMAGE, "creativity": "0.51"}, "creativity"),
        ("upscale/creative", {"prompt": "x", "image": png((1200, 1000))}, "image"),
        ("control/structure", {**ON_IMAGE, "strength": "0.5"}, "strength"),
        ("control/style-transfer", {"init_image": png()}, "style_image"),
        (
            "control/style-transfer",
            {"init_image": png(), "style_image": png(), "change_strength": "0.05"},
            "change_strength",
        ),
        ("3d/stable-fast-3d", {"image": png((63, 64))}, "image"),
        ("3d/stable-fast-3d", {"image": png(), "texture_resolution": "4096"}, "texture_resolution"),
        ("3d/stable-fast-3d", {"image": png(), "foreground_ratio": "1.3"}, "foreground_ratio"),
        ("3d/stable-point-aware-3d", {"image": png(), "vertex_count": "5"}, "vertex_count"),
    ],
)
def test_a_bad_part_is_named_and_free(client, path, parts, named):
    status, name, errors = error(post(client, path, **parts))
    assert (status, name) == (400, "bad_request")
    assert [text.partition(":")[0] for text in errors] == [named]
    assert "stability" not in client.get("/control/counts").get_json() or tally(client)["accepted"] == 0


def test_a_part_may_come_once(client):
    answer = client.post(
        f"/stability/v2beta/stable-image/{CORE}",
        data={"prompt": ["a", "b"]},
        headers=KEY,
        content_type="multipart/form-data",
    )
    assert error(answer)[2] == ["prompt: must be given once"]


def test_more_than_ten_megabytes_are_too_much(client):
    assert error(post(client, "edit/erase", image=bytes(10 * 2**20)))[:2] == (413, "payload_too_large")


def test_unknown_endpoints_are_not_found(client):
    assert error(post(client, "generate/sdxl", prompt="x"))[:2] == (404, "not_found")
    assert error(client.get("/stability/v2beta/nowhere", headers=KEY))[0] in {404, 405}


# ---------------------------------------------------------------- money and pace


def test_credits_fall_by_the_price_until_there_are_too_few(client):
    headers = {"Authorization": "Bearer credits-12"}

    def balance():
        return client.get("/stability/v1/user/balance", headers=headers).get_json()

    assert post(client, SD3, headers, prompt="a kite").status_code == 200
    assert balance() == {"credits": 5.5}
    assert core(client, headers=headers).status_code == 200
    assert error(core(client, headers=headers))[:2] == (402, "payment_required")
    assert balance() == {"credits": 2.5}


@pytest.mark.parametrize(
    ("marker", "left"), [("fail", 12.0), ("fail=policy", 12.0), ("timeout", 12.0), ("fail=moderation", 9.0)]
)
def test_only_what_was_made_is_billed(client, marker, left):
    headers = {"Authorization": "Bearer credits-12"}
    core(client, f"a kite [sandbox:{marker}]", headers=headers)
    assert client.get("/stability/v1/user/balance", headers=headers).get_json() == {"credits": left}


def test_the_151st_request_in_ten_seconds_locks_out_for_a_minute(client):
    for _ in range(150):
        assert look(client, "x").status_code == 404
    assert error(look(client, "x"))[:2] == (429, "rate_limit_exceeded")
    assert look(client, "x", {"Authorization": "Bearer another"}).status_code == 404
    advance(client, 59)
    assert look(client, "x").status_code == 429
    advance(client, 1)
    assert look(client, "x").status_code == 404


def test_the_window_slides_and_one_key_has_none(client):
    for _ in range(3):
        for _ in range(100):
            assert look(client, "x").status_code == 404
        advance(client, 10)
    for _ in range(200):
        assert look(client, "x", {"Authorization": "Bearer no-limit"}).status_code == 404


# ---------------------------------------------------------------- moderation and results by id


def test_flagged_words_are_403_and_a_blurred_image_is_200(client):
    assert error(core(client, "x [sandbox:refuse]"))[:2] == (403, "content_moderation")
    sharp, blurred = core(client, "x", seed="7"), core(client, "x [sandbox:fail=moderation]", seed="7")
    assert (blurred.status_code, blurred.headers["finish-reason"]) == (200, "CONTENT_FILTERED")
    assert opened(blurred).size == opened(sharp).size
    assert steepest(blurred) < 40
    assert steepest(sharp) > 120


def creative(client, prompt="a hill", headers=KEY):
    answer = post(client, "upscale/creative", headers, prompt=prompt, image=png(), output_format="jpeg")
    assert answer.status_code == 200
    assert set(answer.get_json()) == {"id"}
    number = answer.get_json()["id"]
    assert len(number) == 64
    return number


def test_a_later_result_is_looked_up_until_it_is_there(client):
    number = creative(client, "a hill [sandbox:latency=25]")
    for _ in range(3):
        answer = look(client, number)
        assert (answer.status_code, answer.get_json()) == (202, {"id": number, "status": "in-progress"})
        advance(client, 10)
    done = look(client, number)
    assert (done.status_code, done.headers["finish-reason"]) == (200, "SUCCESS")
    assert look(client, number, {**KEY, "Accept": "application/json"}).get_json()["finish_reason"] == "SUCCESS"
    assert (tally(client)["checks"], tally(client)["accepted"], tally(client)["faults"]) == (5, 1, {"latency": 1})


def test_looks_may_be_counted_instead_of_seconds(client):
    number = creative(client, "a hill [sandbox:steps=2]")
    assert [look(client, number).status_code for _ in range(3)] == [202, 202, 200]
    assert tally(client)["faults"]["looked_too_soon"] == 1


def test_a_later_result_is_its_own_keys_for_a_day(client):
    number = creative(client)
    assert error(look(client, number, {"Authorization": "Bearer another"}))[:2] == (404, "not_found")
    advance(client, 24 * 3600 - 1)
    assert look(client, number).status_code == 200
    advance(client, 1)
    assert error(look(client, number))[:2] == (404, "not_found")


@pytest.mark.parametrize(
    ("marker", "status", "name"), [("fail", 500, "internal_error"), ("fail=policy", 403, "content_moderation")]
)
def test_a_later_call_fails_by_an_http_error(client, marker, status, name):
    assert error(look(client, creative(client, f"a hill [sandbox:{marker}]")))[:2] == (status, name)


def test_a_restart_breaks_off_what_is_in_progress(client):
    number = creative(client, "a hill [sandbox:never]")
    assert client.post("/control/restart", json={"provider": "stability"}).get_json() == {"stability": 1}
    assert look(client, number).status_code == 500
