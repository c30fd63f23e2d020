"""Serving images, and the links that need no key."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from app_doubles import MINE, NOW, PNG, Edge, done_task, job_id, make_edge, make_image, make_task

from app.http.signing import SignatureExpiredError, SignatureInvalidError, Signer

IMAGE = f"/api/images/tasks/{job_id(1)}/image"
ETAG = f'"{"ab" * 32}"'


@pytest.fixture
def edge() -> Edge:
    found = make_edge()
    found.rows.add(done_task())
    return found


def _get(edge: Edge, query: str = "", **headers: str) -> Any:
    return edge.client.get(IMAGE + query, headers={**MINE, **headers})


def test_an_image_is_served_so_that_nothing_in_it_can_run(edge: Edge) -> None:
    answer = _get(edge)
    assert (answer.status_code, answer.data, answer.content_type) == (200, PNG, "image/png")
    assert answer.headers["ETag"] == ETAG
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Content-Disposition"] == f'inline; filename="{job_id(1)}-0.png"'
    assert "private" in answer.headers["Cache-Control"]
    assert "immutable" in answer.headers["Cache-Control"]
    download = _get(edge, "?download=1").headers["Content-Disposition"]
    assert download.startswith("attachment; ")
    answer.close()
    assert edge.store.opened[0].closed


def test_a_row_of_an_unknown_kind_is_served_as_bytes_alone(edge: Edge) -> None:
    edge.rows.add(replace(done_task(), images=[make_image(mime="text/html")]))
    assert _get(edge).content_type == "application/octet-stream"


def test_head_tells_the_size_and_sends_nothing(edge: Edge) -> None:
    answer = edge.client.head(IMAGE, headers=MINE)
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(PNG))


def test_an_unchanged_image_is_304_without_opening_it(edge: Edge) -> None:
    answer = _get(edge, **{"If-None-Match": ETAG})
    assert (answer.status_code, answer.data) == (304, b"")
    assert edge.store.opened == []


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-9", 0, 9),
        ("bytes=200-", 200, 207),
        ("bytes=-8", 200, 207),
        ("bytes=5-9999", 5, 207),
        ("bytes=-9999", 0, 207),
    ],
)
def test_one_range_is_served(edge: Edge, asked: str, first: int, last: int) -> None:
    answer = _get(edge, Range=asked)
    assert (answer.status_code, answer.data) == (206, PNG[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(PNG)}"
    assert answer.headers["Content-Length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", ["bytes=208-", "bytes=9999-10000", "bytes=-0"])
def test_a_range_beyond_the_end_is_416(edge: Edge, asked: str) -> None:
    answer = _get(edge, Range=asked)
    assert (answer.status_code, answer.json["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(PNG)}"


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,4-5", "items=0-1", "bytes=9-5", "bytes=-", "bytes=a-b", "bytes= 0-1", "0-1"]
)
def test_anything_but_one_plain_range_is_ignored(edge: Edge, asked: str) -> None:
    assert _get(edge, Range=asked).status_code == 200


def test_a_range_holds_only_for_the_image_it_was_asked_of(edge: Edge) -> None:
    assert _get(edge, Range="bytes=0-1", **{"If-Range": ETAG}).status_code == 206
    assert _get(edge, Range="bytes=0-1", **{"If-Range": '"other"'}).status_code == 200


def test_variants_are_asked_for_by_size_and_format(edge: Edge) -> None:
    answer = _get(edge, "?width=10&format=webp")
    assert (answer.data, answer.content_type) == (b"variant", "image/webp")
    assert answer.headers["ETag"] == f'"{"cd" * 32}"'
    assert edge.variants == [("k/0", {"width": 16, "height": None, "format": "webp"})]
    for bad in ("width=0", "height=99999", "format=svg", "index=-1", "index=a", "size=1"):
        assert _get(edge, f"?{bad}").status_code == 422
    assert len(edge.variants) == 1


def test_an_image_not_made_yet_missing_or_deleted(edge: Edge) -> None:
    edge.rows.add(make_task(1))
    answer = _get(edge)
    assert (answer.status_code, answer.json["code"]) == (409, "image_not_ready")
    assert int(answer.headers["Retry-After"]) > 0
    edge.rows.add(done_task())
    assert _get(edge, "?index=3").status_code == 404
    edge.rows.add(replace(done_task(), images=[make_image(deleted_at=NOW)]))
    assert _get(edge).status_code == 410
    assert edge.client.get(f"/api/images/tasks/{job_id(1)}", headers=MINE).json["images"][0]["signed_url"] is None


def test_a_blob_that_vanished_is_gone_and_no_accident(edge: Edge) -> None:
    edge.store.blobs.clear()
    assert _get(edge).status_code == 410


def test_an_image_that_lies_elsewhere_is_pointed_to_for_minutes(edge: Edge) -> None:
    edge.store.links = "https://bucket.example"
    answer = _get(edge, "?download=1", Range="bytes=0-9")
    assert (answer.status_code, answer.data) == (302, b"")
    assert answer.headers["Cache-Control"] == "no-store"
    place = urlsplit(answer.headers["Location"])
    assert (place.netloc, place.path) == ("bucket.example", "/k/0")
    said = {"type": ["image/png"], "as": [f'attachment; filename="{job_id(1)}-0.png"']}
    assert parse_qs(place.query) == said
    assert edge.store.opened == []
    assert edge.client.get(_link(edge)).status_code == 302


def test_only_the_image_itself_lies_elsewhere(edge: Edge) -> None:
    edge.store.links = "https://bucket.example"
    assert _get(edge, "?width=10").data == b"variant"
    assert _get(edge, **{"If-None-Match": ETAG}).status_code == 304
    assert edge.client.head(IMAGE, headers=MINE).headers["Content-Length"] == str(len(PNG))
    edge.rows.add(replace(done_task(), images=[make_image(mime="text/html")]))
    assert parse_qs(urlsplit(_get(edge).headers["Location"]).query)["type"] == ["application/octet-stream"]


# ---------------------------------------------------------------- signed links


def _link(edge: Edge) -> str:
    url = edge.client.get(f"/api/images/tasks/{job_id(1)}", headers=MINE).json["images"][0]["signed_url"]
    assert url.startswith(IMAGE)
    return str(url)


def test_a_signed_link_needs_no_key_and_may_be_embedded(edge: Edge) -> None:
    answer = edge.client.get(_link(edge))
    assert (answer.status_code, answer.data) == (200, PNG)
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert edge.client.head(_link(edge)).status_code == 200


def test_a_signed_link_opens_nothing_else(edge: Edge) -> None:
    edge.rows.add(done_task(2))
    edge.rows.add(replace(done_task(), images=[make_image(0), make_image(1)]))
    link = urlsplit(_link(edge))
    right = {name: values[0] for name, values in parse_qs(link.query).items()}
    changes = [
        {"index": "1"},
        {"expires": str(int(right["expires"]) + 3600)},
        {"account": "acct_b"},
        {"kid": "k2"},
        {"signature": right["signature"][:-1] + "x"},
        {"signature": ""},
        {"signature": "ä" * 64},
        {"expires": "never"},
    ]
    for change in changes:
        answer = edge.client.get(f"{IMAGE}?{urlencode({**right, **change})}")
        assert (answer.status_code, answer.json["code"]) == (403, "signature_invalid"), change
    other = f"/api/images/tasks/{job_id(2)}"
    assert edge.client.get(f"{other}/image?{link.query}").status_code == 403
    for path in (other, f"/api/images/tasks/{job_id(1)}", "/api/quota"):
        assert edge.client.get(f"{path}?{link.query}").status_code == 401


def test_an_expired_link_says_so(edge: Edge) -> None:
    query = edge.signer.link(IMAGE, account_id="acct_a", index=0, now_s=time.time() - 7300)
    answer = edge.client.get(f"{IMAGE}?{query}")
    assert (answer.status_code, answer.json["code"]) == (403, "signature_expired")


def test_links_live_one_to_two_hours_and_stay_the_same_within_one() -> None:
    signer = Signer({"k": b"x"})
    early, late = (signer.link("/p", account_id="a", index=0, now_s=now) for now in (7200.0, 10799.0))
    assert early == late
    assert signer.expiry_s(7200) == 14_400
    assert signer.link("/p", account_id="a", index=0, now_s=10_800) != late


def test_a_link_stays_good_while_its_key_is_among_the_keys() -> None:
    old, new = {"old": b"o" * 32}, {"new": b"n" * 32}
    query = {k: v[0] for k, v in parse_qs(Signer(old).link("/p", account_id="a", index=0)).items()}
    asked = {**query, "index": 0, "expires": int(query["expires"]), "account_id": query.pop("account")}
    asked.pop("account")
    rotated = Signer({**new, **old})
    rotated.check("/p", **asked)
    assert "kid=new" in rotated.link("/p", account_id="a", index=0)
    with pytest.raises(SignatureInvalidError):
        Signer(new).check("/p", **asked)
    assert "nnn" not in repr(rotated)


def test_a_wrong_signature_is_wrong_before_it_is_expired() -> None:
    signer = Signer({"k": b"x"})
    with pytest.raises(SignatureInvalidError):
        signer.check("/p", account_id="a", index=0, expires=1, kid="k", signature="00")
    right = parse_qs(signer.link("/p", account_id="a", index=0, now_s=0))["signature"][0]
    with pytest.raises(SignatureExpiredError):
        signer.check("/p", account_id="a", index=0, expires=7200, kid="k", signature=right)
