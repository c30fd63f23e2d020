"""Uploads over the real app, database, store and decoders: kept once, ordered with by id, gone when they should be."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask.testing import FlaskClient
from job_engine import CREDIT, image_bytes
from PIL import Image
from sqlalchemy import text
from werkzeug.test import TestResponse

from accounts.accounts import create_account
from accounts.keys import create_key
from app import create_app
from app.services import Services, build
from core.db import Database
from core.ids import new_id
from core.settings import Settings
from jobs.maintenance import deletion, orphans
from jobs.maintenance.doctor import Doctor
from jobs.maintenance.repair import Repairer
from jobs.maintenance.retention import Retention
from providers.catalog import catalog
from quota import ledger
from storage.media import Media

UPLOADS = "/api/uploads"
EDIT = "/api/images/edit"
MODEL = "gpt-image-2"
OPENAI = {"User-Agent": "OpenAI/Python 3.54.0", "x-stainless-lang": "python"}
REPLICATE = {"User-Agent": "replicate-python/1.0.7"}


@dataclass
class House:
    """The app of one web process, and what lies below it."""

    client: FlaskClient
    services: Services
    database: Database

    def account(self) -> dict[str, str]:
        """The headers of a new account with credits."""
        with self.database.transaction() as connection:
            account = create_account(connection, new_id("name"))
            ledger.grant(connection, account.id, 10_000 * CREDIT)
            token = create_key(connection, account.id, name="k", scopes=("jobs:write", "jobs:read")).token
        return {"Authorization": f"Bearer {token}"}

    def sql(self, statement: str, **values: Any) -> list[Any]:
        with self.database.transaction() as connection:
            found = connection.execute(text(statement), values)
            return list(found.scalars()) if found.returns_rows else []

    @property
    def media(self) -> Media:
        return self.services.uploads.references.media

    def retention(self) -> Retention:
        self.sql("DELETE FROM marks")
        return Retention("wkr_x", self.database, self.media, self.services.store, 30, 30)

    def lies(self, key: str) -> bool:
        return self.services.store.exists(key)

    def with_uploads(self, **limits: Any) -> FlaskClient:
        """The app with other limits of uploads."""
        services = replace(self.services, uploads=replace(self.services.uploads, **limits))
        return create_app(Settings(_env_file=None), services).test_client()  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def house(shared_database: Database, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None,
        DARKROOM_VAR=tmp_path_factory.mktemp("uploads"),
        DATABASE_URL=shared_database.engine.url.render_as_string(hide_password=False),
        REDIS_URL=redis_url,
        DARKROOM_DECODERS=1,
    )
    services = replace(build(settings, {"OPENAI_API_KEY": "test-key"}), publish=lambda _signals: True)
    house = House(create_app(settings, services).test_client(), services, shared_database)
    yield house
    house.media.close()


@pytest.fixture
def mine(house: House) -> dict[str, str]:
    return house.account()


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(out, "JPEG", quality=70)
    return out.getvalue()


def up(house: House, headers: dict[str, str], data: bytes | None = None, **form: Any) -> dict[str, Any]:
    body = {"file": (io.BytesIO(image_bytes() if data is None else data), "cat.png"), **form}
    answer = house.client.post(UPLOADS, data=body, headers=headers)
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json or {})


def order(house: House, headers: dict[str, str], url: str = EDIT, **fields: Any) -> TestResponse:
    return house.client.post(url, json={"prompt": "a hat", "model": MODEL, **fields}, headers=headers)


def inputs(house: House, job_id: str) -> list[tuple[str, str, str]]:
    with house.database.autocommit() as connection:
        query = text("SELECT role, sha256, key FROM inputs WHERE job_id = :id ORDER BY position")
        return [tuple(row) for row in connection.execute(query, {"id": job_id})]


def codes(answer: TestResponse) -> dict[str, str]:
    return {each["field"]: each["code"] for each in (answer.json or {})["errors"]}


# ---------------------------------------------------------------- keeping


def test_the_same_bytes_are_the_same_upload_and_its_expiry_is_put_off(house: House, mine: dict[str, str]) -> None:
    data = image_bytes(40, 30)
    first = up(house, mine, data)
    assert (first["width"], first["height"], first["file_name"], first["source"]) == (40, 30, "cat.png", "file")
    assert first["sent"] == {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    house.sql("UPDATE uploads SET expires_at = now() - interval '1 day' WHERE id = :id", id=first["id"])
    assert house.client.get(f"{UPLOADS}/{first['id']}", headers=mine).json["code"] == "upload_gone"  # type: ignore[index]
    again = up(house, mine, data)
    assert again["id"] == first["id"] and again["expires_at"] > first["created_at"]
    assert up(house, house.account(), data)["id"] != first["id"]


def test_a_wished_expiry_is_heard_where_it_is_sooner(house: House, mine: dict[str, str]) -> None:
    lives = [
        house.sql("SELECT EXTRACT(EPOCH FROM expires_at - created_at) FROM uploads WHERE id = :id", id=each["id"])
        for each in (
            up(house, mine, image_bytes(20, 20), expires_s="600"),
            up(house, mine, image_bytes(20, 21), expires_s=str(90 * 86_400)),
        )
    ]
    assert [round(life) for [life] in lives] == [600, 30 * 86_400]


def test_bytes_that_were_lost_are_kept_again(house: House, mine: dict[str, str]) -> None:
    first = up(house, mine)
    [key] = house.sql("SELECT key FROM uploads WHERE id = :id", id=first["id"])
    house.services.store.delete(key)
    second = up(house, mine)
    assert second["id"] != first["id"]
    assert house.client.get(f"{UPLOADS}/{second['id']}/content", headers=mine).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"file": (io.BytesIO(b"no image"), "a.png")}, 415, "not_an_image"),
        ({"colour": "x"}, 422, "invalid_request"),
        ({"picture": (io.BytesIO(b"x"), "a.png")}, 422, "invalid_request"),
        ({"file": (io.BytesIO(image_bytes()), "a.png"), "expires_s": "soon"}, 422, "invalid_request"),
    ],
)
def test_what_is_no_upload_is_refused(
    house: House, mine: dict[str, str], body: dict[str, Any], status: int, code: str
) -> None:
    answer = house.client.post(UPLOADS, data=body, headers=mine, content_type="multipart/form-data")
    assert (answer.status_code, answer.json["code"]) == (status, code)  # type: ignore[index]


def test_every_fault_of_a_form_is_named(house: House, mine: dict[str, str]) -> None:
    answer = house.client.post(UPLOADS, data={"a": "1", "b": (io.BytesIO(b"x"), "b"), "expires_s": "1"}, headers=mine)
    assert codes(answer) == {
        "a": "not_supported",
        "b": "not_supported",
        "expires_s": "out_of_range",
        "file": "required",
    }


def test_an_account_keeps_so_many_and_so_much(house: House, mine: dict[str, str]) -> None:
    client = house.with_uploads(max_count=1)
    assert up(replace(house, client=client), mine)
    data = {"file": (io.BytesIO(image_bytes(65, 64)), "b.png")}
    answer = client.post(UPLOADS, data=data, headers=mine)
    assert (answer.status_code, answer.json["code"]) == (422, "too_many_uploads")
    assert up(replace(house, client=client), mine)["id"]  # the same one is no other
    small = house.with_uploads(max_bytes=100)
    answer = small.post(UPLOADS, data={"file": (io.BytesIO(jpeg()), "b.jpg")}, headers=house.account())
    assert answer.json["code"] == "too_many_uploads"
    assert not [key for key in house.services.store.iter_keys("uploads/") if not known(house, key)]


def known(house: House, key: str) -> bool:
    return bool(house.sql("SELECT 1 FROM uploads WHERE key = :key", key=key))


# ---------------------------------------------------------------- ordering


def test_an_upload_goes_wherever_an_image_goes(house: House, mine: dict[str, str]) -> None:
    data = jpeg()
    kept = up(house, mine, data)
    mask = up(house, mine, image_bytes(64, 64, "RGBA"))
    signed, plain = kept["signed_url"], kept["url"]
    file_url = f"http://localhost/v1/files/{kept['id']}"
    for images in ([kept["id"]], [{"upload_id": kept["id"]}], [signed], [plain], [file_url]):
        answer = order(house, mine, images=images, mask={"upload_id": mask["id"]})
        assert answer.status_code == 202, answer.text
        [image, masked] = inputs(house, answer.json["id"])  # type: ignore[index]
        # As it is kept: a JPEG that were encoded again would be another one.
        assert image[:2] == ("image", kept["sha256"]) and masked[0] == "mask"
        assert house.lies(image[2]) and image[2].startswith("inputs/")
    assert order(house, mine, upload_id=[kept["id"], kept["id"]]).status_code == 202
    assert order(house, mine, upload_id=kept["id"]).status_code == 202
    form = {"prompt": "a hat", "model": MODEL, "upload_id": kept["id"], "mask": mask["id"]}
    answer = house.client.post(EDIT, data=form, headers=mine, content_type="multipart/form-data")
    assert [row[0] for row in inputs(house, answer.json["id"])] == ["image", "mask"]  # type: ignore[index]
    assert house.client.get(f"{UPLOADS}/{kept['id']}", headers=mine).json["last_used_at"]  # type: ignore[index]


def test_a_queued_job_outlives_its_upload(house: House, mine: dict[str, str]) -> None:
    kept = up(house, mine)
    made = order(house, mine, images=[kept["id"]]).json
    [key] = house.sql("SELECT key FROM uploads WHERE id = :id", id=kept["id"])
    assert house.client.delete(f"{UPLOADS}/{kept['id']}", headers=mine).status_code == 200
    assert not house.lies(key)
    [(_, _, copy)] = inputs(house, made["id"])  # type: ignore[index]
    assert house.lies(copy)


def test_an_upload_that_is_not_there_is_named(house: House, mine: dict[str, str]) -> None:
    theirs, expired = up(house, house.account()), up(house, mine, image_bytes(30, 30))
    house.sql("UPDATE uploads SET expires_at = now() WHERE id = :id", id=expired["id"])
    answer = order(house, mine, images=[theirs["id"], expired["id"], "upl_x", {"upload": 1}, theirs["signed_url"]])
    assert answer.status_code == 422
    assert codes(answer) == {"images[3]": "wrong_type"}  # before anything is looked up
    answer = order(house, mine, images=[theirs["id"], expired["id"], "upl_x", theirs["signed_url"]])
    assert codes(answer) == {
        "images[0]": "upload_not_found",
        "images[1]": "upload_gone",
        "images[2]": "upload_not_found",
        "images[3]": "upload_not_found",
    }
    assert codes(order(house, mine, upload_id="job_1"))["upload_id"] == "wrong_type"


def test_another_accounts_upload_is_not_there(house: House, mine: dict[str, str]) -> None:
    path = f"{UPLOADS}/{up(house, house.account())['id']}"
    answers = [house.client.get(path, headers=mine), house.client.get(f"{path}/content", headers=mine)]
    answers.append(house.client.delete(path, headers=mine))
    assert [(each.status_code, each.json["code"]) for each in answers] == [(404, "upload_not_found")] * 3  # type: ignore[index]
    assert house.client.get(UPLOADS, headers=mine).json["data"] == []  # type: ignore[index]


def test_a_link_opens_one_upload_and_nothing_else(house: House, mine: dict[str, str]) -> None:
    kept, other = up(house, mine), up(house, mine, image_bytes(8, 8))
    link = kept["signed_url"]
    whole = house.client.get(link)
    assert (whole.status_code, whole.content_type, len(whole.data)) == (200, "image/png", kept["size_bytes"])
    assert whole.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert house.client.get(link, headers={"Range": "bytes=0-3"}).data == b"\x89PNG"
    assert house.client.get(link.replace(kept["id"], other["id"])).status_code == 403
    assert house.client.get(kept["url"]).status_code == 401
    # Open WebUI sends its key with every address; an ended link opens for its owner then.
    ended = link.replace("expires=", "expires=1")
    assert house.client.get(ended).status_code == 403
    assert house.client.get(ended, headers=mine).status_code == 200
    assert house.client.get(link, headers={"Authorization": "Basic eA=="}).status_code == 200


def test_a_list_has_pages(house: House, mine: dict[str, str]) -> None:
    made = [up(house, mine, image_bytes(8, edge))["id"] for edge in (8, 9, 10)]
    first = house.client.get(f"{UPLOADS}?limit=2", headers=mine).json
    second = house.client.get(f"{UPLOADS}?limit=2&cursor={first['next_cursor']}", headers=mine).json  # type: ignore[index]
    assert [each["id"] for each in (*first["data"], *second["data"])] == made[::-1]  # type: ignore[index]
    assert second["next_cursor"] is None  # type: ignore[index]


# ---------------------------------------------------------------- going


def test_retention_deletes_what_has_expired_and_nothing_else(house: House, mine: dict[str, str]) -> None:
    old, young = up(house, mine), up(house, mine, image_bytes(8, 8))
    keys = {each["id"]: house.sql("SELECT key FROM uploads WHERE id = :id", id=each["id"])[0] for each in (old, young)}
    house.sql("UPDATE uploads SET expires_at = now() - interval '1 s' WHERE id = :id", id=old["id"])
    assert house.retention().delete_expired()
    assert [house.lies(keys[each["id"]]) for each in (old, young)] == [False, True]
    assert house.client.get(f"{UPLOADS}/{old['id']}", headers=mine).status_code == 404
    assert house.client.get(f"{UPLOADS}/{young['id']}", headers=mine).status_code == 200


def test_orphans_are_blobs_of_no_upload(house: House, mine: dict[str, str]) -> None:
    kept = up(house, mine)
    [key] = house.sql("SELECT key FROM uploads WHERE id = :id", id=kept["id"])
    left = house.media.keep_upload(image_bytes(), prefix=f"uploads/{new_id('upl')}").key
    root = getattr(house.services.store, "root")  # noqa: B009 (the store's protocol has none)
    for each in (key, left):
        os.utime(root / each, (time.time() - 7200,) * 2)
    names = [each.split("/")[1] for each in (key, left)]
    assert orphans.find_orphans(house.database, house.services.store, "uploads", names).orphans == [left]
    with house.database.transaction() as connection:
        deletion.list_for_deletion(connection, [left])
    assert orphans.find_orphans(house.database, house.services.store, "uploads", names).orphans == []


def test_the_doctor_finds_an_upload_whose_bytes_are_missing(house: House, mine: dict[str, str]) -> None:
    kept = up(house, mine)
    [key] = house.sql("SELECT key FROM uploads WHERE id = :id", id=kept["id"])
    doctor = Doctor(house.database, catalog.load(), house.services.store, house.media)
    assert not [each for each in doctor.examine() if key in each.subject]
    house.services.store.delete(key)
    [found] = [each for each in doctor.examine() if key in each.subject]
    assert found.kind == "upload_missing"
    assert "LOST" in (Repairer(doctor).repair(found) or "")
    assert not [each for each in doctor.examine() if key in each.subject]


# ---------------------------------------------------------------- other services' files


def test_files_have_the_form_of_the_client(house: House, mine: dict[str, str]) -> None:
    data = image_bytes(12, 12)
    as_openai = house.client.post(
        "/v1/files", data={"file": (io.BytesIO(data), "a.png"), "purpose": "user_data"}, headers={**mine, **OPENAI}
    )
    assert as_openai.status_code == 200
    made = as_openai.json
    assert made["bytes"] == len(data) and made["purpose"] == "user_data" and type(made["created_at"]) is int  # type: ignore[index]
    as_replicate = house.client.post(
        "/v1/files",
        data={"content": (io.BytesIO(image_bytes(13, 13)), "b.png"), "metadata": (io.BytesIO(b'{"a": 1}'), "blob")},
        headers={**mine, "Authorization": mine["Authorization"].replace("Bearer", "Token")},
    )
    assert as_replicate.status_code == 201
    other = as_replicate.json
    assert other["metadata"] == {"a": 1} and other["created_at"].endswith("Z")  # type: ignore[index]
    path = f"/v1/files/{other['id']}"  # type: ignore[index]
    assert type(house.client.get(path, headers={**mine, **OPENAI}).json["created_at"]) is int  # type: ignore[index]
    assert house.client.get(path, headers=mine).json == other
    listed = house.client.get("/v1/files", headers=mine).json
    assert [each["id"] for each in listed["data"]] == [other["id"], made["id"]]  # type: ignore[index]
    assert listed["results"] == listed["data"]  # type: ignore[index]
    assert house.client.delete(path, headers={**mine, **REPLICATE}).status_code == 204
    gone = house.client.delete(path, headers={**mine, **OPENAI})
    assert gone.status_code == 404 and gone.headers["x-should-retry"] == "false"
    assert gone.json["error"].keys() == {"message", "type", "param", "code"}  # type: ignore[index]
    assert house.client.delete(f"/v1/files/{made['id']}", headers=mine).json["deleted"] is True  # type: ignore[index]


def test_a_file_that_is_none_is_refused_with_every_fault(house: House, mine: dict[str, str]) -> None:
    answer = house.client.post(
        "/v1/files",
        data={"purpose": "assistants", "expires_after[seconds]": "1", "x": (io.BytesIO(b"x"), "x")},
        headers={**mine, **OPENAI},
    )
    assert codes(answer) == {
        "purpose": "not_allowed",
        "expires_after.seconds": "out_of_range",
        "x": "not_supported",
        "file": "required",
    }
    data = {"content": (io.BytesIO(image_bytes()), "a.png"), "metadata": "[1]"}
    answer = house.client.post("/v1/files", data=data, headers=mine)
    assert (answer.content_type, codes(answer)) == ("application/problem+json", {"metadata": "wrong_type"})


def test_replicates_files_need_a_host_that_is_known(house: House, mine: dict[str, str]) -> None:
    data = {"content": (io.BytesIO(image_bytes(14, 14)), "a.png")}
    answer = house.client.post("/v1/files", data=data, headers={**mine, "Host": "evil.example"})
    assert (answer.status_code, answer.json["code"]) == (421, "host_not_allowed")  # type: ignore[index]
    assert house.client.get(UPLOADS, headers=mine).json["data"] == []  # type: ignore[index]


def initiated(house: House, headers: dict[str, str]) -> dict[str, str]:
    answer = house.client.post(
        "/fal/rest/storage/upload/initiate?storage_type=fal-cdn-v3",
        json={"content_type": "image/png", "file_name": "a cat & dog.png"},
        headers={
            "Authorization": headers["Authorization"].replace("Bearer", "Key"),
            "X-Fal-Object-Lifecycle": '{"expiration_duration_seconds": 3600}',
        },
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json or {})


def test_fals_link_takes_one_file_without_a_key(house: House, mine: dict[str, str]) -> None:
    links = initiated(house, mine)
    data = image_bytes(15, 15)
    assert house.client.get(links["file_url"]).status_code == 404  # nothing has come yet
    assert house.client.put(links["upload_url"], data=data).status_code == 200
    assert house.client.put(links["upload_url"], data=data).status_code == 200  # from a client that has not heard it
    other = house.client.put(links["upload_url"], data=image_bytes(16, 16))
    assert (other.status_code, other.headers["x-fal-error-type"]) == (409, "upload_link_used")
    assert other.content_type == "application/json" and other.json["message"] == other.json["detail"]  # type: ignore[index]
    assert house.client.get(links["file_url"]).content_type == "image/png"
    made = order(house, mine, images=[links["file_url"]])
    assert made.status_code == 202, made.text
    [kept] = house.client.get(UPLOADS, headers=mine).json["data"]  # type: ignore[index]
    assert (kept["source"], kept["file_name"]) == ("fal", "a cat & dog.png")
    [life] = house.sql("SELECT EXTRACT(EPOCH FROM expires_at - created_at) FROM uploads WHERE id = :i", i=kept["id"])
    assert round(life) == 3600
    # The same bytes by another link are the same upload, under a further address.
    again = initiated(house, mine)
    assert house.client.put(again["upload_url"], data=data).status_code == 200
    assert len(house.client.get(UPLOADS, headers=mine).json["data"]) == 1  # type: ignore[index]
    assert house.client.get(again["file_url"]).status_code == 200


def test_fals_link_is_for_what_it_was_made_for(house: House, mine: dict[str, str]) -> None:
    link = initiated(house, mine)["upload_url"]
    wrong = [
        link.replace("upl_", "upl_0")[:-1],
        link.replace("keep_s=3600", "keep_s=360000"),
        link.replace("dog", "cow"),
        link.replace("expires=", "expires=9"),
    ]
    assert [house.client.put(each, data=image_bytes()).status_code for each in wrong] == [403] * 4
    assert house.client.put(urlsplit(link).path, data=image_bytes()).status_code == 422
    assert house.client.put(link, data=b"x" * (10 * 2**20 + 1)).status_code == 413
    empty = house.client.put(link, data=b"")
    assert empty.status_code == 422 and empty.json["detail"][0]["loc"] == ["body", "body"]  # type: ignore[index]
    content = initiated(house, mine)["file_url"]
    assert house.client.put(content, data=image_bytes()).status_code == 405


# ---------------------------------------------------------------- rerun


def rerun(house: House, headers: dict[str, str], job_id: str, edits: Any = None, **more: str) -> TestResponse:
    body = {} if edits is None else {"json": edits}
    return house.client.post(f"/api/images/tasks/{job_id}/rerun", headers={**headers, **more}, **body)


def test_an_order_is_placed_again_as_it_was(house: House, mine: dict[str, str]) -> None:
    kept = up(house, mine, jpeg())
    asked = {"quality": "low", "priority": "low", "deadline_s": 777, "metadata": {"a": "b"}, "store": False, "n": 2}
    first = order(house, mine, images=[kept["id"]], size="1024x1536", **asked).json or {}
    again = rerun(house, mine, first["id"])
    assert again.status_code == 202, again.text
    second = again.json or {}
    assert second["parent_id"] == first["id"] and first["parent_id"] is None
    same = ("operation", "model", "n", "priority", "request", "metadata", "price", "fallback_models")
    assert {name: second[name] for name in same} == {name: first[name] for name in same}
    assert [row[:2] for row in inputs(house, second["id"])] == [row[:2] for row in inputs(house, first["id"])]
    assert {row[2] for row in inputs(house, second["id"])}.isdisjoint(row[2] for row in inputs(house, first["id"]))
    query = "SELECT keep_s IS NOT NULL AND start_deadline_at - created_at BETWEEN '776 s' AND '778 s' FROM jobs"
    assert house.sql(f"{query} WHERE id = :id", id=second["id"]) == [True]
    # Read as JSON of the database and as a record.
    path = f"/api/images/tasks/{second['id']}"
    assert house.client.get(path, headers=mine).json["parent_id"] == first["id"]  # type: ignore[index]
    children = house.client.get(f"/api/images/tasks?parent_id={first['id']}", headers=mine).json
    assert [each["id"] for each in children["data"]] == [second["id"]]  # type: ignore[index]


def test_an_edit_replaces_and_null_removes(house: House, mine: dict[str, str]) -> None:
    kept, other = up(house, mine), up(house, mine, image_bytes(32, 32))
    first = order(house, mine, images=[kept["id"]], size="1024x1536", quality="low", n=2).json or {}
    edits = {"prompt": "a blue hat", "num_images": 1, "aspect_ratio": "1:1", "quality": None, "upload_id": other["id"]}
    second = rerun(house, mine, first["id"], edits).json or {}
    assert (second["request"]["prompt"], second["n"]) == ("a blue hat", 1)
    assert first["request"]["size"] == "1024x1536" != second["request"]["size"]
    assert second["request"]["quality"] != "low"
    assert [row[1] for row in inputs(house, second["id"])] == [other["sha256"]]
    bare = rerun(house, mine, first["id"], {"images": None, "operation": "generate"}).json or {}
    assert bare["operation"] == "generate" and not inputs(house, bare["id"])
    wrong = rerun(house, mine, first["id"], {"colour": "red", "n": "x", "operation": 1})
    assert codes(wrong) == {"colour": "not_supported", "n": "wrong_type", "operation": "wrong_type"}
    assert rerun(house, mine, first["id"], {"operation": "paint"}).status_code == 404


def test_the_key_of_a_rerun_is_honoured_and_deleted_images_are_named(house: House, mine: dict[str, str]) -> None:
    first = order(house, mine, images=[up(house, mine)["id"]], mask=up(house, mine, image_bytes(64, 64, "RGBA"))["id"])
    job_id = (first.json or {})["id"]
    key = {"Idempotency-Key": "again"}
    second = rerun(house, mine, job_id, **key)
    assert second.status_code == 202, second.text
    replayed = rerun(house, mine, job_id, **key)
    assert (replayed.json, replayed.headers["Idempotent-Replayed"]) == (second.json, "true")
    assert rerun(house, mine, job_id, {"n": 2}, **key).status_code == 422
    house.sql("UPDATE inputs SET deleted_at = now() WHERE job_id = :id", id=job_id)
    refused = rerun(house, mine, job_id)
    assert (refused.status_code, refused.json["code"]) == (409, "inputs_gone")  # type: ignore[index]
    assert codes(refused) == {"images[0]": "input_gone", "mask": "input_gone"}
    assert rerun(house, mine, job_id, **key).headers["Idempotent-Replayed"] == "true"
    assert rerun(house, house.account(), job_id).status_code == 404
    assert rerun(house, mine, new_id("job")).status_code == 404


def test_an_image_of_a_task_is_known_by_its_address(house: House, mine: dict[str, str]) -> None:
    first = order(house, mine, images=[up(house, mine)["id"]]).json or {}
    [(_, sha256, key)] = inputs(house, first["id"])
    house.sql(
        "UPDATE jobs SET status = 'succeeded', money = 'settled', finished_at = now(), captured = 0, released = 0"
        " WHERE id = :id",
        id=first["id"],
    )
    house.sql(
        "INSERT INTO images (job_id, index, call_id, key, mime, width_px, height_px, size_bytes, sha256)"
        " VALUES (:id, 0, 'call_x', :key, 'image/png', 64, 64, 1, :sha256)",
        id=first["id"],
        key=key,
        sha256=sha256,
    )
    task = house.client.get(f"/api/images/tasks/{first['id']}", headers=mine).json or {}
    small = house.client.get(f"/api/images/tasks/{first['id']}/image/link?width=32", headers=mine).json or {}
    addresses = [task["images"][0]["url"], task["images"][0]["signed_url"], small["url"]]
    made = order(house, mine, images=addresses)
    assert made.status_code == 202, made.text
    query = "SELECT width_px FROM inputs WHERE job_id = :id ORDER BY position"
    assert house.sql(query, id=(made.json or {})["id"]) == [64, 64, 32]
    assert codes(order(house, house.account(), images=[addresses[1]])) == {"images[0]": "not_found"}
