"""The sandbox records which images came under which field, in order and by their bytes."""

from __future__ import annotations

import base64
import hashlib
import io

import pytest

from sandbox.settings import Settings
from sandbox.wsgi import create_app

ONE, TWO = (b"\x89PNG\r\n\x1a\n" + bytes([number]) * 64 for number in (1, 2))
KEY = {"Authorization": "Bearer sk-any"}


@pytest.fixture
def client():
    return create_app(Settings(latency_s=0)).test_client()


def digest(blob):
    return hashlib.sha256(blob).hexdigest()


def text(blob):
    return base64.b64encode(blob).decode()


def seen(client, provider):
    entry = client.get(f"/control/requests?provider={provider}").get_json()[-1]
    return [(image["field"], image["sha256"]) for image in entry["images"]]


def test_the_files_of_a_form_are_told_by_part_and_in_order(client):
    parts = {"prompt": "x", "image[]": [(io.BytesIO(ONE), "1.png"), (io.BytesIO(TWO), "2.png")]}
    client.post("/openai/v1/images/edits", data={**parts, "mask": (io.BytesIO(ONE), "m.png")}, headers=KEY)
    assert seen(client, "openai") == [("image[]", digest(ONE)), ("image[]", digest(TWO)), ("mask", digest(ONE))]


def test_base64_and_data_urls_in_json_are_told_by_their_path(client):
    link = f"data:image/png;base64,{text(TWO)}"
    body = {"prompt": "iVBORw0KGgo is no image", "contents": [{"parts": [{"data": text(ONE)}, {"url": link}]}]}
    client.post("/gemini/v1/models/x:generateContent", json=body, headers=KEY)
    assert seen(client, "gemini") == [("contents.parts.data", digest(ONE)), ("contents.parts.url", digest(TWO))]


def test_an_upload_is_told_where_its_link_is_named(client):
    sent = client.post("/wavespeed/api/v3/media/upload/binary", data={"file": (io.BytesIO(ONE), "a.png")}, headers=KEY)
    link = sent.get_json()["data"]["download_url"]
    client.post("/wavespeed/api/v3/x/y", json={"image": link, "mask_image": "https://example.com/m.png"}, headers=KEY)
    assert seen(client, "wavespeed") == [("image", digest(ONE))]
    client.post("/control/reset")
    client.post("/wavespeed/api/v3/x/y", json={"image": link}, headers=KEY)
    assert seen(client, "wavespeed") == []


def test_a_body_that_is_an_image_has_no_field(client):
    for kind in ("image/png", "application/octet-stream"):
        asked = {"filename": "a.png", "size": len(ONE), "content_type": kind}
        opened = client.post("/wavespeed/api/v3/media/uploads", json=asked, headers=KEY).get_json()
        ticket = opened["data"]["upload"]
        put = client.put(ticket["url"].partition("localhost")[2], data=ONE, headers=ticket["headers"])
        assert put.status_code == 204
        assert seen(client, "wavespeed") == [("", digest(ONE))]


def test_a_body_without_images_has_none(client):
    client.post("/openai/v1/images/generations", json={"prompt": "a fox"}, headers=KEY)
    assert seen(client, "openai") == []
