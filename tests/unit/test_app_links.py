"""Absolute addresses: where their base comes from, how long signed ones live, and which of them are ours."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import flask
import pytest
from app_doubles import MINE, Edge, done_task, job_id, make_edge, make_task

from app.http import links
from app.http.links import HostNotAllowedError, Links, hosts_of
from app.http.signing import Signer
from core.settings import SettingsError

TASK = f"/api/images/tasks/{job_id(1)}"
SIGNER = Signer({"k": b"s"})


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost:8000", True),
        ("127.0.0.1", True),
        ("[::1]:8000", True),
        ("192.168.1.7:8000", True),
        ("IMAGES.example:99", True),
        ("other.example:8443", True),
        ("other.example", False),
        ("8.8.8.8", False),
        ("evil.example", False),
        ("images.example.evil.example", False),
        ("images.example@evil.example", False),
        ('images.example"><script>', False),
        ("", False),
    ],
)
def test_a_link_begins_with_what_was_asked_for_where_that_is_known(host: str, known: bool) -> None:
    found = Links(SIGNER, "", hosts_of("images.example, other.example:8443"))
    assert found.here("https", host).base == (f"https://{host}" if known else "")
    assert found.here("ftp", host).base == ""
    assert Links(SIGNER, "", hosts_of("*")).here("https", "evil.example").base == "https://evil.example"
    assert Links(SIGNER, "https://public.example/x").here("http", host).base == "https://public.example/x"
    assert [found.here(scheme, "localhost").base for scheme in ("https", "http", "https")] == [
        "https://localhost",
        "http://localhost",
        "https://localhost",
    ]


def test_hosts_that_clients_make_up_are_forgotten() -> None:
    found = Links(SIGNER)
    for number in range(2 * links.MAX_KNOWN_HOSTS):
        found.here("http", f"h{number}.example")
    assert len(found._known) <= links.MAX_KNOWN_HOSTS


def test_settings_that_are_no_hosts_stop_the_start() -> None:
    with pytest.raises(SettingsError, match=r"DARKROOM_ALLOWED_HOSTS: https://a\.example, b/c"):
        make_edge(DARKROOM_ALLOWED_HOSTS="https://a.example,b/c,fine.example")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://public.example/x/v1/files/1?a=b", "/v1/files/1?a=b"),
        ("http://localhost:8000/v1/files/1", "/v1/files/1"),
        ("https://images.example/a", "/a"),
        ("https://public.example/other", None),
        ("https://public.example/xyz/v1/files/1", None),
        ("https://public.example.evil.example/x/a", None),
        ("https://evil.example/v1/files/1", None),
        ("https://u@localhost/a", None),
        ("https://images.example", None),
        ("images.example/a", None),
    ],
)
def test_our_own_addresses_are_recognised(url: str, path: str | None) -> None:
    assert Links(SIGNER, "https://public.example/x", hosts_of("images.example")).path_of(url) == path


def test_native_answers_are_relative_for_a_host_that_is_not_known() -> None:
    edge = make_edge()
    edge.rows.add(done_task(1))
    ours = edge.client.get(TASK, headers=MINE).json["urls"]
    theirs = edge.client.get(TASK, headers={**MINE, "Host": "evil.example"}).json
    assert ours["rerun"] == f"http://localhost{TASK}/rerun"
    assert theirs["urls"]["rerun"] == f"{TASK}/rerun"
    assert theirs["images"][0]["signed_url"].startswith(f"{TASK}/image?")
    made = edge.client.post(
        "/api/images/generate", json={"prompt": "a fox"}, headers={**MINE, "Host": "10.0.0.5", "X-Forwarded-Host": "e"}
    )
    assert made.headers["Location"].startswith("http://10.0.0.5/api/images/tasks/")


def test_a_dialect_refuses_a_host_that_is_not_known_and_a_generator_keeps_its_links() -> None:
    edge = make_edge()
    with edge.app.test_request_context("/", base_url="http://evil.example"), pytest.raises(HostNotAllowedError):
        links.absolute("/x")
    with edge.app.test_request_context("/", base_url="https://localhost"):
        kept = links.here()
    assert kept.absolute("/x") == "https://localhost/x"  # after the request
    assert edge.client.get(kept.image_link(edge.rows.add(done_task(1)), 0)).status_code == 200


def test_links_live_as_long_as_the_setting_or_the_reader_says() -> None:
    signer = Signer({"k": b"s"}, life_s=600)
    assert {signer.expiry_s(now) for now in (1200.0, 1799.0)} == {2400}
    assert signer.expiry_s(1200.5, 5) == 1205
    edge = make_edge()
    edge.rows.add(done_task(1))
    usual = edge.client.get(TASK, headers=MINE)
    short = edge.client.get(f"{TASK}?expires_s=60", headers=MINE)
    ends = [_ends(each.json["images"][0]["signed_url"]) for each in (usual, short)]
    assert ends[0] % 3600 == 0 and ends[0] - ends[1] >= 3600 - 60
    assert usual.headers["ETag"] != short.headers["ETag"]  # or a 304 would outlive the links
    assert edge.client.get(f"{TASK}?expires_s=60", headers={**MINE, "If-None-Match": usual.headers["ETag"]}).data
    link = edge.client.get(f"{TASK}/image/link?expires_s=60", headers=MINE).json
    assert edge.client.get(link["url"]).status_code == 200
    for wrong in ("0", "604801", "x"):
        assert edge.client.get(f"{TASK}?expires_s={wrong}", headers=MINE).status_code == 422
        assert edge.client.get(f"{TASK}/image/link?expires_s={wrong}", headers=MINE).status_code == 422


def _ends(url: str) -> int:
    return int(parse_qs(urlsplit(url).query)["expires"][0])


def test_a_link_and_a_key_are_each_enough() -> None:
    edge = make_edge()
    edge.rows.add(done_task(1))
    link = edge.client.get(TASK, headers=MINE).json["images"][0]["signed_url"]
    altered = link[:-1] + ("0" if link[-1] != "0" else "1")
    assert edge.client.get(link, headers={"Authorization": "Bearer nonsense"}).status_code == 200
    assert edge.client.get(altered, headers=MINE).status_code == 200
    assert edge.client.get(altered, headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert edge.client.get(altered).status_code == 403


def test_reading_a_task_in_a_list_and_alone_gives_the_same_addresses() -> None:
    edge: Edge = make_edge(DARKROOM_PUBLIC_URL="https://public.example/")
    edge.rows.add(make_task(1))
    with edge.app.test_request_context("/", base_url="http://evil.example"):
        assert links.base() == "https://public.example"
        assert flask.has_request_context()
    alone = edge.client.get(TASK, headers=MINE).json
    [listed] = edge.client.get("/api/images/tasks", headers=MINE).json["data"]
    assert alone["urls"] == listed["urls"] and alone["urls"]["self"] == f"https://public.example{TASK}"


def test_the_holder_of_a_link_cannot_have_another_image_made_of_it() -> None:
    edge = make_edge()
    edge.rows.add(done_task(1))
    link = edge.client.get(TASK, headers=MINE).json["images"][0]["signed_url"]
    assert [edge.client.get(f"{link}{more}").status_code for more in ("", "&width=10", "&format=webp")] == [
        200,
        403,
        403,
    ]
    assert edge.variants == []
